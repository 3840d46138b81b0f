"""Phase 1 leaves the patients out that Phase 2 is tested on."""

from pathlib import Path

import pytest

from photon.benchmarks.abdomenatlas import AbdomenAtlas
from photon.benchmarks.ct_rate import CtRate
from photon.benchmarks.deeptumorvqa import DeepTumorVQA
from photon.benchmarks.phase1 import PhaseOne
from photon.benchmarks.rad3d import Rad3D
from photon.benchmarks.using import read_all
from photon.errors import InputError
from tests.benchmarks import published


def phase1(root: Path, **changes) -> PhaseOne:
    name = str(root)
    parts = {"ct_rate": CtRate(name), "abdomenatlas": AbdomenAtlas(name)}
    holdout = {"rad3d": Rad3D(name), "deeptumorvqa": DeepTumorVQA(name)}
    return PhaseOne(name, **{"parts": parts, "holdout": holdout, **changes})


def test_phase_1_respects_the_test_split_of_phase_2(tmp_path) -> None:
    published.ct_rate(tmp_path, {"train": [1, 2], "test": [7]})
    published.rad3d(tmp_path, {"train": [1, 2], "test": [7]})
    published.abdomenatlas(tmp_path, {"train": [1, 2, 3], "test": [4]})
    published.deeptumor(tmp_path, {"train": [1, 4], "test": [2]})
    reader = phase1(tmp_path)
    train = reader.read("train", "reports")
    atlas = {r.patient for r in train.records if r.subtask == "abdomenatlas"}
    assert atlas == {"BDMAP_00000001", "BDMAP_00000003"}
    assert {r.patient for r in train.records} - atlas == {"train_1", "train_2"}
    (note,) = train.notes
    assert note.kind == "leak_guard" and "BDMAP_00000002 is tested in deeptumorvqa" in note.message
    held = {r.patient for name in reader.holdout for r in reader.holdout[name].read("test").records}
    assert not {r.patient for r in train.records} & held
    unguarded = phase1(tmp_path, holdout={}).read("train", "reports")
    assert len(unguarded.records) == len(train.records) + 1
    assert len(reader.read("test", "reports").records) == 2


def test_the_guard_never_goes_missing_silently(tmp_path) -> None:
    published.ct_rate(tmp_path, {"train": [1], "test": [7]})
    published.abdomenatlas(tmp_path, {"train": [1], "test": [4]})
    with pytest.raises(InputError, match="needs all of .* no file of rad3d test questions"):
        phase1(tmp_path).read("train", "reports")
    with pytest.raises(InputError, match="needs all of .* no file of rad3d test questions"):
        read_all(phase1(tmp_path))
    with pytest.raises(InputError, match="root of ct_rate is elsewhere, not"):
        phase1(tmp_path, parts={"ct_rate": CtRate("elsewhere")})
