"""`python -m photon questions`, on a phantom and on the real abdominal CT."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from photon.commands import questions as commands
from photon.errors import InputError
from photon.phantoms.layout import NAMES, PhantomConfig
from photon.phantoms.patient import QUESTION_NAMES, write_nifti
from photon.phantoms.phantom import make_phantom
from photon.questions.record import read_records

CT = Path(__file__).resolve().parents[3] / "shared" / "data" / "ct"
CONFIG = PhantomConfig(shape=(56, 56, 56), spacing=6.0)


def run(*words):
    parser = argparse.ArgumentParser()
    commands.add_parser(parser.add_subparsers())
    args = parser.parse_args(["questions", *map(str, words)])
    return args.run(args)


@pytest.fixture
def case(tmp_path):
    phantom = make_phantom(2, CONFIG)
    write_nifti(tmp_path / "ct.nii.gz", phantom.array, phantom.affine)
    write_nifti(tmp_path / "seg.nii.gz", phantom.labels, phantom.affine)
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    (tmp_path / "reference.json").write_text(json.dumps(CONFIG.reference()))
    return tmp_path


def test_phantom_with_names_and_reference(case, capsys):
    words = ["--ct", case / "ct.nii.gz", "--labels", case / "seg.nii.gz", "--split", "train"]
    words += ["--names", case / "names.json", "--reference", case / "reference.json"]
    assert run(*words, "--out", case / "sub" / "q.jsonl", "--per-volume", 40) == 0
    records, problems = read_records(case / "sub" / "q.jsonl", root=case / "sub")
    assert not problems and len(records) == 40
    assert {r.volume for r in records} == {"../ct.nii.gz"} and records[0].extra["split"] == "train"
    assert {r.labels for r in records} == {"../seg.nii.gz"}
    assert "size_class" in {r.extra["kind"] for r in records}
    assert "40 questions" in capsys.readouterr().out


def test_two_cases_of_one_name_get_their_own_ids(case):
    two = ["--ct", *[case / "ct.nii.gz"] * 2, "--labels", *[case / "seg.nii.gz"] * 2]
    run(*two, "--names", case / "names.json", "--out", case / "q.jsonl", "--per-volume", 5)
    assert len(read_records(case / "q.jsonl", strict=True)[0]) == 10


def test_user_errors(case):
    pair = ["--ct", case / "ct.nii.gz", "--labels", case / "seg.nii.gz", "--out", case / "q.jsonl"]
    with pytest.raises(InputError, match="names 1 files and --labels 2"):
        run(*pair[:3], *pair[3:4], case / "seg.nii.gz", "--out", case / "q.jsonl")
    with pytest.raises(InputError, match=r"cannot read .*absent.json"):
        run(*pair, "--names", case / "absent.json")
    (case / "bad.json").write_text('{"liver": 5}')
    with pytest.raises(InputError, match="keys must be label ids"):
        run(*pair, "--names", case / "bad.json")
    with pytest.raises(InputError, match="subtasks="):
        run(*pair, "--names", case / "names.json", "--subtasks", "colour")
    write_nifti(case / "seg.nii.gz", np.ones((9, 9, 9), np.uint8), np.eye(4))
    with pytest.raises(InputError, match=r"seg.nii.gz: lies on another voxel grid.*ct.nii"):
        run(*pair)
    assert not (case / "q.jsonl").exists()


def test_ids_without_a_name_are_reported(case):
    (case / "names.json").write_text(json.dumps(QUESTION_NAMES))
    pair = ["--ct", case / "ct.nii.gz", "--labels", case / "seg.nii.gz", "--out", case / "q.jsonl"]
    with pytest.warns(UserWarning, match=r"ids \[9, 10\] have no name"):
        run(*pair, "--names", case / "names.json")


@pytest.mark.skipif(not CT.is_dir(), reason="../shared/data/ct is absent")
def test_real_ct(tmp_path):
    out = tmp_path / "q.jsonl"
    words = ["--ct", CT / "abdomen_ct.nii.gz", "--labels", CT / "abdomen_labels.nii.gz"]
    assert run(*words, "--out", out, "--root", CT, "--per-volume", 60) == 0
    records, problems = read_records(out, root=CT)
    assert not problems and len(records) == 60
    assert records[0].volume == "abdomen_ct.nii.gz"
    assert len({r.subtask for r in records}) == 5
