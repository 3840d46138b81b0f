"""NExT-QA: reading, indices and letters, previous and next."""

import pytest

from photon.benchmarks.nextqa import NextQA
from photon.benchmarks.nextqa import judge as judge_video
from tests.benchmarks.published import (
    write_csv,
    write_json,
)
from tests.benchmarks.rows import choice

FIVE = ("sit", "stand", "run away", "jump. then fall", "wave")


def test_nextqa(tmp_path) -> None:
    header = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4".split(",")
    common = ["300", "640", "480", "what does the man do"]
    options = ["run", "sit", "eat", "sing", "sleep"]
    rows = [
        ["11", *common, "4", "0", "TP", *options],
        ["11", *common, "5", "1", "CW", *options],
        ["11", *common, "1", "2", "XX", *options],
        ["99", *common, "1", "3", "CW", *options],
        ["11", *common, "1", "4", "CW", *options[:4], ""],
        ["11", *common, "1", "0", "CH", *options],
    ]
    folder = tmp_path / "NExT-QA"
    write_csv(folder / "val.csv", header, rows)
    write_json(folder / "map_vid_vidorID.json", {"11": "1201/11"})
    reading = NextQA(str(tmp_path)).read("val")
    (record,) = reading.records
    assert (record.volume, record.task, record.subtask) == ("VidOR/1201/11.mp4", "temporal", "TP")
    assert record.answer_letter == "E" and record.extra["answer_index"] == 4
    (frames,) = NextQA(str(tmp_path), videos="frames").read("val").records
    assert frames.volume == "VidOR/1201/11"
    kinds = ["choice", "subtype", "missing_volume", "empty", "duplicate_id"]
    assert [p.kind for p in reading.problems] == kinds
    assert [p.where[-2:] for p in reading.problems] == [":3", ":4", ":5", ":6", ":7"]


@pytest.mark.parametrize(
    ("text", "official", "strict"),
    [
        ("C", 1, 1),
        (" c ", 1, 1),
        ("2", 1, 1),  # the published files count from 0
        ("3", 0, 0),
        ("5", 0, 0),
        ("(C)", 0, 1),
        ("C. run away", 0, 1),
        ("run away", 0, 1),
        ("Because the man sits", 0, 0),
        ("C or D", 0, 0),
        ("", 0, 0),
    ],
)
def test_nextqa_answers(text, official, strict):
    row = choice(0, text, "C", FIVE, "causal", "CH")
    assert judge_video(row, "official").value == official
    assert judge_video(row, "paper").value == official
    assert judge_video(row, "strict").value == strict


def test_previous_counts_as_next_in_the_official_protocol_only():
    rows = [
        choice(0, "A", "A", FIVE, "temporal", "TN"),
        choice(1, "B", "A", FIVE, "temporal", "TP"),
        choice(2, "A", "A", FIVE, "temporal", "TC"),
        choice(3, "A", "A", FIVE, "causal", "CW"),
    ]
    benchmark = NextQA()
    official, paper = (benchmark.score(rows, p).measures for p in ("official", "paper"))
    assert official["NExT-QA", "Temp.-Next"].value() == 0.5
    assert ("NExT-QA", "Temp.-Present") not in official
    assert paper["NExT-QA", "Temp.-Next"].value() == 1.0
    assert paper["NExT-QA", "Temp.-Present"].value() == 0.0
    for measures in (official, paper):
        assert measures["NExT-QA", "Acc_T"].value() == pytest.approx(2 / 3)
        assert measures["NExT-QA", "Avg. Acc"].value() == 0.75
        assert measures["NExT-QA", "Causal-Why"].value() == 1.0
