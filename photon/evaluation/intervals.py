"""Measures with intervals: means over groups of a ratio of sums, resampled by patient.

Accuracy, MRA, corpus BLEU-1, sensitivity and balanced accuracy all have this form, so that one
bootstrap serves them all, corpus metrics included. Not in the paper except for one row (Table 5,
1,000 resamples): every comparison here carries an interval, because a difference of a point on a
few hundred questions is mostly noise. Whole patients are drawn, as questions about one patient hang
together and the interval of independent questions is too narrow.

Shape suffixes: Q questions; P patients; G groups; S statistics summed over questions; R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

Combine = Callable[[np.ndarray], np.ndarray]
RESAMPLES = 1000
TAIL = 0.025  # on either side of a 95 % interval
BLOCK = 2_000_000  # numbers drawn at a time: 16 MB, whatever the number of patients


@dataclass(frozen=True)
class Interval:
    """Point estimate with its 95 % interval, over `n` questions about `patients` patients."""

    mean: float
    low: float
    high: float
    n: int
    patients: int

    def as_dict(self) -> dict[str, float]:
        """Plain dictionary for metrics.json."""
        return asdict(self)


def ratio(sums: np.ndarray) -> np.ndarray:
    """[..., 2] sums of (value, weight) -> [...]; NaN where the weight is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def mean_ratio(sums: np.ndarray) -> np.ndarray:
    """[..., 2 C] sums of C (value, weight) pairs -> mean of the C ratios that have any weight."""
    return _mean_of_known(ratio(sums.reshape(*sums.shape[:-1], -1, 2)))


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    count, total = known.sum(axis=-1), np.where(known, values, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class Measure:
    """The mean over groups of `combine` of the sums of each group's statistics.

    ids [Q]: questions; patients [Q]: what is drawn; groups [Q]: what is averaged with equal weight
    (subtasks); stats [Q, S]; combine: sums [..., S] -> value [...]. share: the value lies in
    [0, 1]. `centre="median"`: the point estimate is the median of 1,000 resamples of questions
    rather than the value itself, as Hugging Face `evaluate` gives ROUGE.
    """

    ids: tuple[str, ...]
    patients: tuple[str, ...]
    groups: tuple[str, ...]
    stats: np.ndarray
    combine: Combine = ratio
    centre: str = "value"
    share: bool = True

    @property
    def n(self) -> int:
        return len(self.ids)

    def value(self, seed: int = 0) -> float | None:
        """Point estimate; None where it is not defined (no question, or no positive case)."""
        value = self._median(seed) if self.centre == "median" else self._exact()
        return None if np.isnan(value) else value

    def interval(self, resamples: int = RESAMPLES, seed: int = 0) -> Interval | None:
        """95 % percentile interval; None where the value is not defined."""
        value = self.value(seed)
        return None if value is None else self._around(value, self._draws(resamples, seed), 0.0)

    def minus(self, other: Measure, resamples: int = RESAMPLES, seed: int = 0) -> Interval | None:
        """Paired difference on the questions that both answered; None where there are none.

        A resample draws patients, with both answers to all of their questions.
        """
        shared = set(self.ids) & set(other.ids)
        own, its = self._only(shared), other._only(shared)
        if not own.ids or own.groups != its.groups:
            return None
        its = replace(its, patients=own.patients)
        first, second = own.value(seed), its.value(seed)
        if first is None or second is None:
            return None
        draws = own._draws(resamples, seed) - its._draws(resamples, seed)
        return own._around(first - second, draws, -1.0)

    @staticmethod
    def average(measures: Sequence[Measure]) -> Measure:
        """One measure of several runs (seeds): the mean of their statistics, question by question,
        on the questions that all of them have."""
        shared = set.intersection(*(set(m.ids) for m in measures))
        parts = [m._only(shared) for m in measures]
        return replace(parts[0], stats=np.mean([part.stats for part in parts], axis=0))

    def _around(self, point: float, draws: np.ndarray, least: float) -> Interval | None:
        """The interval of a value in [least, 1], if it is a share.

        At an end of that range no resample differs (all answers are right), and the bootstrap's
        interval has no width; it then is the exact binomial one of P out of P patients.
        """
        draws = draws[~np.isnan(draws)]  # a resample without any positive case has no sensitivity
        if not draws.size:
            return None
        low, high = np.quantile(draws, [TAIL, 1 - TAIL])
        count = len(set(self.patients))
        if self.share and high - low < 1e-12 and point in (least, 1.0):
            reach = 1 - TAIL ** (1 / count)
            low, high = max(least, low - reach), min(1.0, high + reach)
        return Interval(point, float(low), float(high), self.n, count)

    def _only(self, ids: set[str]) -> Measure:
        """The part on `ids`, in order of the ids, so that two runs are drawn alike."""
        rows = sorted((i for i, key in enumerate(self.ids) if key in ids), key=self.ids.__getitem__)
        names = (self.ids, self.patients, self.groups)
        ids, patients, groups = (tuple(part[i] for i in rows) for part in names)
        return replace(self, ids=ids, patients=patients, groups=groups, stats=self.stats[rows])

    @cached_property
    def _sums(self) -> np.ndarray:
        """[P, G, S + 1] sums over the questions of each patient, their number in the last place."""
        patients, groups = _codes(self.patients), _codes(self.groups)
        shape = (patients.max() + 1, groups.max() + 1) if self.n else (0, 0)
        sums = np.zeros((*shape, self.stats.shape[-1] + 1))
        np.add.at(sums, (patients, groups), np.column_stack([self.stats, np.ones(self.n)]))
        return sums

    def _of(self, sums: np.ndarray) -> np.ndarray:
        """[..., G, S + 1] -> [...]: mean over the groups that have a question."""
        values = np.where(sums[..., -1] > 0, self.combine(sums[..., :-1]), np.nan)
        return _mean_of_known(values)

    def _exact(self) -> float:
        return float(self._of(self._sums.sum(axis=0))) if self.n else float("nan")

    def _draws(self, resamples: int, seed: int) -> np.ndarray:
        """Values [R] of resampled patients."""
        count, groups, width = self._sums.shape
        flat = self._sums.reshape(count, groups * width)
        rng = np.random.default_rng(seed)
        size, blocks = max(1, BLOCK // count), []
        for start in range(0, resamples, size):
            rows = min(size, resamples - start)
            drawn = rng.integers(0, count, (rows, count))
            drawn += np.arange(rows)[:, None] * count
            times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
            blocks.append(self._of((times @ flat).reshape(rows, groups, width)))
        return np.concatenate(blocks)

    def _median(self, seed: int) -> float:
        """Mean over groups of the median of resamples of the group's questions."""
        codes, middles = _codes(self.groups), []
        for name in range(codes.max() + 1 if self.n else 0):
            rows = np.flatnonzero(codes == name)
            part = replace(self._only({self.ids[i] for i in rows}), patients=tuple(map(str, rows)))
            middles.append(np.median(part._draws(RESAMPLES, seed)))
        return float(np.mean(middles)) if middles else float("nan")


def _codes(labels: Sequence[str]) -> np.ndarray:
    """A number for each label, in the order in which they come."""
    return pd.factorize(np.array(labels, dtype=object))[0]


def patient_of(row: Mapping[str, Any]) -> str:
    """What a row is drawn with: its patient, or its volume, or itself where neither is known."""
    return str(row.get("patient") or row.get("volume") or row["id"])


def measure_of(
    rows: Sequence[Mapping[str, Any]],
    stats: np.ndarray,
    groups: Sequence[str] | None = None,
    **options: Any,
) -> Measure:
    """A measure of prediction rows [Q] from their statistics [Q, S]; one group by default."""
    ids, patients = tuple(str(row["id"]) for row in rows), tuple(map(patient_of, rows))
    groups = ("all",) * len(rows) if groups is None else tuple(groups)
    return Measure(ids, patients, groups, stats, **options)


def mean_of(
    rows: Sequence[Mapping[str, Any]],
    values: Sequence[float],
    groups: Sequence[str] | None = None,
    **options: Any,
) -> Measure:
    """Mean over groups of the mean of `values` [Q]. ValueError for one that is not finite."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("values must be finite; leave questions without a score out")
    return measure_of(rows, np.stack([values, np.ones_like(values)], axis=-1), groups, **options)


def balanced_of(
    rows: Sequence[Mapping[str, Any]],
    values: Sequence[float],
    classes: Sequence[str],
) -> Measure:
    """Balanced accuracy: the mean over true classes of the share right."""
    names = sorted(set(classes))
    columns = {name: 2 * i for i, name in enumerate(names)}
    stats = np.zeros((len(rows), 2 * len(names)))
    for i, (value, name) in enumerate(zip(values, classes, strict=True)):
        stats[i, columns[name]], stats[i, columns[name] + 1] = value, 1
    return measure_of(rows, stats, combine=mean_ratio)
