"""Measures of a benchmark table: means over groups of a ratio of sums, with bootstrap intervals.

Accuracy, MRA, corpus BLEU-1, sensitivity and balanced accuracy all have this form, so that one
bootstrap over questions serves them all, corpus metrics included.

Shape suffixes: Q questions; S statistics summed over questions; R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from photon.evaluation.bootstrap import BLOCK, Interval

Combine = Callable[[np.ndarray], np.ndarray]
RESAMPLES = 1000


def ratio(sums: np.ndarray) -> np.ndarray:
    """[..., 2] sums of (value, weight) -> [...]; NaN where the weight is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def mean_ratio(sums: np.ndarray) -> np.ndarray:
    """[..., 2 C] sums of C (value, weight) pairs -> mean of the C ratios that have any weight."""
    ratios = ratio(sums.reshape(*sums.shape[:-1], -1, 2))
    there = ~np.isnan(ratios)
    count = there.sum(axis=-1)
    total = np.where(there, ratios, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class Measure:
    """The mean over groups of `combine` of the sums of each group's statistics.

    ids [Q]: questions; groups [Q]: what is averaged with equal weight (subtasks); stats [Q, S];
    combine: sums [..., S] -> value [...]. `centre="median"`: the point estimate is the median of
    1,000 resamples rather than the value itself, as Hugging Face `evaluate` gives ROUGE.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    stats: np.ndarray
    combine: Combine = ratio
    centre: str = "value"

    @property
    def n(self) -> int:
        return len(self.ids)

    def value(self, seed: int = 0) -> float | None:
        """Point estimate; None where it is not defined (no question, or no positive case)."""
        sums = [self.stats[rows].sum(axis=0) for rows in self._parts()]
        if self.centre == "median" and sums:
            value = float(np.mean(np.median(self._draws(RESAMPLES, seed, mean=False), axis=1)))
        else:
            value = float(np.mean([self.combine(s) for s in sums])) if sums else float("nan")
        return None if np.isnan(value) else value

    def interval(self, resamples: int = RESAMPLES, seed: int = 0) -> Interval | None:
        """95 % percentile interval; questions are drawn within their group."""
        value = self.value(seed)
        if value is None:
            return None
        return _interval(value, self._draws(resamples, seed), self.n)

    def minus(self, other: Measure, resamples: int = RESAMPLES, seed: int = 0) -> Interval | None:
        """Paired difference on the questions that both answered; None where there are none.

        A resample draws questions, with both answers.
        """
        shared = set(self.ids) & set(other.ids)
        own, its = self._only(shared), other._only(shared)
        if not own.ids or own.ids != its.ids or own.groups != its.groups:
            return None
        first, second = own.value(seed), its.value(seed)
        if first is None or second is None:
            return None
        draws = own._draws(resamples, seed) - its._draws(resamples, seed)
        return _interval(first - second, draws, own.n)

    @staticmethod
    def average(measures: Sequence[Measure]) -> Measure:
        """One measure of several runs (seeds): the mean of their statistics, question by question,
        on the questions that all of them have."""
        shared = set.intersection(*(set(m.ids) for m in measures))
        parts = [m._only(shared) for m in measures]
        return replace(parts[0], stats=np.mean([part.stats for part in parts], axis=0))

    def _only(self, ids: set[str]) -> Measure:
        """The part on `ids`, in order of the ids, so that two runs are drawn alike."""
        rows = sorted((i for i, key in enumerate(self.ids) if key in ids), key=self.ids.__getitem__)
        ids, groups = (tuple(names[i] for i in rows) for names in (self.ids, self.groups))
        return replace(self, ids=ids, groups=groups, stats=self.stats[rows])

    def _parts(self) -> list[np.ndarray]:
        codes = np.array(self.groups, dtype=object)
        return [np.flatnonzero(codes == name) for name in sorted(set(self.groups))]

    def _draws(self, resamples: int, seed: int, mean: bool = True) -> np.ndarray:
        """Resampled values [R], or of every group [groups, R] without `mean`."""
        rng = np.random.default_rng(seed)
        out = []
        for rows in self._parts():
            stats = self.stats[rows]
            size = max(1, BLOCK // stats.size)
            blocks = []
            for start in range(0, resamples, size):
                count = min(size, resamples - start)
                drawn = stats[rng.integers(0, len(rows), (count, len(rows)))]
                blocks.append(self.combine(drawn.sum(axis=1)))
            out.append(np.concatenate(blocks))
        return np.mean(out, axis=0) if mean else np.array(out)


def _interval(point: float, draws: np.ndarray, n: int) -> Interval | None:
    draws = draws[~np.isnan(draws)]  # a resample without any positive case has no sensitivity
    if not draws.size:
        return None
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(point, float(low), float(high), n)


def mean_of(ids: Sequence[str], groups: Sequence[str], values: Sequence[float]) -> Measure:
    """Mean over groups of the mean of `values` [Q]."""
    values = np.asarray(values, dtype=np.float64)
    return Measure(tuple(ids), tuple(groups), np.stack([values, np.ones_like(values)], axis=-1))


def balanced_of(
    ids: Sequence[str], groups: Sequence[str], values: Sequence[float], classes: Sequence[str]
) -> Measure:
    """Mean over groups of balanced accuracy: the mean over true classes of the share right."""
    names = sorted(set(classes))
    columns = {name: 2 * i for i, name in enumerate(names)}
    stats = np.zeros((len(ids), 2 * len(names)))
    for i, (value, name) in enumerate(zip(values, classes, strict=True)):
        stats[i, columns[name]], stats[i, columns[name] + 1] = value, 1
    return Measure(tuple(ids), tuple(groups), stats, mean_ratio)
