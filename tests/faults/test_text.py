"""Files of questions with one fault: one error that names file and line; leaks are found."""

import json

import pytest

from photon.errors import InputError
from photon.questions.check_files import check_dataset
from photon.questions.record import read_records
from tests.faults.table import LINES


@pytest.mark.parametrize(("line", "says"), LINES, ids=range(len(LINES)))
def test_a_bad_line_is_one_error(tmp_path, line, says) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(line)
    with pytest.raises(InputError) as caught:
        read_records(path, strict=True)
    assert says in str(caught.value) and str(path) in str(caught.value)
    assert len(str(caught.value)) < 2000
    report = check_dataset([str(path)], volumes=False)
    assert report.errors


def write(path, patient: str, volume: str, name: str = "1") -> str:
    row = {
        "id": name,
        "query": "<video>q?",
        "response": "a",
        "videos": [volume],
        "patient": patient,
    }
    path.write_text(json.dumps(row) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("patients", "volumes"),
    [(("P0 ", "p0"), ("a.nii", "b.nii")), (("1", "2"), ("./a.nii", "a.nii")),
     (("1", "2"), ("x/../a.nii", "a.nii")), (("A  B", "a b"), ("a.nii", "b.nii"))],
)  # fmt: skip
def test_other_spellings_are_the_same_patient_and_volume(tmp_path, patients, volumes) -> None:
    files = [
        write(tmp_path / f"{i}.jsonl", patient, volume, str(i))
        for i, (patient, volume) in enumerate(zip(patients, volumes, strict=True))
    ]
    assert [e["kind"] for e in check_dataset(files, volumes=False).errors] == ["overlap"]


def test_one_file_as_two_splits_is_an_error(tmp_path) -> None:
    file = write(tmp_path / "a.jsonl", "p", "a.nii")
    assert check_dataset([file, file], volumes=False).errors[0]["kind"] == "overlap"
