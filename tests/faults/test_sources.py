"""Scans with one fault: one named error, nothing hangs, and the report of `check` is written."""

import json
import os

import nibabel as nib
import numpy as np
import pydicom
import pytest

from photon.errors import InputError
from photon.files import hold, read_json, write_text
from photon.questions.check_files import check_dataset
from photon.volume import nifti
from photon.volume.reader import read_volume
from tests.volume.test_dicom import series

ATTRIBUTES = [
    ("RescaleSlope", 0), ("ImagePositionPatient", [0, 0]), ("ImageOrientationPatient", [1, 0, 0]),
    ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
    ("ImageOrientationPatient", [2, 0, 0, 0, 1, 0]),
    ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0]), ("PixelSpacing", [-1, 1]),
    ("PixelSpacing", [0, 1]), ("PixelSpacing", [1]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), ATTRIBUTES, ids=str)
def test_attributes_that_are_no_geometry_are_named(tmp_path, name, value) -> None:
    folder = series(tmp_path)
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        setattr(header, name, value)
        header.save_as(path)
    with pytest.raises(InputError, match=name):
        read_volume(folder)


def scan(path):
    array = np.random.default_rng(0).integers(-1000, 1000, (8, 8, 8)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return path


def test_a_pipe_and_a_device_are_no_scans(tmp_path) -> None:
    os.mkfifo(tmp_path / "scan.nii")
    for path in (tmp_path / "scan.nii", "/dev/zero"):
        with pytest.raises(InputError, match="pipe or a device"):
            read_volume(path)


@pytest.mark.parametrize("letters", ["XYZ", "RRR", "RA", "", "RAIS"])
def test_orientations_that_are_none(tmp_path, letters) -> None:
    with pytest.raises(InputError, match="is not an orientation"):
        read_volume(scan(tmp_path / "a.nii.gz"), assume_orientation=letters)


def test_memory_is_looked_at_before_it_is_taken(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(nifti, "free_memory", lambda: 100)
    with pytest.raises(InputError, match="GiB of memory are free"):
        read_volume(scan(tmp_path / "a.nii.gz"))


def test_copies_under_other_names_and_a_reader_that_breaks(tmp_path, monkeypatch) -> None:
    scan(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    files = []
    for name in "ab":
        row = {"id": name, "query": "<video>q?", "response": "a", "patient": name}
        row["videos"] = [f"{name}.nii.gz"]
        files.append(str(tmp_path / f"{name}.jsonl"))
        write_text(files[-1], json.dumps(row) + "\n")
    found = check_dataset(files, modality="mr", workers=1).errors
    assert [one["kind"] for one in found] == ["overlap"] and "same bytes" in found[0]["message"]

    def broken(*_, **__):
        raise ZeroDivisionError("malformed")

    monkeypatch.setattr("photon.questions.check_files.read_volume", broken)
    found = check_dataset(files, modality="mr", workers=1).errors
    assert [one["kind"] for one in found] == ["volume", "volume"]
    assert "malformed" in found[0]["message"]


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", ":1: not valid JSON"), ("[]", "holds a list"), ("1" * 5000, "not valid JSON"),
     ("[" * 10_000, "not valid JSON"), ("", ":1: not valid JSON")],
)  # fmt: skip
def test_json_that_is_none_is_named(tmp_path, text, says) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"{path}.*{says}"):
        read_json(path, "Copy it again")


def test_a_folder_has_one_owner(tmp_path) -> None:
    """The lock is a process's own: a child that asks is told who has it."""
    hold(tmp_path / ".lock")
    child = os.fork()
    if child == 0:
        try:
            hold(tmp_path / ".lock")
        except InputError as error:
            os._exit(0 if f"process {os.getppid()} on " in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_names_that_are_not_text_can_be_written(tmp_path) -> None:
    write_text(tmp_path / "report.txt", os.fsdecode(b"scan\xff.nii"))
    assert (tmp_path / "report.txt").read_text() == "scan\\udcff.nii"
