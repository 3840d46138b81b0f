"""The model's answers in two parts equal those in one, a killed part included; label maps from
a folder of their own."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest

from photon.benchmarks.organs import attach_segmentations
from photon.errors import InputError
from photon.evaluation.predictions import PredictionWriter
from photon.evaluation.shards import Shard
from photon.questions.record import Record
from tests.evaluation.test_evaluator import data, evaluator, model  # noqa: F401  (fixtures)

NAMES = ("photon", "random_keep", "question_only")


@pytest.fixture(scope="module")
def whole(model, data, tmp_path_factory):  # noqa: F811
    return evaluator(model, data, tmp_path_factory.mktemp("whole")).run(NAMES)


def split_seed(records):
    """A number of processes of which two or more have something to do."""
    for world in range(2, 9):
        busy = [rank for rank in range(world) if Shard(rank, world).mine(records)]
        if len(busy) > 1:
            return world, busy
    raise AssertionError("the volumes cannot be divided")


def test_parts_make_up_the_whole(model, data, whole, tmp_path):  # noqa: F811
    world, busy = split_seed(data[1])
    for rank in busy:
        part = evaluator(model, data, tmp_path, shard=Shard(rank, world))
        assert rank == busy[0] or part.merge(NAMES) is None
        part.run(NAMES)
    assert part.merge(NAMES) == whole
    merged = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in merged] == whole["photon"]


def test_a_part_that_dies_is_answered_by_one_process(model, data, whole, tmp_path, monkeypatch):  # noqa: F811
    world, busy = split_seed(data[1])
    first, second = (evaluator(model, data, tmp_path, shard=Shard(r, world)) for r in busy[:2])
    first.run(NAMES)
    write = PredictionWriter.write

    def dies(self, row):
        if self.path.stem.startswith("random_keep"):
            raise KeyboardInterrupt
        write(self, row)

    monkeypatch.setattr(PredictionWriter, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        second.run(NAMES)
    monkeypatch.undo()
    assert second.merge(NAMES) is None
    alone = evaluator(model, data, tmp_path)
    alone.run(NAMES)
    assert alone.merge(NAMES) == whole


# Label maps in a folder -------------------------------------------------------------------------


def test_label_maps_of_a_folder_give_coverage(model, data, tmp_path):  # noqa: F811
    root, records = data
    own = next(r for r in records if r.labels)
    image = nib.load(root / own.labels)
    map_ = np.where(np.asarray(image.dataobj) == 4, 5, 0).astype(np.uint8)  # a phantom's liver is 4
    nib.Nifti1Image(map_, image.affine).to_filename(tmp_path / own.volume.split("/")[-1])
    asked = dataclasses.replace(
        own, labels=None, evidence=(), organ=None, question="How large is the liver?"
    )
    (attached,) = attach_segmentations([asked], tmp_path, root)
    assert attached.organ == "liver" and attached.evidence == (5,)
    rows = evaluator(model, (root, [attached]), tmp_path / "run").run(["photon"])["photon"]
    assert 0 < rows[0]["organ_tokens"] <= rows[0]["visual_tokens"]
    assert 0 <= rows[0]["coverage"] <= 1


@pytest.mark.parametrize("name", ["scans/case 1.nii.gz", "case 1.nii.gz", "case 1_seg.nii.gz"])
def test_a_map_is_found_under_the_volumes_name(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    records = [
        Record("a", "scans/case 1.nii.gz", "Is there a lung nodule?"),
        Record("b", "scans/case 1.nii.gz", "What is seen?"),
        Record("c", "scans/case 2.nii.gz", "Is the liver large?"),
        Record("d", "scans/case 1.nii.gz", "Is the lung clear?", labels="own.nii.gz"),
    ]
    got = attach_segmentations(records, tmp_path, tmp_path)
    assert got[0].labels == str((tmp_path / name).resolve()) and got[0].evidence == tuple(
        range(10, 15)
    )
    assert got[1:] == records[1:]
    with pytest.raises(InputError, match="no label map for any volume"):
        attach_segmentations(records, tmp_path / "other", tmp_path)


# Which protocols a data set has -----------------------------------------------------------------
