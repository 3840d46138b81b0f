"""Metrics against hand-worked values and loop references."""

import math
import time
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from photon.evaluation import metrics

SIDES = {"A": "left", "B": "right", "C": "both sides"}


@pytest.mark.parametrize(
    "text",
    [
        "B", "b", "B.", "(B)", "[B]", '"B"', "**B**", " B\n", "B)", "Answer: B", "Answer:B",
        "answer is B",
        "The answer is (B).", "Final answer: **B. right**", "\\boxed{B}", "right", "Right.",
        "RIGHT",
        "B. right", "B) right", "B: right", "(B) right", "B - right", "It is the right one",
        "option b",
        "I think B", "B, because it is larger than the left", "<think>A, surely</think>B",
        "e.g. right",
        "A lesion is in the right lobe", "The answer: B",
        "\uff08B\uff09",
    ],
)  # fmt: skip
def test_one_named_letter_is_read(text):
    assert metrics.parse_letter(text, SIDES) == "B"


@pytest.mark.parametrize(
    "text",
    [
        None, "", "  ", "A or B", "A, B", "A and B", "AB", "B or E", "E", "E.", "B. left",
        "left and right",
        "Not A, but B", "I", "a lesion", "A lesion is here", "nothing named", "B\nA. left",
        "Answer: A. Answer: B", "Answer: A or B", "<think>B", "both sides of the right",
        "A. left B. right C. both sides",
    ],
)  # fmt: skip
def test_none_or_several_named_letters_are_wrong(text):
    assert metrics.parse_letter(text, SIDES) is None


def test_letters_in_option_texts_do_not_count_as_letters():
    choices = {"A": "segment B", "B": "segment A", "C": "left", "D": "left upper lobe"}
    assert metrics.parse_letter("segment B", choices) == "A"
    assert metrics.parse_letter("A. segment B", choices) == "A"
    assert metrics.parse_letter("in the left upper lobe", choices) == "D"
    assert metrics.parse_letter("in the left lung", choices) == "C"
    assert metrics.parse_letter("same", {"A": "same", "B": "same"}) is None


def test_degenerate_output_takes_no_time():
    for unit in ("A (B (C ", "Answer: ", "(*((* a", "9", "1,234,", "left ", "boxed{", "a." * 3):
        text = unit * 5000
        start = time.perf_counter()
        metrics.parse_letter(text, SIDES)
        metrics.parse_number(text)
        assert time.perf_counter() - start < 2, unit


def test_letters_beyond_d_and_without_choices():
    assert metrics.parse_letter("F. spleen", dict(zip("ABCDEF", "uvwxyz", strict=True))) == "F"
    assert metrics.parse_letter("C. No", None) == "C"
    assert metrics.parse_letter("E", {"A": "x"}) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Left-sided.", "left sided"), ("1.5 cm", "1.5 cm"), ("-50 HU", "-50 hu"), ("\u221250 HU",
        "-50 hu"),
        ("3\u20134 mm", "3-4 mm"), ("50%", "50%"), ("(Yes)", "yes"), ("10.", "10"), ("  a \n b ",
        "a b"),
        (".5 mL", ".5 ml"), ("10:30", "10:30"), ("\u201cno\u201d", "no"), ("5 mm, left",
        "5 mm left"),
        (None, ""), ("\u53f3\u80ba\u3002", "\u53f3\u80ba"),
    ],
)  # fmt: skip
def test_normalisation_drops_punctuation_but_no_number(text, expected):
    assert metrics.normalize_text(text) == expected


def test_exact_match_keeps_numbers_apart_and_rejects_empty():
    assert metrics.exact_match("Yes.", "yes")
    assert not metrics.exact_match("15 cm", "1.5 cm")
    assert not metrics.exact_match("50 HU", "-50 HU")
    assert not metrics.exact_match("", "") and not metrics.exact_match(None, ".")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1420 mL", 1420), ("about -3.5e1 HU", -35), ("1,234.5", 1234.5), ("12,34", 12),
        (".5", 0.5), ("5.", 5), ("3-4", 3), ("T-12", 12), ("Volume:-4", -4), ("\u22127", -7),
        ("1,234,567", 1234567), ("none", None), (None, None), ("1,2345", 1),
    ],
)  # fmt: skip
def test_number_parsing(text, number):
    assert metrics.parse_number(text) == number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("75", 75),
        ("75. cm", 75),
        ("about 75", None),
        ("75cm", None),
        ("12\n34", None),
        ("", None),
        ("nan", None),
    ],
)
def test_vsi_reads_the_first_token_only(text, expected):
    assert metrics.parse_number_vsi(text) == expected


@pytest.mark.parametrize(
    ("prediction", "target", "strict", "vsi"),
    [
        (75, 100, 0.5, 0.6), (50, 100, 0.0, 0.1), (104, 100, 1.0, 1.0), (0, 0, 1.0, 1.0),
        (1, 0, 0.0, 0.0),
        # Ties fall where rounding puts them: 1 - 0.9 is below 0.1, but not with linspace's 0.9.
        (95, 100, 1.0, 1.0), (90, 100, 0.8, 0.9),
        (None, 100, 0.0, 0.0), (float("inf"), 100, 0.0, 0.0),
        (-30, -40, 0.5, 1.0),
        (60, -40, 0.0, 1.0), (200, 100, 0.0, 0.0),
    ],
)  # fmt: skip
def test_mra_conventions_are_pinned(prediction, target, strict, vsi):
    assert metrics.mean_relative_accuracy(prediction, target) == pytest.approx(strict)
    assert metrics.mean_relative_accuracy(prediction, target, "vsi") == pytest.approx(vsi)


def test_mra_equals_exact_arithmetic_away_from_ties():
    thresholds = [Fraction(50 + 5 * i, 100) for i in range(10)]
    for prediction in range(1, 260, 7):
        error = abs(Fraction(prediction) - 101) / 101  # 101 is prime: no error meets a threshold
        expected = sum(error < 1 - t for t in thresholds) / 10
        for convention in ("strict", "vsi"):
            got = metrics.mean_relative_accuracy(prediction, 101, convention)
            assert got == pytest.approx(expected), (prediction, convention)


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [(75, 100, 0.75), (50, 100, 0.5), (104, 100, 0.96), (-30, -40, 0.75), (0, 0, 1.0),
     (1, 0, 0.0), (300, 100, 0.0), (None, 100, 0.0)],
)  # fmt: skip
def test_mra_without_thresholds_is_the_second_benchmarks(prediction, target, expected):
    got = metrics.mean_relative_accuracy(prediction, target, "continuous")
    assert got == pytest.approx(expected)


def test_mra_refuses_what_it_cannot_judge():
    with pytest.raises(ValueError, match="convention"):
        metrics.mean_relative_accuracy(1, 1, "exact")
    with pytest.raises(ValueError, match="finite"):
        metrics.mean_relative_accuracy(1, float("nan"))


def test_balanced_accuracy_of_a_constant_is_one_over_classes():
    gold = ["no"] * 82 + ["yes"] * 18
    assert metrics.accuracy([g == "no" for g in gold]) == pytest.approx(0.82)
    assert metrics.balanced_accuracy([g == "no" for g in gold], gold) == pytest.approx(0.5)
    # 2 of 4 for a, 1 of 1 for b
    assert metrics.balanced_accuracy([1, 1, 0, 0, 1], list("aaaab")) == pytest.approx(0.75)
    assert metrics.balanced_accuracy([], []) is None
    with pytest.raises(ValueError, match="classes"):
        metrics.balanced_accuracy([True], [])


def loop_bleu1(predictions, references):
    """Clipped unigram precision times brevity penalty, where spaces split the tokens."""
    matched = length = reference_length = 0
    for prediction, reference in zip(predictions, references, strict=True):
        counts, limit = Counter(prediction.split()), Counter(reference.split())
        matched += sum(min(n, limit[token]) for token, n in counts.items())
        length += len(prediction.split())
        reference_length += len(reference.split())
    if matched == 0:
        return 0.0
    penalty = 1.0 if length >= reference_length else math.exp(1 - reference_length / length)
    return penalty * matched / length


def test_bleu1_equals_the_loop():
    rng = np.random.default_rng(0)
    words = ["liver", "left", "Left", "the", "30x13", "mm", "cyst"]
    for _ in range(20):
        n = int(rng.integers(1, 6))
        texts = [
            [" ".join(rng.choice(words, rng.integers(1, 8))) for _ in range(n)] for _ in range(2)
        ]
        texts[0][0] = "" if n > 1 else texts[0][0]
        assert metrics.bleu1(*texts) == pytest.approx(loop_bleu1(*texts), abs=1e-12)


def test_bleu1_uses_13a_tokens_and_guards_empty_answers():
    assert metrics.bleu1(["a cyst, small"], ["a cyst , small"]) == pytest.approx(1.0)
    assert metrics.bleu1(["", None], ["a", "b"]) == 0.0
    assert metrics.bleu1([], []) is None
    assert metrics.bleu1([None, "b"], ["a", "b"]) == pytest.approx(math.exp(-1))
    with pytest.raises(ValueError, match="references"):
        metrics.bleu1(["a"], [])


def test_rouge1_is_the_mean_f_of_unigrams():
    # 2 of 3 predicted and 2 of 4 true words agree: P 2/3, R 1/2, F 4/7; cases and marks are ignored
    assert metrics.rouge1(["A b, c"], ["a b d e"]) == pytest.approx(4 / 7)
    assert metrics.rouge1(["A b, c", None], ["a b d e", "x"]) == pytest.approx(2 / 7)
    assert metrics.rouge1([], []) is None


@pytest.mark.parametrize("letter", "ABCDE")
@pytest.mark.parametrize(
    "form",
    ["{}\nBecause it is.", '{{"answer": "{}"}}', "<answer>{}</answer>",
     "```json\n{{'answer': '{}'}}",
     "<answer>\n{}. \n</answer>", "Answer: {}\nBecause"],
)  # fmt: skip
def test_every_letter_is_read_alike(letter, form):
    options = dict(zip("ABCDE", ("yes", "no", "left", "right", "both"), strict=True))
    assert metrics.parse_letter(form.format(letter), options) == letter


def test_an_article_is_no_letter():
    assert metrics.parse_letter("A lesion is seen", {"A": "yes", "B": "no"}) is None
