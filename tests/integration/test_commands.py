"""The commands as a user types them, on real files, in a folder of their own."""

import atexit
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from photon.questions.record import read_records
from photon.weights.manifest import write_manifest
from tests.small import SMALL, SMALL_PHANTOMS

ROOT = Path(__file__).resolve().parents[2]
PHANTOMS = (*SMALL, *SMALL_PHANTOMS, "dataset.root=phantoms", "dataset.store=store")
QUICK = ("logger=csv", "evaluation.max_new_tokens=3")
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if k not in ("HYDRA_FULL_ERROR", "WANDB_API_KEY")},
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
}
NOISE = ("litlogger", "GPU available", "treespec", "Writing model shards", "Using default token",
         "weights_only", "overridden", "logging interval", "wandb", "v_num")  # fmt: skip


@cache
def server() -> subprocess.Popen:
    """server.py, started once for all tests of a process: what it imports takes seconds."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    )
    atexit.register(process.stdin.close)
    assert process.stdout.readline() == "ready\n"
    return process


class Commands:
    """Runs commands in `folder`; see server.py."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._count = 0
        self._server = server()

    def __call__(self, *argv: str, ranks: list[dict] | None = None) -> subprocess.CompletedProcess:
        """ranks: environments of as many processes at once; the first one's output is returned."""
        self._count += 1
        out, err = (self.folder / f"{self._count}.{name}" for name in ("out", "err"))
        job = {"argv": list(argv), "cwd": str(self.folder), "out": str(out), "err": str(err)}
        if ranks is not None:
            job["ranks"] = ranks
            out, err = (path.with_name(f"{path.name}.0") for path in (out, err))
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return subprocess.CompletedProcess(argv, code, out.read_text(), err.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def call(folder):
    return Commands(folder)


def fresh(folder: Path, *argv: str) -> subprocess.CompletedProcess:
    """A command in a new interpreter."""
    return subprocess.run(
        [sys.executable, str(ROOT / argv[0]), *argv[1:]],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )


TRAIN = ("train.py", "name=run", "trainer.max_steps=5", "evaluation.max_new_tokens=3", *PHANTOMS)


@pytest.fixture(scope="module")
def trained(folder) -> subprocess.CompletedProcess:
    """`outputs/run`: both phases, export and evaluation, with the loggers of the demo."""
    return fresh(folder, *TRAIN)


@pytest.fixture(scope="module")
def run(folder, trained) -> Path:
    assert trained.returncode == 0, trained.stderr[-3000:]
    return folder / "outputs" / "run"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def digest(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# The main job ------------------------------------------------------------------------------------


def test_training_tells_its_phases_and_nothing_else(trained, run) -> None:
    said = trained.stdout
    marks = [
        "phantoms: 8 volumes",
        "phase align: 1 step",
        "phase finetune: 5 steps",
        "export: ",
        "evaluation: 16 questions under 5 conditions",
        "overall accuracy",
        "results: ",
    ]
    places = [said.find(mark) for mark in marks]
    assert -1 not in places and places == sorted(places), said
    for word in NOISE:
        assert word not in said + trained.stderr, trained.stderr


def test_everything_is_there(run) -> None:
    for name in (
        "table.md",
        "predictions.jsonl",
        "retention.parquet",
        "metrics.csv",
        "run.json",
        ".hydra/config.yaml",
        "checkpoints/last.ckpt",
        "align/checkpoints/last.ckpt",
        "figures/retention.png",
        "figures/accuracy.png",
        "figures/subtasks.png",
        "figures/overlay.png",
        "export/photon.json",
        "export/model.safetensors",
    ):
        assert (run / name).stat().st_size > 0, name
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 <= metrics["overall"]["accuracy"] <= 1
    assert sum(group["n"] for group in metrics["subtasks"].values()) == 16
    assert all("accuracy" in group for group in metrics["subtasks"].values())
    kept = metrics["retention"]
    assert 0 < kept["keep_ratio"] <= 1 and kept["visual_tokens"] == 16
    names = ("constant", "question_only", "shuffled_volume", "no_pruning", "random_keep")
    assert all("accuracy" in metrics["controls"][name] for name in names)
    assert metrics["controls"]["no_pruning"]["retention"]["keep_ratio"] == 1
    assert metrics["controls"]["random_keep"]["retention"]["kept_tokens"] == kept["kept_tokens"]
    assert {"commit", "config_hash", "data_hash", "versions"} <= metrics["provenance"].keys()
    table = (run / "table.md").read_text()
    for title in ("Photon", "no pruning", "random keep", "question only", "constant"):
        assert title in table
    assert len(lines(run / "predictions.jsonl")) == 16
    assert pd.read_parquet(run / "retention.parquet")["stage"].unique().tolist() == [
        "off", "soft", "hard"]  # fmt: skip


def test_the_export_loads_in_stock_transformers(run) -> None:
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        run / "export", output_loading_info=True
    )
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert set(info["missing_keys"]) <= {"lm_head.weight"}  # tied
    trained = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    own = model.state_dict()
    for name, value in trained.items():
        if name.startswith("model.backbone."):
            assert torch.equal(own[name.removeprefix("model.backbone.")], value), name
    tokenizer = AutoTokenizer.from_pretrained(run / "export")
    assert len(tokenizer("How large is the liver?").input_ids) > 2


def test_a_second_call_does_not_train_again(folder, run) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    again = fresh(folder, *TRAIN)
    assert again.returncode == 0 and "is finished" in again.stdout and "phase" not in again.stdout
    changed = {p.relative_to(run) for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert all(str(p).startswith((".hydra", ".lock")) or p.suffix == ".log" for p in changed)


def test_another_configuration_is_refused_and_loses_nothing(call, run) -> None:
    before = digest(run)
    wrong = call(*TRAIN, "pruner.tau=0.4")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: ") and "pruner.tau: 0.2 -> 0.4" in wrong.stderr
    after = digest(run)
    kept = {k: v for k, v in before.items() if not k.startswith((".hydra", ".lock"))}
    assert kept.items() <= after.items()


def test_the_notebook_draws_this_run(run, monkeypatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    path = ROOT / "notebooks" / "retention_curves.ipynb"
    monkeypatch.setenv("PHOTON_RUN", str(run))
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    pictures = [o for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get(
        "data", {})]  # fmt: skip
    assert len(pictures) == 3


# eval.py -----------------------------------------------------------------------------------------

DATA = [key for key in PHANTOMS if key.startswith("dataset.")]


def test_evaluation_continues_where_it_was_cut_off(call, folder, run) -> None:
    command = (
        "eval.py",
        "name=eval",
        f"ckpt={run / 'export'}",
        *DATA,
        "evaluation.max_new_tokens=3",
    )
    first = call(*command)
    assert first.returncode == 0, first.stderr
    out = folder / "outputs" / "eval"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["overall"] == json.loads((run / "metrics.json").read_text())["overall"]
    whole = lines(out / "predictions.jsonl")
    # As a kill leaves it: an odd number of answers, half a line, no report, a control not begun.
    text = (out / "predictions.jsonl").read_text().splitlines(keepends=True)
    (out / "predictions.jsonl").write_text("".join(text[:5]) + text[5][:40])
    (out / "controls" / "question_only.jsonl").unlink()
    for name in ("metrics.json", "status.json", "table.md"):
        (out / name).unlink()
    second = call(*command)
    assert second.returncode == 0, second.stderr
    assert "incomplete" in second.stderr
    assert json.loads((out / "metrics.json").read_text()) == metrics
    answers = {row["id"]: row["prediction"] for row in lines(out / "predictions.jsonl")}
    assert answers == {row["id"]: row["prediction"] for row in whole}
    third = call(*command)
    assert third.returncode == 0 and "is finished" in third.stdout


def test_other_weights_under_the_same_path_are_not_mixed(call, folder, run) -> None:
    copy = folder / "copy"
    shutil.copytree(run / "export", copy)
    command = ("eval.py", "name=copied", f"ckpt={copy}", *DATA, "evaluation.controls=[]",
               "evaluation.max_new_tokens=1")  # fmt: skip
    assert call(*command).returncode == 0
    spec = json.loads((copy / "photon.json").read_text())
    (copy / "photon.json").write_text(json.dumps({**spec, "provenance": {"name": "other"}}))
    write_manifest(copy)
    wrong = call(*command)
    assert wrong.returncode == 1 and "content" in wrong.stderr


def test_any_file_of_answers_is_scored(call, folder, run) -> None:
    records = read_records(folder / "phantoms" / "test.jsonl", strict=True)[0]
    answers = "".join(json.dumps({"id": r.id, "response": r.answer}) + "\n" for r in records)
    (folder / "answers.jsonl").write_text(answers)
    done = call("eval.py", "name=scored", "predictions=answers.jsonl", *DATA)
    assert done.returncode == 0, done.stderr
    out = folder / "outputs" / "scored"
    assert json.loads((out / "metrics.json").read_text())["overall"]["accuracy"] == 1
    assert (out / "figures" / "accuracy.png").is_file()


# Sweeps ------------------------------------------------------------------------------------------


def test_sweeps_run_each_point_once(call, folder, run) -> None:
    sweep = ("experiment=demo", "trainer.max_steps=2", "evaluation.controls=[]", *QUICK, *PHANTOMS)
    done = call("train.py", "-m", *sweep, "pruner.tau=0.1,0.5")
    assert done.returncode == 0, done.stderr
    reports = sorted((folder / "outputs" / "sweeps" / "demo").rglob("metrics.json"))
    assert len(reports) == 2
    taus = [json.loads((p.parent / "run.json").read_text())["pruner"]["tau"] for p in reports]
    assert sorted(taus) == [0.1, 0.5]
    sweep_folder = folder / "outputs" / "sweeps" / "demo"
    table = (sweep_folder / "table.md").read_text()
    assert (
        "tau=0.1" in table and "tau=0.5" in table and list((sweep_folder / "figures").glob("*.png"))
    )
    assert f"sweep: {Path('outputs/sweeps/demo/table.md')}" in done.stdout
    times = [p.stat().st_mtime_ns for p in reports]
    again = call("train.py", "-m", *sweep, "pruner.tau=0.1,0.5")
    assert again.returncode == 0 and again.stdout.count("is finished") == 2
    assert [p.stat().st_mtime_ns for p in reports] == times
    # The ablation's points have the same names: only its third value is new.
    ablation = call("train.py", *sweep, "ablation=tau")
    assert ablation.returncode == 0, ablation.stderr
    assert ablation.stdout.count("is finished") == 2
    assert len(list((folder / "outputs" / "sweeps" / "demo").rglob("metrics.json"))) == 3


# Real CT -----------------------------------------------------------------------------------------


def test_a_question_about_a_real_scan(call, folder, run, shared_data) -> None:
    scan = shared_data / "ct" / "abdomen_ct.nii.gz"
    done = call(
        "-m",
        "photon",
        "ask",
        str(scan),
        "How large is the liver?",
        "--model",
        str(run / "export"),
        "--store",
        "store",
        "--max-new-tokens",
        "3",
    )
    assert done.returncode == 0, done.stderr
    assert " of 16 visual tokens" in done.stdout and " ms" in done.stdout
    picture = folder / "abdomen_ct_kept.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
    trained, air = done.stderr.strip().splitlines()
    assert "trained on generated phantoms only" in trained and "air or padding" in air


def test_real_ct_trains_and_is_evaluated(call, folder, run, shared_data) -> None:
    files = (f"dataset.ct={shared_data}/ct/abdomen_ct.nii.gz",
             f"dataset.labels={shared_data}/ct/abdomen_labels.nii.gz")  # fmt: skip
    done = call("train.py", "experiment=real_ct", "trainer.max_steps=4", *QUICK, *SMALL, *files,
                "dataset.root=ct", "dataset.store=store")  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = folder / "outputs" / "real_ct"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["overall"]["n"] == len(lines(out / "predictions.jsonl")) >= 10
    assert set(metrics["controls"]) == {"no_pruning", "random_keep", "question_only", "constant"}
    assert metrics["coverage"]["n"] > 5 and (out / "figures" / "overlay.png").is_file()


# Bad input ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad(folder, run) -> dict[str, Path]:
    """Scans that cannot be read, by what is wrong with them."""
    good = folder / "phantoms" / "ct" / "train_00000.nii.gz"
    image = nib.load(good)
    array = np.asarray(image.dataobj).astype(np.float32)
    out = folder / "bad"
    out.mkdir()
    packed = out / "packed.nii.gz"
    nib.save(nib.Nifti1Image(array, image.affine), packed)
    data = packed.read_bytes()
    (out / "truncated.nii.gz").write_bytes(data[: len(data) // 2])
    (out / "crc.nii.gz").write_bytes(data[:-6] + bytes([data[-6] ^ 0xFF]) + data[-5:])
    nib.save(nib.Nifti1Image(np.stack([array, array], -1), image.affine), out / "four.nii.gz")
    array[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(array, image.affine), out / "nan.nii.gz")
    packed.unlink()
    names = ("truncated", "crc", "four", "nan", "missing")
    return {name: out / f"{name}.nii.gz" for name in names}


SAYS = {"truncated": "truncated", "crc": "damaged", "four": "4 dimensions", "nan": "NaN",
        "missing": "no such file"}  # fmt: skip


@pytest.mark.parametrize("fault", SAYS)
def test_a_bad_scan_is_one_message(call, run, bad, fault) -> None:
    done = call("-m", "photon", "ask", str(bad[fault]), "Is there a liver?",
                "--model", str(run / "export"), "--store", "store")  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and bad[fault].name in line
    assert SAYS[fault].lower() in line.lower(), line


def test_bad_scans_among_many_are_skipped_and_counted(call, folder, run, bad) -> None:
    rows = lines(folder / "phantoms" / "train.jsonl")
    good = sorted({row["videos"][0] for row in rows})
    swap = dict(zip(good, bad.values(), strict=False))  # five of six volumes
    mixed = [{**r, "videos": [f"../{swap[r['videos'][0]].relative_to(folder)}"], "labels": None}
             if r["videos"][0] in swap else r for r in rows]  # fmt: skip
    path = folder / "phantoms" / "mixed.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in mixed))
    turned = path.with_name("turned.jsonl")
    turned.write_text("".join(json.dumps(r) + "\n" for r in mixed[::-1]))
    done = call("train.py", "experiment=demo", "name=mixed", "dataset=records", *SMALL, *QUICK,
                "dataset.train=phantoms/mixed.jsonl", "dataset.test=phantoms/turned.jsonl",
                "dataset.store=bad_store", "~phases.align", "trainer.max_steps=2")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "40 of 48 records left out with 5 volumes that cannot be read" in done.stdout
    listed = lines(folder / "bad_store" / "bad_cases.jsonl")
    assert {Path(row["source"]).name for row in listed} == {p.name for p in bad.values()}
    assert len(lines(folder / "outputs" / "mixed" / "predictions.jsonl")) == 8
    assert "shuffled_volume is left out" in done.stderr


def test_only_bad_scans_are_an_error(call, folder, run, bad) -> None:
    rows = lines(folder / "phantoms" / "train.jsonl")
    for row, name in zip(rows, ("only_bad.jsonl", "bad_too.jsonl"), strict=False):
        bad_row = {**row, "videos": ["bad/nan.nii.gz"], "labels": None}
        (folder / name).write_text(json.dumps(bad_row) + "\n")
    done = call(
        "train.py",
        "experiment=demo",
        "name=only_bad",
        "dataset=records",
        *SMALL,
        *QUICK,
        "dataset.train=only_bad.jsonl",
        "dataset.test=bad_too.jsonl",
        "dataset.store=bad_store",
        "~phases.align",
    )
    assert done.returncode == 1
    assert "nan.nii.gz" in done.stderr and "bad_cases.jsonl" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text.replace('{"', "{", 1), "questions.jsonl:1"),
        (lambda text: text + '{"messages": [{"role": "user"}], "videos": ["a.nii.gz"]}\n', ":9"),
        (lambda text: text + '{"messages": [{"role": "user", "content": "<video> "}, {"role": '
            '"assistant", "content": "no"}], "videos": ["a.nii.gz"]}\n', ":9"),
    ],
    ids=["json", "content", "question"],
)  # fmt: skip
def test_a_bad_line_is_one_message(call, folder, run, spoil, says) -> None:
    text = "".join((folder / "phantoms" / "test.jsonl").read_text().splitlines(True)[:8])
    (folder / "phantoms" / "questions.jsonl").write_text(spoil(text))
    done = call("train.py", "experiment=demo", "name=bad_line", "dataset=records", *SMALL, *QUICK,
                "dataset.train=phantoms/questions.jsonl", "dataset.test=phantoms/questions.jsonl",
                "dataset.store=store", "~phases.align")  # fmt: skip
    assert done.returncode == 1
    (line,) = [x for x in done.stderr.strip().splitlines() if x.startswith("error: ")]
    assert "questions.jsonl" in done.stderr and says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["train.py", "pruner.taau=0.3"], "did you mean 'pruner.tau'"),
        (["train.py", "experiment=dmo"], "did you mean 'demo'"),
        (["train.py", "task.finetune.band.on=medium"], "task.finetune.band.on"),
        (["train.py", "evaluation.controls=[shuffled]"], "evaluation.controls"),
        (["train.py", "dataset=ct"], "dataset.ct, dataset.labels"),
        (["train.py", "dataset=ct", "dataset.ct=a.nii.gz", "dataset.labels=b.nii.gz"], "a.nii.gz"),
        (["eval.py"], "ckpt=FOLDER"),
        (["eval.py", "ckpt=nowhere"], "nowhere"),
        (["eval.py", "predictions=nowhere.jsonl"], "nowhere.jsonl"),
        (["-m", "photon", "ask", "ct.nii.gz", " "], "the question is empty"),
        (["-m", "photon", "ask", "ct.nii.gz", "Liver?", "--model", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_on_the_command_line_is_one_message(call, argv, says) -> None:
    done = call(*argv, *(["name=mistake"] if argv[0] != "-m" else []))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and says in done.stderr, done.stderr
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize("flag", ["--help", "--cfg job"])
@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_help_answers(call, script, flag) -> None:
    done = call(script, *flag.split())
    assert done.returncode == 0 and not done.stderr
    assert ("Groups and their options" in done.stdout) == (flag == "--help")
    assert ("questions_per_volume:" in done.stdout) == (flag == "--cfg job")
