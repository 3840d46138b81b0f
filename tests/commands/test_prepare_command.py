"""`python -m photon prepare` from the command line: skips, resumes, reports, never loses work."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from photon.commands.cli import main
from photon.questions import fill_store
from photon.volume.geometry import Preparation
from photon.volume.pool import WorkerDied, run_cases, worker_count
from photon.volume.store import VolumeStore

SMALL = ["--spacing", "2", "--crop", "28", "--size", "28"]
PREPARATION = Preparation(spacing=(2, 2, 2), crop=(28, 28, 28), size=(28, 28, 28))


def write_scan(path: Path, seed: int = 0, labels: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 5, (20, 20, 20)) if labels else rng.integers(-900, 900, (20, 20, 20))
    nib.Nifti1Image(data.astype(np.uint8 if labels else np.int16), np.eye(4)).to_filename(path)
    return path


@pytest.fixture
def data(tmp_path) -> Path:
    for number in range(3):
        write_scan(tmp_path / "data" / "sub" / f"scan{number}.nii.gz", number)
    bad = write_scan(tmp_path / "data" / "broken.nii.gz", 9)
    bad.write_bytes(bad.read_bytes()[:-50])
    return tmp_path / "data"


def bad_cases(store: Path) -> list[dict]:
    path = store / "bad_cases.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_bad_case_is_skipped_and_the_rest_is_done_once(tmp_path, data, capsys, workers) -> None:
    root = tmp_path / "store"
    command = ["prepare", str(data), "--store", str(root), "--workers", workers, *SMALL]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "3 prepared, 0 already there, 1 bad" in captured.out
    assert "4 cases to prepare (volumes to 28x28x28)" in captured.err and "GiB free" in captured.err
    (bad,) = bad_cases(root)
    assert bad["source"].endswith("broken.nii.gz") and "too early" in bad["error"]
    assert "broken.nii.gz" in captured.err
    vault = VolumeStore(root, PREPARATION)
    assert all(vault.has(data / "sub" / f"scan{n}.nii.gz") for n in range(3))
    before = {path: path.stat().st_mtime_ns for path in vault.folder.glob("*.npy")}
    assert main([*command, "--strict"]) == 1
    assert "0 prepared, 3 already there, 1 bad" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in vault.folder.glob("*.npy")} == before
    write_scan(data / "broken.nii.gz", 9)
    assert main([*command, "--strict"]) == 0
    assert "1 prepared, 3 already there, 0 bad" in capsys.readouterr().out
    assert bad_cases(root) == []


def test_all_bad_is_an_error_and_others_stay_listed(tmp_path, data) -> None:
    store = tmp_path / "store"
    assert main(["prepare", str(data), "--store", str(store), "--workers", "1", *SMALL]) == 0
    absent = str(tmp_path / "absent.nii.gz")
    assert main(["prepare", absent, "--store", str(store), *SMALL]) == 1
    assert [Path(row["source"]).name for row in bad_cases(store)] == [
        "broken.nii.gz",
        "absent.nii.gz",
    ]


def test_records_bring_their_label_maps(tmp_path, capsys) -> None:
    write_scan(tmp_path / "data" / "ct" / "a.nii.gz")
    write_scan(tmp_path / "data" / "seg" / "a.nii.gz", labels=True)
    lines = [
        {
            "messages": [
                {"role": "user", "content": "<video>Is there a liver?"},
                {"role": "assistant", "content": "yes"},
            ],
            "videos": ["ct/a.nii.gz"],
            "labels": "seg/a.nii.gz",
            "id": f"q{n}",
        }
        for n in range(3)
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    root = tmp_path / "data"
    command = ["prepare", str(file), str(root / "ct"), "--root", str(root)]
    assert main([*command, "--store", str(tmp_path / "store"), *SMALL]) == 0
    captured = capsys.readouterr()
    assert "1 prepared" in captured.out and "questions.jsonl:4" in captured.err
    vault = VolumeStore(tmp_path / "store", PREPARATION)
    assert vault.has_labels(root / "seg" / "a.nii.gz", root / "ct" / "a.nii.gz")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "100"], "not a multiple of 14"),
        (["--preset", "huge"], "paper, official, tiny"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_1(tmp_path, data, capsys, arguments, words) -> None:
    assert main(["prepare", str(data), "--store", str(tmp_path / "s"), *arguments]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and words in last


def test_empty_folder_and_no_room(tmp_path, data, capsys, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    store = ["--store", str(tmp_path / "store")]
    assert main(["prepare", str(tmp_path / "empty"), *store]) == 1
    assert "holds no NIfTI file" in capsys.readouterr().err
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(fill_store.shutil, "disk_usage", lambda _: usage)
    assert main(["prepare", str(data), *store]) == 1
    assert "GiB are needed" in capsys.readouterr().err


def test_a_full_disk_stops_the_run(tmp_path, data, capsys, monkeypatch) -> None:
    def full(stream, array) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    store = ["--store", str(tmp_path / "store"), "--workers", "1"]
    assert main(["prepare", str(data / "sub"), *store, *SMALL]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: ")


def test_a_killed_run_is_taken_up_where_it_stopped(tmp_path) -> None:
    for number in range(12):
        write_scan(tmp_path / "data" / f"scan{number}.nii.gz", number)
    root = tmp_path / "store"
    command = [
        sys.executable,
        "-m",
        "photon",
        "prepare",
        str(tmp_path / "data"),
        "--store",
        str(root),
        "--workers",
        "1",
        "--spacing",
        "1",
        "--crop",
        "300",
        "--size",
        "140",
    ]

    def finished() -> int:
        return sum(path.parent.name != "index" for path in root.glob("*/*.json"))

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while finished() < 3 and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = finished()
    assert 3 <= kept < 12
    out = subprocess.run(command, capture_output=True, text=True)
    assert f"{12 - kept} prepared, {kept} already there, 0 bad" in out.stdout
    assert len(list(root.glob("*/*.npy"))) == 12


def die_on_3(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * 10


def test_a_killed_worker_is_reported_and_costs_only_its_case(monkeypatch) -> None:
    import multiprocessing

    # This test's module cannot be imported by a spawned process.
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: fork)
    results = {}
    run_cases(die_on_3, range(8), 2, results.__setitem__)
    died = results.pop(3)
    assert results == {n: n * 10 for n in range(8) if n != 3}
    assert isinstance(died, WorkerDied) and "memory" in str(died)


def test_worker_count() -> None:
    assert worker_count(5, 3) == 3 and worker_count(2, 100) == 2
    assert 1 <= worker_count(None, 100) <= (os.cpu_count() or 1)


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom photon.commands.cli import build_parser\nbuild_parser().format_help()\n"
        "print([m for m in ('torch', 'numpy', 'transformers', 'nibabel') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stderr


def test_interrupt(tmp_path, data, monkeypatch, capsys) -> None:
    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fill_store, "run_cases", interrupted)
    assert main(["prepare", str(data), "--store", str(tmp_path / "store"), *SMALL]) == 130
    assert "finished is kept" in capsys.readouterr().err
