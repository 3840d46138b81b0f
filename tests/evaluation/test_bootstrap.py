"""Bootstrap against loops that draw the same numbers, and against the normal law."""

import numpy as np
import pytest

from photon.evaluation import bootstrap
from photon.evaluation.bootstrap import bootstrap_mean, paired_difference


def loop_means(values, resamples, rng):
    draws = rng.integers(0, len(values), (resamples, len(values)))
    return [sum(values[i] for i in draw) / len(values) for draw in draws]


def test_equals_a_loop_with_the_same_draws():
    values = [0.0, 1.0, 1.0, 0.5, 0.0, 1.0, 0.25]
    got = bootstrap_mean(values, resamples=200, seed=3)
    means = loop_means(values, 200, np.random.default_rng(3))
    assert got.mean == pytest.approx(sum(values) / 7)
    assert got.low == pytest.approx(np.percentile(means, 2.5))
    assert got.high == pytest.approx(np.percentile(means, 97.5))
    assert got.n == 7


def test_blocks_do_not_change_the_draws(monkeypatch):
    values = np.random.default_rng(0).random(50)
    whole = bootstrap_mean(values, seed=1)
    monkeypatch.setattr(bootstrap, "BLOCK", 333)  # 6 resamples at a time
    assert bootstrap_mean(values, seed=1) == whole


def test_interval_agrees_with_the_normal_law():
    values = (np.random.default_rng(0).random(2000) < 0.7).astype(float)
    got = bootstrap_mean(values, resamples=2000)
    half = 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / 2000)
    assert got.low == pytest.approx(values.mean() - half, abs=0.003)
    assert got.high == pytest.approx(values.mean() + half, abs=0.003)


def test_pairs_are_drawn_together():
    rng = np.random.default_rng(0)
    hard = (rng.random(400) < 0.5).astype(float)
    better = np.maximum(hard, (rng.random(400) < 0.05).astype(float))  # right wherever `hard` is
    paired = paired_difference(better, hard)
    assert paired.low > 0  # an unpaired interval of this width contains 0
    assert paired.mean == pytest.approx(better.mean() - hard.mean())
    unpaired = bootstrap_mean(hard)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)
    same = paired_difference(hard, hard)
    assert (same.low, same.mean, same.high) == (0, 0, 0)


def test_order_of_a_pair_flips_the_sign():
    a, b = np.random.default_rng(1).random((2, 60))
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert forward.low == pytest.approx(-backward.high)
    assert forward.high == pytest.approx(-backward.low)


def test_groups_give_the_macro_mean_and_stay_whole():
    values, groups = [1.0] * 90 + [0.0] * 10, ["a"] * 90 + ["b"] * 10
    got = bootstrap_mean(values, groups=groups)
    assert (got.mean, got.low, got.high) == (0.5, 0.5, 0.5)  # constant within each group
    mixed = bootstrap_mean([1.0, 0.0, 1.0, 1.0], groups=["a", "a", "b", "b"], resamples=500)
    assert mixed.mean == 0.75 and mixed.low == 0.5 and mixed.high == 1.0


def test_clusters_widen_the_interval_of_correlated_questions():
    per_patient = (np.random.default_rng(0).random(50) < 0.5).astype(float)
    values, patients = np.repeat(per_patient, 20), np.repeat(np.arange(50), 20)
    plain, clustered = bootstrap_mean(values), bootstrap_mean(values, clusters=patients.tolist())
    ratio = (clustered.high - clustered.low) / (plain.high - plain.low)
    assert ratio == pytest.approx(np.sqrt(20), rel=0.2)
    single = bootstrap_mean(per_patient, clusters=list(range(50)), seed=5)
    assert single == bootstrap_mean(per_patient, seed=5)  # clusters of one are plain questions


def test_seeds_and_degenerate_input():
    values = np.random.default_rng(0).random(30)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)
    assert bootstrap_mean([]) is None
    one = bootstrap_mean([0.25])
    assert (one.low, one.high) == (0.25, 0.25)
    for bad in (
        lambda: bootstrap_mean([np.nan]),
        lambda: bootstrap_mean([1.0], resamples=0),
        lambda: bootstrap_mean([1.0], level=95),
        lambda: bootstrap_mean([1.0], groups=["a", "b"]),
        lambda: bootstrap_mean([1.0], groups=["a"], clusters=["a"]),
        lambda: paired_difference([1.0], [1.0, 0.0]),
    ):
        with pytest.raises(ValueError):
            bad()
