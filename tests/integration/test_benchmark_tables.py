"""eval.py on a benchmark: several processes, the paper's table, and files of answers as seeds."""

import json
import subprocess
from pathlib import Path

import pytest

from photon.phantoms.phantom import make_phantom
from photon.weights.checkpoints import save_export
from tests.benchmarks import published
from tests.evaluation.test_evaluator import model  # noqa: F401  (a fixture)
from tests.integration.test_commands import Commands, lines

TRAIN, TEST = [1], [5, 6, 7, 8]
WORDS = ("dataset=rad3d", "dataset.reader.root=data", "dataset.store=store")
QUICK = ("ckpt=export", "evaluation.max_new_tokens=2", "evaluation.controls=[question_only]")


class Ranks(Commands):
    """Commands with a rank, as torchrun would start them."""

    def rank(self, rank: int, world: int, *argv: str) -> subprocess.CompletedProcess:
        out, err = (self.folder / f"rank{rank}.{name}" for name in ("out", "err"))
        job = {
            "argv": list(argv), "cwd": str(self.folder), "out": str(out), "err": str(err),
            "env": {"RANK": str(rank), "WORLD_SIZE": str(world)},
        }  # fmt: skip
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return subprocess.CompletedProcess(argv, code, out.read_text(), err.read_text())


@pytest.fixture(scope="module")
def work(model, tmp_path_factory):  # noqa: F811
    """An untrained export, and four scans of 3D-RAD's test split in its published layout."""
    folder = tmp_path_factory.mktemp("tables")
    published.rad3d(folder / "data", {"train": TRAIN, "test": TEST})
    for number in TEST:
        phantom = make_phantom(number)
        path = published.ct_rate_scan(folder / "data", f"valid_{number}_a_1.nii.gz")
        published.save_scan(path, phantom.array.transpose(2, 1, 0), phantom.affine)
    save_export(model, folder / "export")
    return folder, Ranks(folder)


@pytest.fixture(scope="module")
def one(work) -> Path:
    """The run of one process."""
    folder, call = work
    done = call("eval.py", *WORDS, *QUICK, "name=one")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Table 1 of the paper" in done.stdout and "benchmark.md" in done.stdout
    return folder / "outputs" / "one"


def test_the_papers_table_is_written(one) -> None:
    text = (one / "benchmark.md").read_text()
    head = text[text.index("| measure") :].splitlines()[0]
    for title in ("ours (official)", "ours (paper)", "ours (strict)", "constant: train, per task",
                  "paper: Finetuned/Photon 3B"):  # fmt: skip
        assert title in head
    metrics = json.loads((one / "metrics.json").read_text())
    strict = metrics["benchmark"]["protocols"]["strict"]["all"]
    # 18 files of two rows, one yes and one no.
    assert strict["measures"]["Existence Detection | Accuracy"]["n"] == 36
    constant = strict["controls"]["constant: train, per task"]["measures"]
    assert constant["Existence Detection | Accuracy"]["value"] == 0.5
    assert strict["measures"]["Medical Measurement | BERT Score"]["value"] is None
    assert "question_only" in strict["controls"]


def test_two_processes_give_what_one_gives(work, one) -> None:
    folder, call = work
    run = folder / "outputs" / "two"
    first = call.rank(0, 2, "eval.py", *WORDS, *QUICK, "name=two")
    assert first.returncode == 0, first.stderr[-3000:]
    assert "part 0 of 2 is answered" in first.stdout and not (run / "metrics.json").exists()
    mine = lines(run / "predictions.rank0.jsonl")
    # Killed: half a line at the end, and the other part was never begun.
    part = run / "predictions.rank0.jsonl"
    part.write_text(part.read_text()[:-20])
    second = call.rank(1, 2, "eval.py", *WORDS, *QUICK, "name=two")
    assert second.returncode == 0 and not (run / "metrics.json").exists(), second.stderr[-3000:]
    again = call.rank(0, 2, "eval.py", *WORDS, *QUICK, "name=two")
    assert again.returncode == 0, again.stderr[-3000:]
    assert 0 < len(mine) < 82
    assert lines(run / "predictions.jsonl") == lines(one / "predictions.jsonl")
    assert (run / "benchmark.md").read_text() == (one / "benchmark.md").read_text()


def test_files_of_answers_are_seeds_and_bring_their_controls(work, one) -> None:
    folder, call = work
    rows = lines(one / "predictions.jsonl")
    other = [{"id": row["id"], "response": row["answer"]} for row in rows]
    (folder / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other))
    files = f"predictions=[{one / 'predictions.jsonl'},other.jsonl]"
    done = call("eval.py", *WORDS, files, "name=seeds")
    assert done.returncode == 0, done.stderr[-3000:]
    run = folder / "outputs" / "seeds"
    metrics = json.loads((run / "metrics.json").read_text())
    assert [seed["n"] for seed in metrics["seeds"]] == [82, 82]
    strict = metrics["benchmark"]["protocols"]["strict"]["all"]
    accuracy = strict["measures"]["Existence Detection | Accuracy"]
    assert accuracy["seeds"][1] == 1.0
    assert accuracy["value"] == pytest.approx(sum(accuracy["seeds"]) / 2)
    assert "question_only" in strict["controls"]
    assert " +- " in (run / "benchmark.md").read_text()
