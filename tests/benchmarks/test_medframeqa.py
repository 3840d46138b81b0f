"""MedFrameQA: divisions, frames inside Parquet files, and its own parser."""

import json

import pytest

from photon.benchmarks.medframeqa import MedFrameQA, modality_of, official_letter
from photon.benchmarks.medframeqa import judge as judge_frames
from photon.questions.record import Record
from photon.volume.images.reading import read_image
from tests.benchmarks.published import (
    medframe_row,
    medframes,
)
from tests.benchmarks.rows import choice

FIVE = ("sit", "stand", "run away", "jump. then fall", "wave")
SIX = (*FIVE, "both arms")


def letters(texts):
    return dict(zip("ABCDEFGH", texts, strict=False))


def test_medframeqa_options_and_divisions(tmp_path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [medframe_row(i, f"v{i // 4}", count=4 + i % 3) for i in range(60)]
    table = pyarrow.Table.from_pylist([r | {"image_1": {"bytes": b"x"}} for r in rows])
    (tmp_path / "MedFrameQA" / "data").mkdir(parents=True)
    parquet.write_table(table, tmp_path / "MedFrameQA" / "data" / "test-0.parquet")

    def parts(**settings) -> tuple[list[Record], list[Record]]:
        reader = MedFrameQA(str(tmp_path), **settings)
        return reader.read("train").records, reader.read("test").records

    train, test = parts()
    assert len(train) + len(test) == 60 and len(test) >= 6
    assert not {r.patient for r in train} & {r.patient for r in test}
    train, test = parts(division="random")
    assert len(test) == 6 and len(train) == 54  # ceil of 10 %
    assert {r.patient for r in train} & {r.patient for r in test}
    assert parts(division="random", seed=1)[1] != test
    assert [len(part) for part in parts(division="all")] == [0, 60]
    six = next(r for r in train if len(r.choices) == 6)
    assert six.answer_letter == "F" and six.choices["F"] == "finding 5"
    assert six.volumes == tuple(f"MedFrameQA/{six.patient}/{i}.jpg" for i in range(3))
    official = MedFrameQA(str(tmp_path), prompt="official").read("test").records[0]
    assert official.answer.startswith("Answer: ") and "Answer: $LETTER" in official.system


def test_medframeqa_frames_are_unpacked_once(tmp_path) -> None:
    medframes(tmp_path, {1: "v1", 2: "v2"})
    reader = MedFrameQA(str(tmp_path), division="all")
    reader.unpack()
    reading = reader.read("test")
    reading.require(tmp_path)
    values = [[read_image(tmp_path / v)[0, 0, 0] for v in r.volumes] for r in reading.records]
    assert values == [[10, 11, 12], [20, 21, 22]] and not reading.problems
    first = tmp_path / reading.records[0].volume
    before = first.stat().st_mtime_ns
    (tmp_path / reading.records[1].volume).unlink()
    reader.unpack()
    assert (tmp_path / reading.records[1].volume).is_file()
    assert first.stat().st_mtime_ns == before


def test_bad_medframeqa_rows(tmp_path) -> None:
    changes = [
        {"options": "A or B"}, {"options": ["one"]}, {"options": ["", "two"]},
        {"correct_answer": "G"}, {"image_url": []}, {"image_url": ["../x.jpg"]},
    ]  # fmt: skip
    rows = [medframe_row(i, "v", **change) for i, change in enumerate([{}, *changes])]
    path = tmp_path / "MedFrameQA" / "test.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reading = MedFrameQA(str(tmp_path), division="all").read("test")
    assert [r.id for r in reading.records] == ["q0"]
    assert reading.counts() == {"choice": 4, "empty": 1, "path": 1}
    assert [p.where for p in reading.problems] == [f"{path}:{n}" for n in range(2, 8)]


@pytest.mark.parametrize(
    ("text", "official"),
    [
        ("Answer: B", "B"),
        ("so \\boxed{C}. Answer: B", "C"),  # boxed comes first
        ("boxed{Z} Answer: B", "B"),
        ("Answer: A is wrong.\nAnswer: D", "D"),  # the last marker
        ("Answer: Both arms", "B"),  # any capital after the marker that is an option's letter
        ("final answer F", "F"),
        ("It must be (C), not (A).", "A"),  # the last of several
        ("D. jump", "D"),
        ("It is D.", ""),  # marks at the end are stripped first, and "D." is gone
        ("B", ""),  # a letter alone is nothing to this parser
        ("", ""),
        ("I think that they want to run away now", "C"),
        ("they run away", ""),  # five words or fewer
        ("He is about to jump in the end", "D"),  # an option's text ends at its first ". "
        ("Answer: I cannot say", ""),
    ],
)
def test_medframeqas_own_parser(text, official):
    assert official_letter(text, letters(SIX)) == official


@pytest.mark.parametrize(
    ("text", "official", "strict"),
    [
        ("Answer: F", 1, 1),
        ("F", 0, 1),
        ("both arms", 0, 1),
        ("Answer: F or A", 1, 0),
        ("Answer: E", 0, 0),
    ],
)
def test_a_sixth_option_is_an_option(text, official, strict):
    row = choice(0, text, "F", SIX)
    assert judge_frames(row, "official").value == official
    assert judge_frames(row, "strict").value == strict


def test_an_empty_answer_is_left_out_as_published_and_wrong_when_strict():
    rows = [choice(0, "Answer: A", "A", FIVE, subtask="CT"), choice(1, "", "A", FIVE, subtask="CT")]
    benchmark = MedFrameQA()
    official, strict = (benchmark.score(rows, name) for name in ("official", "strict"))
    assert official.measures["MedFrameQA", "Overall"].value() == 1.0
    assert "1 of 2" in official.notes[0]
    assert strict.measures["MedFrameQA", "Overall"].value() == 0.5


def test_the_benchmarks_own_result_file_scores_what_it_says():
    """Its result.json has the letter that its parser found under "answer"."""
    rows = [choice(i, "ABC"[i], "ABC"[i], FIVE, cot_reasoning="...") for i in range(3)]
    measures = MedFrameQA().score(rows, "official").measures
    assert measures["MedFrameQA", "Overall"].value() == 1.0


def test_of_option_texts_that_begin_at_one_place_the_first_counts():
    options = {"A": "left", "B": "left lung"}
    assert official_letter("I believe that it is the left lung", options) == "A"


def test_accuracy_by_modality():
    rows = [
        choice(i, f"Answer: {letter}", "A", FIVE, subtask=name)
        for i, (letter, name) in enumerate(
            [("A", "CT"), ("B", "CT"), ("A", "MRI"), ("B", "X-ray"), ("A", "Mammography"),
             ("A", "ultrasound")]
        )
    ]  # fmt: skip
    measures = MedFrameQA().score(rows, "official").measures
    values = {name: measures["MedFrameQA", name].value()
              for name in ("CT", "MRI", "X-ray", "Other", "Ultrasound", "Overall")}  # fmt: skip
    assert values == {
        "CT": 0.5, "MRI": 1.0, "X-ray": 0.0, "Other": 1.0, "Ultrasound": 1.0,
        "Overall": pytest.approx(4 / 6),
    }  # fmt: skip
    assert modality_of({"modality": "X_Ray", "subtask": "CT"}) == "X-ray"
