"""`python -m photon check` finds every kind of mistake in one go and names its place."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from photon.commands.cli import main
from photon.volume.reader import implausible


def tissue(seed: int = 0, shape=(16, 16, 16)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    data = rng.normal(40, 20, shape)
    data[:, :4] = -1000
    return data.round().astype(np.int16)


def save(path: Path, data: np.ndarray, affine=None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(data, np.eye(4) if affine is None else affine).to_filename(path)
    return path.name


def row(number: int, video: str, **extra) -> dict:
    answer = extra.pop("answer", "yes")
    messages = [{"role": "user", "content": "<video>Is there a liver?"}]
    messages += [{"role": "assistant", "content": answer}]
    return {"messages": messages, "videos": [video], "id": f"q{number}", **extra}


def write(path: Path, rows: list) -> str:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return str(path)


@pytest.fixture
def good(tmp_path) -> list[str]:
    save(tmp_path / "a.nii.gz", tissue(0))
    save(tmp_path / "b.nii.gz", tissue(1))
    save(tmp_path / "a_seg.nii.gz", (tissue(0) > 0).astype(np.uint8))
    train = [row(1, "a.nii.gz", patient="p1", labels="a_seg.nii.gz"), row(2, "a.nii.gz")]
    return [
        write(tmp_path / "train.jsonl", train),
        write(tmp_path / "test.jsonl", [row(3, "b.nii.gz", patient="p2")]),
    ]


def check(files: list[str], tmp_path: Path, *options: str) -> tuple[int, dict]:
    report = tmp_path / "report.json"
    code = main(["check", *files, "--workers", "1", "--report", str(report), *options])
    return code, json.loads(report.read_text())


def messages(report: dict, kind: str) -> str:
    return "\n".join(f"{e['where']}: {e['message']}" for e in report["errors"] if e["kind"] == kind)


def test_a_sound_dataset(tmp_path, good, capsys) -> None:
    code, report = check(good, tmp_path)
    assert code == 0 and report["ok"] and report["errors"] == [] and report["warnings"] == []
    assert report["volumes"] == 2 and list(report["files"].values()) == [2, 1]
    assert "2 files, 3 records, 2 volumes: 0 errors" in capsys.readouterr().out


def test_all_mistakes_are_collected(tmp_path, good, capsys) -> None:
    save(tmp_path / "raw.nii.gz", (tissue(2) + 1024).astype(np.int16))
    save(tmp_path / "other.nii.gz", (tissue(0) > 0).astype(np.uint8), np.diag([2.0, 1, 1, 1]))
    save(tmp_path / "blank.nii.gz", np.zeros((16, 16, 16), np.uint8))
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:-20])
    choices = {"A": "yes", "B": "no"}
    rows = [
        row(3, "b.nii.gz", patient="p2"),
        '{"messages": [',
        row(1, "a.nii.gz", patient="p1"),
        row(5, "absent.nii.gz"),
        row(6, "raw.nii.gz"),
        row(7, "cut.nii.gz"),
        row(8, "b.nii.gz", labels="other.nii.gz"),
        row(9, "b.nii.gz", labels="blank.nii.gz"),
        row(10, "b.nii.gz", answer=" "),
        row(11, "b.nii.gz", choices=choices, answer="C"),
    ]
    code, report = check([good[0], write(tmp_path / "test.jsonl", rows)], tmp_path)
    assert code == 1 and not report["ok"]
    assert "test.jsonl:2" in messages(report, "record")
    overlap = messages(report, "overlap")
    assert "id q1" in overlap and "patient p1" in overlap and "a.nii.gz" in overlap
    volume = messages(report, "volume")
    assert "absent.nii.gz: no such file" in volume and "cut.nii.gz" in volume
    assert "raw.nii.gz" in messages(report, "hu") and "intercept" in messages(report, "hu")
    labels = messages(report, "labels")
    assert "other.nii.gz: lies on another voxel grid" in labels and "blank.nii.gz" in labels
    everything = "\n".join(f"{e['where']} {e['message']}" for e in report["errors"])
    assert "q10" in everything or "test.jsonl:9" in everything
    assert "q11" in everything or "test.jsonl:10" in everything
    err = capsys.readouterr().err
    assert all(e["message"] in err for e in report["errors"])


def test_overlap_is_allowed_within_one_split(tmp_path, good) -> None:
    more = write(tmp_path / "reports.jsonl", [row(20, "a.nii.gz", patient="p1")])
    assert check([good[0], more], tmp_path)[0] == 1
    assert check([good[0], more], tmp_path, "--same-split")[0] == 0
    twice = write(tmp_path / "again.jsonl", [row(1, "a.nii.gz", patient="p1")])
    code, report = check([good[0], twice], tmp_path, "--same-split")
    assert code == 1 and messages(report, "overlap").startswith("id q1")


def test_text_only_and_unreadable_files(tmp_path, good) -> None:
    (tmp_path / "a.nii.gz").unlink()
    assert check(good, tmp_path)[0] == 1
    assert check(good, tmp_path, "--no-volumes")[0] == 0
    code, report = check([str(tmp_path / "absent.jsonl"), good[1]], tmp_path)
    assert code == 1 and "absent.jsonl" in messages(report, "file") and report["volumes"] == 1
    assert check([write(tmp_path / "empty.jsonl", [])], tmp_path)[0] == 1


def test_root(tmp_path, good) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "train.jsonl"
    Path(good[0]).rename(moved)
    assert check([str(moved)], tmp_path)[0] == 1
    assert check([str(moved)], tmp_path, "--root", str(tmp_path))[0] == 0


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (tissue(), None),
        (tissue() + 1024, "intercept"),
        (tissue().astype(float) - 2000, "rescale"),
        (np.random.default_rng(0).random((16, 16, 16)), "not HU"),
        (np.full((16, 16, 16), -1000), "all voxels"),
        (np.where(tissue() < -500, -8192, tissue()), None),  # a scanner's padding is no mistake
    ],
)
def test_hu_plausibility(array, word) -> None:
    found = implausible(array.astype(np.float32))
    assert found is None if word is None else word in found


def test_mr_is_not_held_to_hu() -> None:
    array = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32) * 900
    assert implausible(array) and implausible(array, "mr") is None


def test_real_ct_is_plausible(shared_data) -> None:
    from photon.volume.reader import read_volume

    for path in ("ct/abdomen_ct.nii.gz", "ct/aorta_ct.nii.gz", "dicom"):
        assert implausible(read_volume(shared_data / path).array) is None


def test_paths_that_leave_a_given_root_are_refused(tmp_path, good) -> None:
    (tmp_path / "sub").mkdir()
    rows = [row(9, "../a.nii.gz"), row(10, str(tmp_path / "a.nii.gz")), row(11, "b.nii.gz")]
    file = write(tmp_path / "extra.jsonl", rows)
    code, report = check([file], tmp_path, "--root", str(tmp_path))
    assert code == 1 and report["error_counts"] == {"path": 2} and report["volumes"] == 1
    assert "../a.nii.gz leads out of the root" in messages(report, "path")
