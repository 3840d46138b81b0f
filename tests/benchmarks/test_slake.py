"""SLAKE: subsets and languages, and what each protocol accepts."""

import pytest

from photon.benchmarks import slake
from photon.benchmarks.slake import Slake
from tests.benchmarks.published import (
    slake_row,
    write_json,
)
from tests.benchmarks.rows import free

YES, NO = "\u662f", "\u4e0d\u662f"
LUNG, COMMA, STOP = "\u80ba", "\uff0c", "\u3002"


def test_test_images_that_another_language_trains_on_are_said(tmp_path) -> None:
    folder = tmp_path / "SLAKE"
    write_json(folder / "train.json", [slake_row(1, q_lang="zh")])
    write_json(folder / "test.json", [slake_row(2), slake_row(3, img_name="xmlab2/source.jpg")])
    both = Slake(str(tmp_path), languages=("en", "zh")).read("test")
    (note,) = [note for note in both.notes if note.kind == "overlap"]
    assert note.message.startswith("1 of 2 test questions are about its images")
    assert not Slake(str(tmp_path)).read("test").notes  # one language by default


def test_slake_subsets_and_languages(tmp_path) -> None:
    rows = [
        slake_row(1),
        slake_row(2, q_lang="zh", question="\u56fe\u4e2d\u662f\u4ec0?", answer="\u809d\u810f"),
        slake_row(3, modality="CT", answer_type="CLOSED", answer="Yes"),
        slake_row(1),
        slake_row(4, img_name="../../x.jpg"),
        slake_row(5, answer=""),
        slake_row(6, answer_type="MAYBE"),
    ]
    write_json(tmp_path / "SLAKE" / "test.json", rows)
    mri = Slake(str(tmp_path), languages=("en", "zh")).read("test")
    assert [r.id for r in mri.records] == ["test/1", "test/2"]
    assert mri.records[1].answer == "\u809d\u810f"
    assert mri.records[1].extra["q_lang"] == "zh" and mri.records[0].subtask == "organ"
    assert mri.counts() == {"duplicate_id": 1, "path": 1, "empty": 1, "row": 1}
    assert mri.problems[0].where.endswith("test.json[4]")
    both = Slake(str(tmp_path), modality=None, languages=("en",)).read("test")
    assert [(r.id, r.task) for r in both.records] == [("test/1", "open"), ("test/3", "closed")]
    whole = {"languages": ("en", "zh")}
    assert Slake(**whole).expected("test") == 489 and Slake().expected("test") == 228
    assert Slake(modality=None, **whole).expected("test") == 2_094


@pytest.mark.parametrize(
    ("prediction", "answer", "official", "strict"),
    [
        ("Chest.", "chest", 1, 1),
        ("T2-weighted", "T2 weighted", 1, 1),
        (f"{LUNG}{STOP}", LUNG, 1, 1),  # a Chinese full stop
        ("\uff23\uff34", "CT", 1, 1),  # full-width letters
        ("Spinal Cord, Lung", "Lung, Spinal Cord", 0, 1),
        ("\u80be\u3001\u809d", f"\u809d{COMMA}\u80be", 0, 1),  # Chinese list marks
        ("yes", YES, 0, 1),
        (f"{NO}{STOP}", "No", 0, 1),
        ("yes it is", "yes", 0, 0),
        ("no", "yes", 0, 0),
        ("not", "no", 0, 0),
        ("", "", 0, 0),
        (None, "no", 0, 0),
    ],
)
def test_slake_answers(prediction, answer, official, strict):
    row = free(0, prediction, answer)
    assert slake.judge(row, "official").value == official
    assert slake.judge(row, "strict").value == strict


@pytest.mark.parametrize(
    ("word", "meaning"),
    [("\u5305\u542b", "yes"), ("\u4e0d\u5305\u542b", "no"), ("\u53ef\u4ee5", "yes"),
     ("\u4e0d\u53ef\u4ee5", "no"), ("\u4e0d\u6b63\u5e38", "no")],
)  # fmt: skip
def test_slake_reads_these_words_of_its_test_answers(word, meaning):
    for other in ("yes", "no"):
        assert slake.judge(free(0, other, word), "strict").value == float(other == meaning)
        assert slake.judge(free(0, word, other), "strict").value == float(other == meaning)


def test_slake_lenient_reads_sentences():
    rows = [free(0, "The answer is yes", YES), free(1, "It is the lung.", "Lung")]
    assert [slake.judge(row, "lenient").value for row in rows] == [1, 1]
    assert [slake.judge(row, "strict").value for row in rows] == [0, 0]


def test_slake_reports_forms_and_languages_apart():
    rows = [
        free(0, "yes", "Yes", "closed", q_lang="en"),
        free(1, "liver", "lung", "open", q_lang="en"),
        free(2, LUNG, LUNG, "open", q_lang="zh"),
    ]
    measures = slake.Slake().score(rows, "official").measures
    assert measures["SLAKE", "Acc."].value() == pytest.approx(2 / 3)
    assert measures["SLAKE open", "Acc."].value() == 0.5
    assert measures["SLAKE closed", "Acc."].value() == 1.0
    assert measures["SLAKE zh", "Acc."].value() == 1.0
