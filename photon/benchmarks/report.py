"""A published benchmark's report: every protocol, condition and control, in the paper's layout.

`score_benchmark` gives the `benchmark` part of metrics.json, `format_benchmark` the text of
benchmark.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from photon.benchmarks.protocol import Benchmark, Bert, Key, Row, Scored, is_choice
from photon.evaluation.controls import ConstantAnswers, constant_control
from photon.evaluation.measures import Measure

# Measures whose differences from each control are reported; the others stand in metrics.json.
SUMMARY = frozenset(
    "Accuracy,BLEU,ROUGE,BERT Score,Balanced accuracy,Average,By question,Sensitivity,Specificity,"
    "Overall,Acc.,Avg. Acc".split(",")
)
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


def constants(records: Sequence[Any], train: Sequence[Any] | None) -> dict[str, ConstantAnswers]:
    """Constant answers by name: one a subtask from the training answers; from the test answers one
    a task, and one a subtask (the upper bound of all constants)."""
    found = constant_control(records, train)
    out = {"constant: train": found["train"]} if "train" in found else {}
    whole = [{**row_of(record), "subtask": None} for record in records]
    out["constant: test, per task"] = constant_control(whole)["test"]
    out["constant: test, per subtask"] = found["test"]
    return out


def row_of(record: Any) -> dict[str, Any]:
    """A record as a row for `constant_control`, whose subtasks may be renamed."""
    keys = "id question_type choices answer_letter answer value task subtask".split()
    return {key: getattr(record, key, None) for key in keys}


def score_benchmark(
    benchmark: Benchmark,
    own: Sequence[Rows],
    controls: Mapping[str, Rows] | None = None,
    constant: Mapping[str, ConstantAnswers] | None = None,
    bert: Bert | None = None,
) -> Columns:
    """Measures under every protocol. own: rows of each seed, in the order of the records."""
    out: Columns = {}
    for protocol in benchmark.protocols:
        runs: dict[str, list[Scored]] = {}
        for rows in own:
            for variant, part in benchmark.variants(rows).items():
                runs.setdefault(variant, []).append(benchmark.score(part, protocol, bert))
        for variant, scored in runs.items():
            out[protocol, variant] = Column(_together(scored), _values(scored))
        others = dict(controls or {})
        for name, answers in (constant or {}).items():
            others[name] = constant_rows(benchmark, own[0], answers, protocol)
        for name, rows in others.items():
            for variant, part in benchmark.variants(rows).items():
                if (protocol, variant) in out:
                    out[protocol, variant].others[name] = benchmark.score(part, protocol, bert)
    return out


def constant_rows(
    benchmark: Benchmark, rows: Rows, answers: ConstantAnswers, protocol: str
) -> list[dict[str, Any]]:
    """Rows answered by a constant, written so that the protocol understands it."""
    texts = [
        benchmark.choice_text(row, text, protocol) if is_choice(row) else text
        for row, text in zip(rows, answers.predictions, strict=True)
    ]
    blank = {"kept_tokens": None, "visual_tokens": None}
    return [{**row, **blank, "prediction": text} for row, text in zip(rows, texts, strict=True)]


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
    out: dict[str, Any] = {"name": benchmark.name, "protocols": {}}
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
    }


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
