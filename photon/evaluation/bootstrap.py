"""Percentile bootstrap over questions, for a mean and for paired differences of means.

Not in the paper except for one row (Table 5, 1,000 resamples): every comparison here carries an
interval, because a difference of a point on a few hundred questions is mostly noise.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

BLOCK = 2_000_000  # indices drawn at a time: 16 MB, whatever the number of questions


@dataclass(frozen=True)
class Interval:
    """Point estimate with its percentile interval at `level`, over `n` questions."""

    mean: float
    low: float
    high: float
    n: int
    level: float = 0.95

    def as_dict(self) -> dict[str, float]:
        """Plain dictionary for metrics.json."""
        return asdict(self)


def bootstrap_mean(
    values: Sequence[float],
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    groups: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
) -> Interval | None:
    """Interval of the mean of `values` [Q]; None for no values.

    groups [Q]: the statistic is the unweighted mean of the group means (macro), and each group is
    resampled within itself. clusters [Q]: whole clusters are drawn (questions of one patient hang
    together and make the plain interval too narrow). One of the two at most.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        return None
    if not np.isfinite(values).all():
        raise ValueError("values must be finite; leave questions without a score out")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples={resamples} must be >= 1 and level={level} within (0, 1)")
    if groups is not None and clusters is not None:
        raise ValueError("give groups or clusters, not both")
    rng = np.random.default_rng(seed)
    if clusters is not None:
        means = _cluster_means(values, _codes(clusters, values.size), resamples, rng)
    elif groups is not None:
        codes = _codes(groups, values.size)
        parts = [values[codes == g] for g in range(codes.max() + 1)]
        means = np.mean([_resampled_means(part, resamples, rng) for part in parts], axis=0)
        point = float(np.mean([part.mean() for part in parts]))
        return _interval(point, means, values.size, level)
    else:
        means = _resampled_means(values, resamples, rng)
    return _interval(float(values.mean()), means, values.size, level)


def paired_difference(
    first: Sequence[float], second: Sequence[float], **options
) -> Interval | None:
    """Interval of mean(first) - mean(second) where both answered the same questions, in order.

    A resample draws questions, with both answers; options are those of `bootstrap_mean`.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{first.size} and {second.size} values; a pair needs the same questions")
    return bootstrap_mean(first - second, **options)


def _interval(point: float, means: np.ndarray, n: int, level: float) -> Interval:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(point, float(low), float(high), n, level)


def _codes(labels: Sequence[Hashable], n: int) -> np.ndarray:
    if len(labels) != n:
        raise ValueError(f"{len(labels)} labels for {n} values; give one per value")
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels])


def _resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means [resamples] of draws with replacement, in blocks that bound the memory."""
    size = max(1, BLOCK // values.size)
    blocks = []
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        blocks.append(values[rng.integers(0, values.size, (rows, values.size))].mean(axis=1))
    return np.concatenate(blocks)


def _cluster_means(
    values: np.ndarray, codes: np.ndarray, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Ratio of sums over drawn clusters, so that a drawn cluster brings all its questions."""
    sums, counts = np.bincount(codes, weights=values), np.bincount(codes)
    size = max(1, BLOCK // counts.size)
    blocks = []
    for start in range(0, resamples, size):
        draw = rng.integers(0, counts.size, (min(size, resamples - start), counts.size))
        blocks.append(sums[draw].sum(axis=1) / counts[draw].sum(axis=1))
    return np.concatenate(blocks)
