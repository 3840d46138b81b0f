"""What an export knows of its training, and how a scan or a question is told to be unlike it."""

import json

import nibabel as nib
import numpy as np
import pytest

from photon.commands.cli import main
from photon.model.decoding import without_repeats
from photon.questions.record import Record
from photon.weights.checkpoints import save_export
from photon.weights.trained_on import (
    describe_training,
    trained_on,
    unlike_question,
    unlike_scan,
)
from tests.model.test_dialogue import SIZE, small_model

RNG = np.random.default_rng(0)


def ct(air=0.4, shape=(24, 48, 48)):
    """Soft tissue with noise below a share of air."""
    hu = RNG.normal(40, 30, shape).round().astype(np.int16)
    hu[: round(air * shape[0])] = RNG.normal(-960, 10, hu[: round(air * shape[0])].shape)
    return hu


@pytest.fixture(scope="module")
def known():
    records = [Record(f"q{i}", f"{i % 3}.nii", "Is the liver large?", "yes") for i in range(6)]
    return describe_training(records, [ct(0.3), ct(0.5)], generated=False)


def test_it_tells_numbers_air_and_words(known):
    assert (known["questions"], known["volumes"], known["ct"]) == (6, 3, True)
    assert known["air"][0] == pytest.approx(0.3, abs=0.05) and known["air"][1] == pytest.approx(0.5)
    assert known["words"] == ["is", "large", "liver", "the"]
    json.dumps(known)


def test_a_scan_like_those_of_training_is_not_remarked(known):
    assert unlike_scan(known, ct(0.45)) == [] and unlike_scan(None, ct(0.9)) == []
    assert unlike_question(known, "Is the liver LARGE?") == []


@pytest.mark.parametrize(
    "scan, told",
    [
        (RNG.normal(400, 120, (24, 48, 48)).clip(0, 1000).round(), "no value is below 0"),  # MR
        (RNG.integers(0, 20, (24, 48, 48)), "looks like a label map"),
        (ct(0.9), "air or padding"),
        (np.full((24, 48, 48), -1000), "the scan is empty"),
        (ct(0.4) * 0 - 990 + RNG.integers(0, 400, (24, 48, 48)), "soft tissue"),
    ],
)
def test_what_is_unlike_is_one_line(known, scan, told):
    (first, *_) = unlike_scan(known, scan.astype(np.int16))
    assert told in first and "\n" not in first


def test_phantoms_and_new_words_are_said(known):
    (line,) = unlike_scan({**known, "generated": True}, ct(0.45))
    assert "generated phantoms only" in line
    (line,) = unlike_question(known, "Is a pleural effusion there, pleural?")
    assert line.endswith("words: a, pleural, effusion, there")


@pytest.mark.parametrize(
    "tokens, once",
    [
        ([1, 2, 3, 3, 3, 3], [1, 2, 3]),
        ([9, 1, 2, 1, 2, 1, 2, 1, 2], [9, 1, 2]),
        ([5] * 4, [5]),
        ([1, 3, 3, 3], None),
        ([1, 1, 1, 1, 2], None),
        ([], None),
    ],
)
def test_what_repeats_itself(tokens, once):
    assert without_repeats(tokens) == (tokens if once is None else once)
    assert (without_repeats(tokens) is tokens) == (once is None)


@pytest.fixture
def folder(tmp_path, monkeypatch, known):
    """An export that knows CTs, and two scans of one folder, the second an MR."""
    told = {"trained_on": {**known, "generated": True}}
    save_export(small_model(), tmp_path / "export", told)
    for name, voxels in (("a", ct(0.4, SIZE)), ("b", RNG.integers(1, 900, SIZE).astype(np.int16))):
        (tmp_path / "scans").mkdir(exist_ok=True)
        image = nib.Nifti1Image(voxels.T, np.diag([3.0, 3.0, 3.0, 1.0]))
        nib.save(image, tmp_path / "scans" / f"{name}.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WHERE = ("--model", "export", "--store", "store", "--max-new-tokens", "4")


def test_ask_says_how_scan_and_question_are_unlike_training(folder, capsys):
    assert trained_on(folder / "export")["ct"]
    assert main(["ask", "scans/b.nii.gz", "Is the spleen large?", *WHERE]) == 0
    out, err = capsys.readouterr()
    notes = [line for line in err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 3 and "phantoms only" in notes[0] and "missing" in notes[1]
    assert notes[2].endswith("words: spleen") and "note" not in out


def test_a_file_of_questions_about_a_folder_reads_each_volume_once(folder, capsys, monkeypatch):
    from photon.model import dialogue

    read, once = [], dialogue.read_for
    monkeypatch.setattr(dialogue, "read_for", lambda *a, **k: read.append(1) or once(*a, **k))
    (folder / "q.txt").write_text('Is the liver large?\n\n{"question": "Is it dense?", "id": 1}\n')
    assert main(["ask", "scans", "--questions", "q.txt", *WHERE]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    asked = ["Is the liver large?", "Is it dense?"]
    assert [(row["volume"], row["question"]) for row in rows] == [
        (f"scans/{name}.nii.gz", question) for name in "ab" for question in asked
    ]
    assert len(read) == 2 and all(row["visual_tokens"] == 32 for row in rows)
    for row in rows[:2]:  # each stands alone, as if it were the first
        assert main(["ask", row["volume"], row["question"], *WHERE]) == 0
        assert capsys.readouterr().out.splitlines()[0] == row["answer"]


@pytest.mark.parametrize(
    "text, told",
    [("", "holds no question"), ('{"q": 1}', "q.txt:1: give"), (None, "cannot be read")],
)
def test_a_bad_file_of_questions_is_one_message(folder, capsys, text, told):
    if text is not None:
        (folder / "q.txt").write_text(text)
    assert main(["ask", "scans/a.nii.gz", "--questions", "q.txt", *WHERE]) == 1
    assert told in capsys.readouterr().err
