"""SLAKE, MedFrameQA and NExT-QA: the trap cases of each parser, and the rows of Tables 7, 9, 10."""

import pytest

from photon.benchmarks import slake
from photon.benchmarks.medframeqa import MedFrameQA, modality_of, official_letter
from photon.benchmarks.medframeqa import judge as judge_frames
from photon.benchmarks.nextqa import NextQA
from photon.benchmarks.nextqa import judge as judge_video
from tests.benchmarks.rows import choice, free

YES, NO = "\u662f", "\u4e0d\u662f"
LUNG, COMMA, STOP = "\u80ba", "\uff0c", "\u3002"
FIVE = ("sit", "stand", "run away", "jump. then fall", "wave")
SIX = (*FIVE, "both arms")


# SLAKE ------------------------------------------------------------------------------------------


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
def test_slake(prediction, answer, official, strict):
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


# MedFrameQA -------------------------------------------------------------------------------------


def letters(texts):
    return dict(zip("ABCDEFGH", texts, strict=False))


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


# NExT-QA ----------------------------------------------------------------------------------------


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
def test_nextqa(text, official, strict):
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
