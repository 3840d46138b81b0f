"""DeepTumorVQA: equality, MRA, unweighted means, Table 5's counts, and v2's own evaluator."""

import pytest

from photon.benchmarks.deeptumorvqa import DeepTumorVQA, first_number
from photon.benchmarks.deeptumorvqa_v2 import DeepTumorVQA2, first_letter, yes_or_no
from tests.benchmarks.rows import choice, free

V1, V2 = DeepTumorVQA(), DeepTumorVQA2()


def number(id, prediction, answer, subtask="organ volume measurement", task="measurement"):
    return free(id, prediction, answer, task, subtask)


def existence(id, prediction, answer, subtask="kidney tumor existence"):
    return free(id, prediction, answer, "recognition", subtask)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12-14", 12), ("T-12", -12), ("1,234", 1), ("2e3 mL", 2000), ("about .5", 0.5),
        ("12. ", 12), ("+3", 3), ("none", None), ("", None),
    ],
)  # fmt: skip
def test_the_papers_number_is_the_first_with_its_sign(text, expected):
    assert first_number(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "official", "strict"),
    [
        ("75", "100", 0.5, 0.5),
        ("about 75 cm^3", "100 cm^3", 0.5, 0.5),
        ("1,234", "1234", 0.0, 1.0),  # a thousands separator ends the paper's number
        ("lots", "100", 0.0, 0.0),
        ("", "100", 0.0, 0.0),
        ("0", "0", 1.0, 1.0),
        ("left-40", "-40", 1.0, 0.0),  # a dash inside a word is no minus sign
    ],
)
def test_numbers_score_by_mra(prediction, answer, official, strict):
    row = number(0, prediction, answer)
    assert V1.judge(row, "official").value == pytest.approx(official)
    assert V1.judge(row, "strict").value == pytest.approx(strict)


@pytest.mark.parametrize(
    ("prediction", "official", "strict"),
    [
        ("left kidney", 1, 1),
        ("Left kidney", 0, 1),
        ("left kidney.", 0, 1),
        ("right", 0, 0),
        ("", 0, 0),
    ],
)
def test_free_text_is_compared_to_the_character_or_normalised(prediction, official, strict):
    row = free(0, prediction, "left kidney", "visual_reasoning", "kidney volume comparison")
    assert V1.judge(row, "official").value == official
    assert V1.judge(row, "strict").value == strict


@pytest.mark.parametrize(
    ("prediction", "official", "strict"),
    [("C", 1, 1), ("C.", 0, 1), ("c", 0, 1), ("right kidney", 0, 1), ("A or C", 0, 0), ("A", 0, 0)],
)
def test_choices(prediction, official, strict):
    options = ("left kidney", "the same", "right kidney")
    row = choice(0, prediction, "C", options, "visual_reasoning", "kidney volume comparison")
    assert V1.judge(row, "official").value == official
    assert V1.judge(row, "strict").value == strict


def test_means_count_each_subtype_once():
    rows = [number(i, "100", "100", "organ_volume_measurement") for i in range(8)]
    rows += [number(8, "1", "100", "organ_HU_measurement")]
    rows += [existence(9, "yes", "yes", "liver lesion existence")]
    measures = V1.score(rows, "official").measures
    assert measures["Meas.", "Average"].value() == pytest.approx((1 + 0) / 2)
    assert measures["Recog.", "Average"].value() == 1.0
    # Over the three subtypes, not over the two types.
    assert measures["Total", "Average"].value() == pytest.approx((1 + 0 + 1) / 3)


def test_both_forms_are_columns_of_their_own():
    rows = [choice(0, "A", "A", ("x", "y"), "measurement", "lesion volume measurement")]
    rows += [number(1, "5", "5")]
    assert {name: len(part) for name, part in V1.variants(rows).items()} == {
        "Multi-choice": 1,
        "Free-text": 1,
    }


def clinical(pairs, protocol, benchmark=V1):
    rows = [existence(i, prediction, answer) for i, (prediction, answer) in enumerate(pairs)]
    scored = benchmark.score(rows, protocol)
    values = [scored.measures["Kidney tumor", name].value()
              for name in ("Sensitivity", "Specificity", "Accuracy")]  # fmt: skip
    return values, [note for note in scored.notes if "Kidney" in note]


def test_table_5_by_hand():
    pairs = [("yes", "yes")] * 3 + [("no", "yes")] + [("no", "no")] * 5 + [("Present.", "no")]
    assert clinical(pairs, "official") == ([0.75, 5 / 6, 0.8], [])


def test_an_unreadable_answer_is_skipped_as_published_and_wrong_when_strict():
    pairs = [("yes", "yes"), ("perhaps", "yes"), ("no", "no"), ("", "no")]
    values, notes = clinical(pairs, "official")
    assert values == [1.0, 1.0, 1.0] and "2 of 4" in notes[0]
    assert clinical(pairs, "strict") == ([0.5, 0.5, 0.5], [])
    # v2: what cannot be read is no positive, and yet no right answer.
    assert clinical(pairs, "official", V2)[0] == [0.5, 1.0, 0.5]


def test_synonyms_of_both_languages():
    pairs = [("\u6709", "yes"), ("\u65e0", "no"), ("TRUE", "yes"), ("not exist", "no")]
    assert clinical(pairs, "official")[0] == [1.0, 1.0, 1.0]


# v2 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [("75", 0.75), ("50", 0.5), ("104 mL", 0.96), ("300", 0.0), ("?", 0.0),
     ("<think>9</think> 75", 0.75), ("<think>9 and then", 0.0)],
)  # fmt: skip
def test_v2_scores_numbers_without_thresholds(prediction, expected):
    assert V2.judge(number(0, prediction, "100"), "official").value == pytest.approx(expected)


def test_v2_strict_is_real_mra():
    assert V2.judge(number(0, "75", "100"), "strict").value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "letter"),
    [("B", "B"), ("b)", "B"), ("Both kidneys", "B"), ("The answer is C", "C"), ("E", ""),
     ("", ""), ("Answer: d", "A")],
)  # fmt: skip
def test_v2_takes_a_first_capital_or_the_first_lone_letter(text, letter):
    assert first_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Yes, it is", "yes"), ("nothing", "no"), ("I say no", "no"), ("no or yes", "no"),
     ("well, yes or no", "yes"), ("unknown", ""), ("", "")],
)  # fmt: skip
def test_v2_reads_yes_and_no_in_its_own_way(text, expected):
    assert yes_or_no(text) == expected


def test_v2_weighs_questions_and_reports_tolerance_bands():
    rows = [number(i, "96", "100") for i in range(3)] + [existence(9, "no", "yes")]
    measures = V2.score(rows, "official").measures
    assert measures["Total", "By question"].value() == pytest.approx((3 * 0.96 + 0) / 4)
    assert measures["Total", "Average"].value() == pytest.approx((0.96 + 0) / 2)
    assert measures["Numbers", "Within 5%"].value() == 1.0
    far = V2.score([number(0, "85", "100")], "official").measures
    bands = {name: far["Numbers", f"Within {name}%"].value() for name in (5, 10, 20, 50)}
    assert bands == {5: 0.0, 10: 0.0, 20: 1.0, 50: 1.0}


@pytest.mark.parametrize(
    ("prediction", "answer", "lenient"),
    [
        ("The answer is yes", "yes", 1), ("Yes, there is a tumor.", "yes", 1),
        ("No, yes", "yes", 0),
        ("There is no tumor", "no", 1), ("There is no tumor", "yes", 0), ("perhaps", "no", 0),
        ("It is the left kidney.", "left kidney", 1), ("It is the kidney.", "left kidney", 0),
        ("", "yes", 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("benchmark", [V1, V2])
def test_lenient_reads_an_answer_inside_a_sentence(benchmark, prediction, answer, lenient):
    row = existence(0, prediction, answer, "fatty liver")
    assert benchmark.judge(row, "lenient").value == lenient
    exact = prediction.lower().rstrip(".") == answer
    assert benchmark.judge(row, "strict").value == float(exact)
