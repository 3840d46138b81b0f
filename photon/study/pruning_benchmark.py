"""Pruning methods side by side: accuracy, what it is compared with, and what it costs.

Reads the run directories of `eval.py benchmark=pruning` (one a seed): rows of every condition with
the cost of the pass that answered them (`photon.evaluation.timed`). The first timed pass answered
every question; further ones, in speed/PASS, some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from photon.errors import InputError
from photon.evaluation.conditions import BEFORE, Condition, parse_condition
from photon.evaluation.intervals import Interval, Measure
from photon.evaluation.predictions import read_predictions
from photon.evaluation.scores import Row, score_rows, summarize
from photon.evaluation.summary import question_measure
from photon.evaluation.timed import prefill_seconds
from photon.evaluation.views import REDUCED
from photon.pruning.named import acts_before, pruners

SPEED = "speed"
AGAINST = ("random", "pooling", "slices@3")  # what each method is compared with
MS, MIB = 1e3, 2.0**20


@dataclass(frozen=True)
class Answered:
    """One condition in every seed: rows with costs, and rows of each further pass."""

    condition: Condition
    rows: list[list[Row]]
    passes: dict[str, list[Row]]

    @cached_property
    def measure(self) -> Measure:
        """Accuracy, question by question the mean over seeds."""
        each = [question_measure(rows, score_rows(rows)) for rows in self.rows]
        return Measure.average(each)

    @property
    def place(self) -> str:
        """Where tokens go: before or inside the language model, or nowhere."""
        name = self.condition.pruner
        if self.condition.method in REDUCED:
            return "input"
        if name is None or self.condition.name == "photon":
            return "-" if name is None else "inside"
        before = self.condition.before or name in pruners() and acts_before(name)
        return "before" if before else "inside"

    def costs(self, name: str = "") -> list[Mapping[str, Any]]:
        """Of every pass over a batch, in a further pass or the first one."""
        rows = self.passes[name] if name else [row for rows in self.rows for row in rows]
        costs = [row["cost"] for row in rows]  # every row of a pass has it
        return list({(c["batch"], *c["seconds"].values()): c for c in costs}.values())


def read_benchmark(runs: Sequence[Path]) -> dict[str, Answered]:
    """Conditions that all runs answered. Raises InputError where a run has no costs."""
    found: dict[str, Answered] = {}
    each = [_files(run) for run in runs]
    for run, files in zip(runs, each, strict=True):
        if not files:
            raise InputError(f"{run}: no predictions in it; give runs of eval.py benchmark=pruning")
    for name in [n for n in each[0] if all(n in files for files in each)]:
        rows = [read_predictions(files[name]) for files in each]
        if "cost" not in rows[0][0]:
            raise InputError(
                f"{runs[0]}: its answers were not timed; run eval.py benchmark=pruning"
            )
        further = {
            folder.name: [
                row
                for run in runs
                for row in read_predictions(_files(run / SPEED / folder.name)[name])
            ]
            for folder in sorted((runs[0] / SPEED).glob("*"))
            if name in _files(folder)
        }
        found[name] = Answered(parse_condition(name), rows, further)
    return found


def _files(run: Path) -> dict[str, Path]:
    files = {"photon": run / "predictions.jsonl"}
    files |= {p.name.removesuffix(".jsonl"): p for p in sorted((run / "controls").glob("*.jsonl"))}
    return {name: path for name, path in files.items() if path.is_file()}


def table_rows(answered: Mapping[str, Answered], seed: int = 0) -> list[dict[str, Any]]:
    """One flat dictionary a condition, by budget and accuracy; None where a number is not known."""
    rows = [_row(one, answered, seed) for one in answered.values()]
    return sorted(rows, key=lambda r: (r["budget"] or 0, -(r["accuracy"] or 0)))


def _row(one: Answered, answered: Mapping[str, Answered], seed: int) -> dict[str, Any]:
    first, condition = [row for rows in one.rows for row in rows], one.condition
    row: dict[str, Any] = {
        "condition": condition.name,
        "method": condition.method,
        "place": one.place,
        "budget": condition.keep,
        "seeds": len(one.rows),
        **_interval("accuracy", one.measure.interval(seed=seed)),
    }
    for name in AGAINST:
        other = answered.get(_reference(one, name))
        gap = None
        if other is not None and other is not one:
            gap = one.measure.minus(other.measure, seed=seed)
        row |= _interval(f"minus_{name.partition('@')[0]}", gap)
    row["kept"] = float(np.mean([r["kept_tokens"] for r in first]))
    row["tokens"] = float(np.mean([r["read_tokens"] for r in first]))
    flops = [c["flops"] for c in one.costs() if c["flops"] is not None]
    row["gflop"] = flops[0] / 1e9 if flops else None
    row |= _timing(one.costs(), "")
    for name in one.passes:
        row |= _timing(one.costs(name), f"{name}_")
    own = summarize(one.rows[0])["subtasks"]
    row["subtasks"] = {
        name: entry["accuracy"] if entry["accuracy"] is not None else entry["mra"]
        for name, entry in own.items()
    }
    return row


def _reference(one: Answered, name: str) -> str:
    """The condition that `one` is compared with under a name of AGAINST."""
    if "@" in name:
        return name
    before = BEFORE if name == "random" and one.place == "before" else ""
    return f"{name}{before}@{one.condition.keep}"


def _interval(name: str, interval: Interval | None) -> dict[str, float | None]:
    keys = (name, f"{name}_low", f"{name}_high")
    if interval is None:
        return dict.fromkeys(keys)
    return dict(zip(keys, (interval.mean, interval.low, interval.high), strict=True))


def _timing(costs: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, float | None]:
    """Milliseconds and MiB over the passes; decoding per step of a batch."""
    prefill = [MS * prefill_seconds(c) for c in costs]
    select = [MS * c["seconds"].get("selection", 0.0) for c in costs]
    steps = [(c["seconds"]["decoding"], c["steps"]) for c in costs if c["steps"]]
    peaks = [c["peak_bytes"] / MIB for c in costs if c["peak_bytes"] is not None]
    total = sum(prefill) / MS + sum(s for s, _ in steps)
    numbers = {
        "selection_ms": np.median(select),
        "prefill_p50_ms": np.median(prefill),
        "prefill_p99_ms": np.quantile(prefill, 0.99),
        "decode_ms": MS * sum(s for s, _ in steps) / max(sum(n for _, n in steps), 1),
        "tok_s": sum(c["steps"] * c["questions"] for c in costs) / total,
        "peak_mib": max(peaks) if peaks else None,
        "kv_mib": np.mean([c["cache_bytes"] for c in costs]) / MIB,
        "passes": len(costs),
    }
    return {f"{prefix}{k}": None if v is None else float(v) for k, v in numbers.items()}
