"""Measures: means over groups of ratios of sums, their intervals by patient, paired differences."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from photon.evaluation.intervals import balanced_of, mean_of, measure_of
from photon.evaluation.text_metrics import bleu1_counts, bleu1_of

PAIRS = [
    ("right hilar region .", "Right hilar region."),
    ("30x13 mm", "30x13 mm"),
    ("the the the lung", "the lung"),
    ("", "pacemaker"),
    ("a nodule", "a small nodule in the right upper lobe"),
]


def rows(n, patients=None):
    """Rows of n questions; each its own patient by default."""
    return [
        {"id": f"q{i:03}", "patient": f"p{i if patients is None else patients[i]}"}
        for i in range(n)
    ]


def loop_interval(values, groups, patients, resamples, seed):
    """Macro means of drawn patients, one resample at a time."""
    rng, names = np.random.default_rng(seed), list(dict.fromkeys(patients))
    means = []
    for draw in rng.integers(0, len(names), (resamples, len(names))):
        drawn = {g: [] for g in groups}
        for place in draw:
            for value, group, patient in zip(values, groups, patients, strict=True):
                if patient == names[place]:
                    drawn[group].append(value)
        means.append(np.mean([np.mean(v) for v in drawn.values() if v]))
    return np.percentile(means, [2.5, 97.5])


def test_an_interval_is_that_of_a_loop_that_draws_patients():
    values = [0.0, 1.0, 1.0, 0.5, 0.0, 1.0, 0.25, 1.0]
    groups, patients = list("aabbabba"), [0, 0, 1, 1, 2, 3, 3, 4]
    got = mean_of(rows(8, patients), values, groups).interval(200, seed=3)
    low, high = loop_interval(values, groups, patients, 200, 3)
    assert got.mean == pytest.approx((2.0 / 4 + 2.75 / 4) / 2)
    assert (got.low, got.high) == pytest.approx((low, high))
    assert (got.n, got.patients) == (8, 5)


def test_groups_count_alike_whatever_their_size():
    values = [1, 1, 1, 0, 0]
    assert mean_of(rows(5), values, list("aaaab")).value() == pytest.approx((0.75 + 0) / 2)
    assert mean_of(rows(5), values).value() == pytest.approx(0.6)
    assert mean_of([], []).value() is None and mean_of([], []).interval() is None
    with pytest.raises(ValueError, match="finite"):
        mean_of(rows(1), [np.nan])


@pytest.mark.parametrize("part", [slice(0, 5), slice(0, 2), slice(2, 5), slice(3, 4)])
def test_bleu1_of_counts_is_sacrebleus_corpus_bleu(part):
    predictions, references = zip(*PAIRS[part], strict=True)
    scorer = BLEU(max_ngram_order=1, smooth_method="none")
    expected = scorer.corpus_score(list(predictions), [list(references)]).score / 100
    counts = np.array([bleu1_counts(p, r) for p, r in PAIRS[part]], float)
    measure = measure_of(rows(len(counts)), counts, combine=bleu1_of)
    assert measure.value() == pytest.approx(expected)


def test_bleu1_by_hand():
    # "the" counts once, as it stands once in the reference: 2 of 4 words; no brevity penalty.
    assert bleu1_counts("the the the lung", "the lung") == (2, 4, 2)
    assert bleu1_of(np.array([2, 4, 2])) == pytest.approx(0.5)
    assert bleu1_of(np.array([2, 2, 8])) == pytest.approx(np.exp(1 - 8 / 2))
    assert bleu1_of(np.array([0, 0, 3])) == 0


def test_balanced_accuracy_of_a_constant_answer_is_one_over_the_classes():
    truth = ["no"] * 90 + ["yes"] * 8 + ["maybe"] * 2
    right = [t == "no" for t in truth]
    assert mean_of(rows(100), right).value() == pytest.approx(0.9)
    assert balanced_of(rows(100), right, truth).value() == pytest.approx(1 / 3)


def test_the_interval_of_independent_questions_is_that_of_the_binomial():
    interval = mean_of(rows(400), np.arange(400) < 100).interval()
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert interval.mean == 0.25 and interval.n == interval.patients == 400
    assert interval.low == pytest.approx(0.25 - half, abs=0.008)
    assert interval.high == pytest.approx(0.25 + half, abs=0.008)


def test_questions_of_one_patient_widen_the_interval():
    each = (np.random.default_rng(0).random(50) < 0.5).astype(float)
    values, patients = np.repeat(each, 20), np.repeat(np.arange(50), 20)
    plain = mean_of(rows(1000), values).interval()
    clustered = mean_of(rows(1000, patients), values).interval()
    ratio = (clustered.high - clustered.low) / (plain.high - plain.low)
    assert ratio == pytest.approx(np.sqrt(20), rel=0.2)
    assert clustered.patients == 50
    nameless = [{"id": str(i), "volume": f"v{p}"} for i, p in enumerate(patients)]
    by_volume = mean_of(nameless, values).interval()  # where no patient is known
    assert (by_volume.low, by_volume.high) == (clustered.low, clustered.high)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_all_right_or_all_wrong_has_the_exact_interval_of_its_patients(n):
    """No resample differs; the binomial of n out of n patients, (0.025)^(1/n) to 1, does not."""
    patients = np.repeat(np.arange(n), 3)
    right = mean_of(rows(3 * n, patients), [1.0] * 3 * n).interval()
    assert (right.low, right.high) == pytest.approx((0.025 ** (1 / n), 1.0))
    wrong = mean_of(rows(3 * n, patients), [0.0] * 3 * n).interval()
    assert (wrong.low, wrong.high) == pytest.approx((0.0, 1 - 0.025 ** (1 / n)))
    tokens = mean_of(rows(3), [300.0] * 3, share=False).interval()
    assert (tokens.low, tokens.high) == (300.0, 300.0)  # a budget is met, not estimated


def test_differences_are_paired_by_question_and_not_by_place():
    rng = np.random.default_rng(0)
    values = rng.random(200)
    better = values + 0.1 + 0.01 * rng.random(200)
    first = mean_of(rows(200), better)
    order = rng.permutation(200)
    second = mean_of([rows(200)[i] for i in order], values[order])
    difference = first.minus(second)
    # Paired, every question differs by about 0.1; unpaired the interval would be 0.06 wide.
    assert difference.high - difference.low < 0.002
    assert difference.mean == pytest.approx(np.mean(better - values))
    back = second.minus(first)
    assert (back.low, back.high) == pytest.approx((-difference.high, -difference.low))
    assert first.minus(mean_of([{"id": "other"}], [1.0])) is None


def test_a_part_of_the_questions_is_compared_on_what_both_answered():
    first, second = mean_of(rows(10), [1] * 5 + [0] * 5), mean_of(rows(5), [0, 1, 0, 0, 0])
    assert first.minus(second).mean == 0.8 and first.minus(second).n == 5


def test_a_ratio_without_any_case_is_undefined_and_resamples_without_it_are_left_out():
    none = measure_of(rows(2), np.zeros((2, 2)))
    assert none.value() is None and none.interval() is None
    # One positive case of three: some resamples have none, and the others give 1.
    rare = measure_of(rows(3), np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])).interval()
    assert rare.mean == 1.0 and rare.high == 1.0


def test_seeds_are_averaged_question_by_question():
    one = mean_of(rows(3), [1, 0, 0])
    two = mean_of(rows(3)[::-1], [1, 1, 0])  # of q002, q001, q000
    both = one.average([one, two])
    assert both.ids == ("q000", "q001", "q002")
    assert both.stats[:, 0].tolist() == [0.5, 0.5, 0.5]
    assert both.value() == pytest.approx((one.value() + two.value()) / 2)


def test_the_median_of_resamples_is_near_the_mean_and_seeded():
    values = np.random.default_rng(1).random(300)
    plain, median = mean_of(rows(300), values), mean_of(rows(300), values, centre="median")
    assert median.value() == median.value()
    assert median.value() == pytest.approx(plain.value(), abs=0.003)
    assert median.value() != plain.value()


def test_seeds_give_other_draws():
    measure = mean_of(rows(30), np.random.default_rng(0).random(30))
    assert measure.interval(seed=1) == measure.interval(seed=1) != measure.interval(seed=2)
