"""Measures: means over groups of ratios of sums, their intervals and paired differences."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from photon.evaluation.measures import Measure, balanced_of, mean_of, ratio
from photon.evaluation.text_metrics import bleu1_counts, bleu1_of

PAIRS = [
    ("right hilar region .", "Right hilar region."),
    ("30x13 mm", "30x13 mm"),
    ("the the the lung", "the lung"),
    ("", "pacemaker"),
    ("a nodule", "a small nodule in the right upper lobe"),
]


def ids(n):
    return [f"q{i:03}" for i in range(n)]


def test_groups_count_alike_whatever_their_size():
    measure = mean_of(ids(5), ["a"] * 4 + ["b"], [1, 1, 1, 0, 0])
    assert measure.value() == pytest.approx((0.75 + 0) / 2)
    assert mean_of(ids(5), ["a"] * 5, [1, 1, 1, 0, 0]).value() == pytest.approx(0.6)
    assert mean_of([], [], []).value() is None


@pytest.mark.parametrize("part", [slice(0, 5), slice(0, 2), slice(2, 5), slice(3, 4)])
def test_bleu1_of_counts_is_sacrebleus_corpus_bleu(part):
    predictions, references = zip(*PAIRS[part], strict=True)
    scorer = BLEU(max_ngram_order=1, smooth_method="none")
    expected = scorer.corpus_score(list(predictions), [list(references)]).score / 100
    counts = np.array([bleu1_counts(p, r) for p, r in PAIRS[part]], float)
    got = Measure(tuple(predictions), ("all",) * len(counts), counts, bleu1_of).value()
    assert got == pytest.approx(expected)


def test_bleu1_by_hand():
    # "the" counts once, as it stands once in the reference: 2 of 4 words; no brevity penalty.
    assert bleu1_counts("the the the lung", "the lung") == (2, 4, 2)
    assert bleu1_of(np.array([2, 4, 2])) == pytest.approx(0.5)
    assert bleu1_of(np.array([2, 2, 8])) == pytest.approx(np.exp(1 - 8 / 2))
    assert bleu1_of(np.array([0, 0, 3])) == 0


def test_balanced_accuracy_of_a_constant_answer_is_one_over_the_classes():
    truth = ["no"] * 90 + ["yes"] * 8 + ["maybe"] * 2
    right = [t == "no" for t in truth]
    assert mean_of(ids(100), ["all"] * 100, right).value() == pytest.approx(0.9)
    assert balanced_of(ids(100), ["all"] * 100, right, truth).value() == pytest.approx(1 / 3)


def test_the_interval_is_that_of_the_binomial():
    values = np.arange(400) < 100
    interval = mean_of(ids(400), ["all"] * 400, values).interval()
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert interval.mean == 0.25 and interval.n == 400
    assert interval.low == pytest.approx(0.25 - half, abs=0.008)
    assert interval.high == pytest.approx(0.25 + half, abs=0.008)


def test_questions_are_drawn_within_their_group():
    # Each group is constant, so no resample can differ.
    interval = mean_of(ids(30), ["a"] * 20 + ["b"] * 10, [1.0] * 20 + [0.0] * 10).interval()
    assert interval.low == interval.mean == interval.high == 0.5


def test_differences_are_paired_by_question_and_not_by_place():
    rng = np.random.default_rng(0)
    values = rng.random(200)
    first = mean_of(ids(200), ["all"] * 200, values + 0.1)
    order = rng.permutation(200)
    names = ids(200)
    second = mean_of([names[i] for i in order], ["all"] * 200, values[order])
    difference = first.minus(second)
    # Paired, every question differs by 0.1; unpaired the interval would be about 0.06 wide.
    assert difference.low == pytest.approx(0.1) and difference.high == pytest.approx(0.1)
    assert first.minus(mean_of(["other"], ["all"], [1.0])) is None


def test_a_part_of_the_questions_is_compared_on_what_both_answered():
    first = mean_of(ids(10), ["all"] * 10, [1] * 5 + [0] * 5)
    second = mean_of(ids(5), ["all"] * 5, [0] * 5)
    assert first.minus(second).mean == 1.0 and first.minus(second).n == 5


def test_a_ratio_without_any_case_is_undefined_and_resamples_without_it_are_left_out():
    none = Measure(("a", "b"), ("g", "g"), np.zeros((2, 2)), ratio)
    assert none.value() is None and none.interval() is None
    # One positive case of three: some resamples have none.
    stats = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    rare = Measure(("a", "b", "c"), ("g",) * 3, stats, ratio).interval()
    assert (rare.mean, rare.low, rare.high) == (1.0, 1.0, 1.0)


def test_seeds_are_averaged_question_by_question():
    one = mean_of(ids(3), ["g"] * 3, [1, 0, 0])
    two = mean_of(ids(3)[::-1], ["g"] * 3, [1, 1, 0])  # of q002, q001, q000
    both = Measure.average([one, two])
    assert both.ids == ("q000", "q001", "q002")
    assert both.stats[:, 0].tolist() == [0.5, 0.5, 0.5]
    assert both.value() == pytest.approx((one.value() + two.value()) / 2)


def test_the_median_of_resamples_is_near_the_mean_and_seeded():
    values = np.random.default_rng(1).random(300)
    plain = mean_of(ids(300), ["g"] * 300, values)
    median = Measure(plain.ids, plain.groups, plain.stats, centre="median")
    assert median.value() == median.value()
    assert median.value() == pytest.approx(plain.value(), abs=0.003)
    assert median.value() != plain.value()
