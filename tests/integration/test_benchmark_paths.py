"""Each volume benchmark from its published layout to a table, on phantoms, with the tiny model."""

import json
import shutil
from pathlib import Path

import pytest

from photon.phantoms.phantom import make_phantom
from tests.benchmarks import published
from tests.integration.test_commands import Commands, lines
from tests.small import SMALL

TRAIN, TEST = [1, 2], [7, 8]
QUICK = (
    *(word for word in SMALL if not word.startswith("pruner.")),
    "model=tiny",
    "trainer=cpu",
    "logger=csv",
    "trainer.max_steps=2",
    "dataset.store=store",
    "dataset.reader.root=data",
    "dataset.questions_per_volume=3",
    "evaluation.max_new_tokens=2",
    "evaluation.controls=[]",
    "callbacks.checkpoint.every=2",
)
SIZE = ("--spacing", "6", "--crop", "56", "--size", "56", "--preset", "tiny", "--workers", "1")
STORE = ("--root", "data", "--store", "store")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`data`: four scans as CT-RATE and as AbdomenAtlas publish them, with all question files."""
    folder = tmp_path_factory.mktemp("work")
    root = folder / "data"
    split = {"train": TRAIN, "test": TEST}
    for write in (published.ct_rate, published.rad3d, published.abdomenatlas, published.deeptumor):
        write(root, split)
    for number in (*TRAIN, *TEST):
        phantom = make_phantom(number)
        top = "train" if number in TRAIN else "valid"
        chest = published.ct_rate_scan(root, f"{top}_{number}_a_1.nii.gz", f"{top}_fixed")
        case = root / "AbdomenAtlas" / "image_only" / f"BDMAP_{number:08d}" / "ct.nii.gz"
        published.save_scan(chest, phantom.array.transpose(2, 1, 0), phantom.affine)
        case.parent.mkdir(parents=True)
        shutil.copy(chest, case)
    return folder


@pytest.fixture(scope="module")
def call(folder):
    return Commands(folder)


@pytest.fixture(scope="module")
def prepared(folder, call) -> str:
    done = call("-m", "photon", "prepare", "--dataset", "phase1", *STORE, *SIZE)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_prepare_says_what_it_needs_and_does(call, prepared) -> None:
    assert "phase1 train reports: 4 records of 2 files" in prepared
    assert "8 cases to prepare (volumes to 56x56x56)" in prepared and "GiB free" in prepared
    assert "8 prepared, 0 already there, 0 bad" in prepared
    words = ("--dataset", "rad3d", *STORE, *SIZE)
    again = call("-m", "photon", "prepare", *words)
    assert "0 prepared, 4 already there, 0 bad" in again.stdout  # the same scans
    assert not (Path("store") / "bad_rows.jsonl").exists()


@pytest.mark.parametrize(
    ("dataset", "questions", "tasks"),
    [
        ("rad3d", 82, 6),
        ("deeptumorvqa", 4, 2),
        ("ct_rate", 36, 1),
        ("abdomenatlas", 2, 1),
    ],
)
def test_from_published_files_to_a_table(folder, call, prepared, dataset, questions, tasks) -> None:
    phase = "phase2" if dataset in ("rad3d", "deeptumorvqa") else "phase1"
    words = (f"experiment={phase}", f"dataset={dataset}", f"name={dataset}")
    done = call("train.py", *words, *QUICK)
    assert done.returncode == 0, done.stderr[-3000:]
    run = folder / "outputs" / dataset
    predictions = lines(run / "predictions.jsonl")
    assert len(predictions) == questions
    assert len({row["task"] for row in predictions}) == tasks
    metrics = json.loads((run / "metrics.json").read_text())
    assert sum(group["n"] for group in metrics["subtasks"].values()) == questions
    assert "constant" in metrics["controls"]
    assert "constant" in (run / "table.md").read_text()
    assert (run / "benchmark.md").is_file() == (phase == "phase2")  # the paper's layout
    assert "preparing" not in done.stderr  # all was in the store


def test_rows_without_a_scan_are_survived_and_listed(folder, call, prepared) -> None:
    gone = published.ct_rate_scan(folder / "data", "valid_8_a_1.nii.gz")
    kept = gone.with_suffix(".away")
    gone.rename(kept)
    try:
        words = ("--dataset", "rad3d", "--root", "data", "--split", "test", "--store", "other")
        done = call("-m", "photon", "prepare", *words, *SIZE)
    finally:
        kept.rename(gone)
    assert done.returncode == 0 and "1 prepared" in done.stdout
    rows = lines(folder / "other" / "bad_rows.jsonl")
    assert len(rows) == 44 and {row["kind"] for row in rows} == {"missing_volume"}
    assert all("valid_8_a_1.nii.gz" in row["message"] for row in rows)
    assert "left out: 44 missing_volume (first: " in done.stderr


def test_check_of_a_benchmark(folder, call) -> None:
    check = ("-m", "photon", "check", "--dataset", "rad3d", "--root", "data", "--workers", "1")
    done = call(*check, "--report", "report.json")
    report = json.loads((folder / "report.json").read_text())
    assert done.returncode == 1 and report["error_counts"] == {"count": 2}  # a miniature
    assert report["files"] == {"rad3d train": 102, "rad3d test": 82} and report["volumes"] == 4
    assert report["expected"]["rad3d test questions"] == 33_910
    assert "has 82 rows where 33910 are published" in done.stderr
    wrong = call("-m", "photon", "check", "--dataset", "rad3d", "report.json")
    assert wrong.returncode == 1 and "reads its own files" in wrong.stderr
