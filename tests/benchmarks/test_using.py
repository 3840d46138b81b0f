"""`check` and `prepare` of a benchmark, without reading a voxel."""

import json
from pathlib import Path

import numpy as np
import pytest

from photon.benchmarks.ct_rate import CtRate
from photon.benchmarks.deeptumorvqa import DeepTumorVQA
from photon.benchmarks.medframeqa import MedFrameQA
from photon.benchmarks.rad3d import Rad3D
from photon.benchmarks.swift_files import SwiftFiles
from photon.benchmarks.using import check_benchmark, prepare_benchmark, read_all
from photon.errors import InputError
from photon.volume.preparation import Preparation
from tests.benchmarks import published
from tests.benchmarks.published import medframe_row, write_json


def kinds(report) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in report.errors:
        counts[item["kind"]] = counts.get(item["kind"], 0) + 1
    return counts


def test_counts_and_overlap(tmp_path) -> None:
    """A case in both parts of DeepTumorVQA, and rows that are not as many as published."""
    published.deeptumor(tmp_path, {"train": [1, 2], "test": [2]})
    report = check_benchmark(DeepTumorVQA(str(tmp_path)), volumes=False)
    assert report.files == {"deeptumorvqa train": 4, "deeptumorvqa test": 2}
    assert report.expected == {
        "deeptumorvqa train questions": 355_962,
        "deeptumorvqa test questions": 39_650,
    }
    assert kinds(report) == {"count": 2, "overlap": 2}
    shared = [item["where"] for item in report.errors if item["kind"] == "overlap"]
    assert shared[0] == "patient BDMAP_00000002" and shared[1].startswith("volume ")


def test_the_random_division_of_medframeqa_leaks_and_the_other_does_not(tmp_path) -> None:
    rows = [medframe_row(i, f"v{i // 4}") for i in range(60)]
    write_json(tmp_path / "MedFrameQA" / "test.json", rows)
    leaking = check_benchmark(MedFrameQA(str(tmp_path), division="random"), volumes=False)
    assert any(item["where"].startswith("patient v") for item in leaking.errors)
    sound = check_benchmark(MedFrameQA(str(tmp_path)), volumes=False)
    assert not sound.errors and sum(sound.files.values()) == 60


def test_missing_scans_are_errors_of_their_rows(tmp_path) -> None:
    published.rad3d(tmp_path, {"train": [1], "test": [7]})
    report = check_benchmark(Rad3D(str(tmp_path)), ["test"])
    assert kinds(report) == {"count": 1, "missing_volume": 82} and report.volumes == 0
    assert report.errors[1]["where"].endswith("Anatomical_observation.csv:2")


def test_an_absent_split_is_said(tmp_path) -> None:
    published.rad3d(tmp_path, {"train": [1]})
    report = check_benchmark(Rad3D(str(tmp_path)), volumes=False)
    assert kinds(report) == {"count": 1, "file": 1}
    assert "no file of rad3d test questions" in report.errors[-1]["message"]
    with pytest.raises(InputError, match="no file of rad3d test questions"):
        check_benchmark(Rad3D(str(tmp_path)), ["test"], volumes=False)
    with pytest.raises(InputError, match="rad3d has no tset questions"):
        check_benchmark(Rad3D(str(tmp_path)), ["tset"], volumes=False)


def test_reports_without_labels_are_enough(tmp_path) -> None:
    published.ct_rate(tmp_path, {"train": [1], "test": [7]})
    labels = tmp_path / "CT-RATE" / "dataset" / "multi_abnormality_labels"
    for path in labels.glob("*.csv"):
        path.unlink()
    found = [(split, kind) for split, kind, _ in read_all(CtRate(str(tmp_path)))]
    assert found == [("train", "reports"), ("test", "reports")]


def test_prepare_without_a_single_scan(tmp_path, capsys) -> None:
    published.rad3d(tmp_path, {"train": [1], "test": [7]})
    preparation = Preparation.preset("tiny")
    with pytest.raises(InputError, match="no volume of rad3d is under .*CT-RATE/dataset"):
        prepare_benchmark(Rad3D(str(tmp_path)), tmp_path / "store", preparation)
    rows = (tmp_path / "store" / "bad_rows.jsonl").read_text().splitlines()
    assert len(rows) == 102 + 82
    assert "left out: 102 missing_volume" in capsys.readouterr().err


def test_values_are_looked_at_where_they_must_be_hu(tmp_path) -> None:
    """ms-swift files may hold MR: only CT benchmarks, or --modality ct, ask for HU."""
    image = np.random.default_rng(0).integers(0, 900, (28, 28, 28))
    published.save_scan(tmp_path / "mr 1.nii.gz", image, np.eye(4))
    row = {"query": "Is there a lesion?", "response": "no", "videos": ["mr 1.nii.gz"]}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    reader = SwiftFiles(str(tmp_path), test="test.jsonl")
    assert kinds(check_benchmark(reader, workers=1)) == {"hu": 1}
    assert not check_benchmark(reader, workers=1, modality="mr").errors
    tiny = Preparation(spacing=None, crop=None, size=(28, 28, 28))
    assert prepare_benchmark(reader, tmp_path / "store", tiny, workers=1).prepared == 1


def test_check_without_files(tmp_path) -> None:
    with pytest.raises(InputError, match="no file of rad3d train questions under"):
        check_benchmark(Rad3D(str(tmp_path)))
    assert not Path(tmp_path / "store").exists()
