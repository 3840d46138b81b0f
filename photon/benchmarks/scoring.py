"""Scores of a published benchmark under every protocol: the run, its controls, blind answers.

`score_benchmark` gives columns, `benchmark_metrics` the `benchmark` part of metrics.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from photon.benchmarks.benchmark import Benchmark
from photon.benchmarks.judging import Bert, Key, Row, Scored, is_choice
from photon.errors import InputError
from photon.evaluation.blind import TEXT_METRICS, Blind, constants
from photon.evaluation.intervals import Measure
from photon.evaluation.scores import kind_of
from photon.evaluation.text_rule import text_rule

# Measures whose differences from each control are reported; the others stand in metrics.json.
SUMMARY = frozenset(
    "Accuracy,BLEU,ROUGE,BERT Score,Balanced accuracy,Average,By question,Sensitivity,Specificity,"
    "Overall,Acc.,Avg. Acc".split(",")
)
METRIC_OF = {"BLEU": "bleu1", "ROUGE": "rouge1", "BERT Score": "rouge1"}  # else the score itself
BLIND = ("text_rule", "question_only")  # and the constants learnt from training answers
Rows = Sequence[Row]


@dataclass
class Column:
    """One variant of a benchmark (multiple choice, say) under one protocol.

    own: measures of the run, the mean over its seeds; seeds: values of each; others: scores of each
    control.
    """

    own: Scored
    seeds: dict[Key, list[float]]
    others: dict[str, Scored] = field(default_factory=dict)

    def value(self, key: Key) -> float | None:
        """Mean over seeds; None where it was not computed."""
        values = self.seeds.get(key)
        return float(np.mean(values)) if values else None

    def spread(self, key: Key) -> float | None:
        """Standard deviation over seeds; None for fewer than two."""
        values = self.seeds.get(key, [])
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


Columns = dict[tuple[str, str], Column]  # (protocol, variant)


def with_extra(rows: Rows, records: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows with what their record says beyond the columns of a prediction (modality, ...)."""
    extra = {str(record.id): getattr(record, "extra", None) or {} for record in records}
    return [{**extra.get(str(row["id"]), {}), **row} for row in rows]


def blind_controls(records: Sequence[Any], train: Sequence[Any] | None) -> dict[str, Blind]:
    """Blind answers by name: the constants of a task and of a subtask, learnt from the training
    answers and from the test answers themselves (the upper bound of all constants), and the rule
    on the words of the questions."""
    found = {per: constants(records, train, per) for per in ("task", "subtask")}
    rule = {"text_rule": text_rule(records, train)} if train else {}
    return rule | {
        f"constant: {source}, per {per}": found[per][source]
        for source in ("train", "test")
        for per in found
        if source in found[per]
    }


def score_benchmark(
    benchmark: Benchmark,
    own: Sequence[Rows],
    controls: Mapping[str, Rows] | None = None,
    blind: Mapping[str, Blind] | None = None,
    bert: Bert | None = None,
) -> Columns:
    """Measures under every protocol. own: rows of each seed, in the order of the records.

    Raises InputError where two runs did not answer the same questions.
    """
    ids = [{str(row["id"]) for row in rows} for rows in (*own, *(controls or {}).values())]
    if any(found != ids[0] for found in ids):
        raise InputError(
            "runs of different question sets are not put together: give files of answers, and "
            "controls, to the same questions"
        )
    out: Columns = {}
    for protocol in benchmark.protocols:
        runs: dict[str, list[Scored]] = {}
        for rows in own:
            for variant, part in benchmark.variants(rows).items():
                runs.setdefault(variant, []).append(benchmark.score(part, protocol, bert))
        for variant, scored in runs.items():
            out[protocol, variant] = Column(_together(scored), _values(scored))
        for name, rows in (controls or {}).items():
            for variant, part in benchmark.variants(rows).items():
                out[protocol, variant].others[name] = benchmark.score(part, protocol, bert)
        for name, answers in (blind or {}).items():
            for variant, scored in _blind(benchmark, own[0], answers, protocol, bert).items():
                out[protocol, variant].others[name] = scored
    return out


def _blind(
    benchmark: Benchmark, rows: Rows, answers: Blind, protocol: str, bert: Bert | None
) -> dict[str, Scored]:
    """Scores by variant; each measure is of the answers that are best for its metric."""
    out: dict[str, Scored] = {}
    for metric in ("score", *TEXT_METRICS):
        filled = answers.rows(rows, metric)
        if metric != "score":
            filled = [row for row in filled if metric in answers.answers and kind_of(row) == "text"]
        for row in filled:
            if is_choice(row):  # written so that the protocol understands it
                row["prediction"] = benchmark.choice_text(row, row["prediction"], protocol)
        for variant, part in benchmark.variants(filled).items():
            scored = benchmark.score(part, protocol, bert)
            whole = out.setdefault(variant, scored)
            best = {k: m for k, m in scored.measures.items() if METRIC_OF.get(k[1]) == metric}
            whole.measures.update(best)
    return out


def _values(runs: Sequence[Scored]) -> dict[Key, list[float]]:
    """Values of each seed; a measure that was not computed has none."""
    out: dict[Key, list[float]] = {}
    for scored in runs:
        for key, measure in scored.measures.items():
            value = None if measure is None else measure.value()
            if value is not None:
                out.setdefault(key, []).append(value)
    return out


def _together(runs: Sequence[Scored]) -> Scored:
    """All seeds as one: means of the statistics question by question, sums of the confusion."""
    if len(runs) == 1:
        return runs[0]
    measures: dict[Key, Measure | None] = {}
    for key in runs[0].measures:
        parts = [scored.measures.get(key) for scored in runs]
        measures[key] = None if None in parts else Measure.average(parts)
    confusion: dict[str, dict[str, dict[str, int]]] = {}
    for scored in runs:
        for group, table in scored.confusion.items():
            for gold, counts in table.items():
                sums = confusion.setdefault(group, {}).setdefault(gold, {})
                for answer, count in counts.items():
                    sums[answer] = sums.get(answer, 0) + count
    notes = list(dict.fromkeys(note for scored in runs for note in scored.notes))
    return Scored(measures, confusion, notes)


def benchmark_metrics(benchmark: Benchmark, columns: Columns, seed: int = 0) -> dict[str, Any]:
    """The `benchmark` part of metrics.json: {protocol: {variant: {measures, controls, ...}}}."""
    out: dict[str, Any] = {"name": benchmark.facts.name, "protocols": {}}
    for (protocol, variant), column in columns.items():
        entry = {
            "measures": {_name(key): _entry(column, key, seed) for key in column.own.measures},
            "confusion": column.own.confusion,
            "notes": column.own.notes,
            "controls": {
                name: _control(column.own, other, seed) for name, other in column.others.items()
            },
        }
        out["protocols"].setdefault(protocol, {})[variant or "all"] = entry
    return out


def _name(key: Key) -> str:
    return " | ".join(key)


def _entry(column: Column, key: Key, seed: int) -> dict[str, Any]:
    measure = column.own.measures[key]
    interval = None if measure is None else measure.interval(seed=seed)
    return {
        "value": column.value(key),
        "n": 0 if measure is None else measure.n,
        "interval": interval.as_dict() if interval else None,
        "seeds": column.seeds.get(key, []),
        "spread": column.spread(key),
        "seen": _seen(column, key, seed),
    }


def _seen(column: Column, key: Key, seed: int) -> dict[str, Any] | None:
    """How far a summary measure of the run is above the best control that sees no scan."""
    mine, known = column.own.measures[key], {}
    for name, other in column.others.items():
        measure = other.measures.get(key)
        value = None if measure is None else measure.value()
        if value is not None and (name in BLIND or name.startswith("constant: train")):
            known[name] = value
    if key[1] not in SUMMARY or mine is None or not known:
        return None
    best = max(known, key=known.__getitem__)
    difference = mine.minus(column.others[best].measures[key], seed=seed)
    return None if difference is None else {"control": best, **difference.as_dict()}


def _control(own: Scored, other: Scored, seed: int) -> dict[str, Any]:
    out = {}
    for key, measure in other.measures.items():
        entry: dict[str, Any] = {"value": None if measure is None else measure.value()}
        mine = own.measures.get(key)
        if key[1] in SUMMARY and measure is not None and mine is not None:
            difference = mine.minus(measure, seed=seed)
            entry["difference"] = difference.as_dict() if difference else None
        out[_name(key)] = entry
    return {"measures": out, "confusion": other.confusion}
