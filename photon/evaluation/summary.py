"""metrics.json: one run, its controls with intervals, and its curve over budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter, methodcaller
from pathlib import Path
from typing import Any

import numpy as np

from photon.evaluation.blind import TEXT_METRICS, Blind
from photon.evaluation.conditions import parse_condition
from photon.evaluation.intervals import Interval, Measure, mean_of
from photon.evaluation.scores import Row, Score, score_rows, subtask_names, summarize
from photon.evaluation.table import format_table
from photon.files import write_json, write_text


def retention_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Kept and visual tokens per question; keep_ratio is the mean over questions of kept / visual.

    Rows without counts (a foreign file) are left out; everything is None if all are.
    """
    return _in_parts([r for r in rows if _keep_ratio(r) is not None], _retention)


def coverage_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean share of the evidence organ's tokens kept, beside what random tokens would keep.

    random: mean keep ratio of the same questions, the expectation for tokens kept at random.
    """

    def recall(chosen: Sequence[Row]) -> dict[str, Any]:
        return _means(chosen, mean=itemgetter("coverage"), random=_keep_ratio)

    return _in_parts([r for r in rows if r.get("coverage") is not None], recall)


def _retention(rows: Sequence[Row]) -> dict[str, Any]:
    columns = {key: methodcaller("get", key) for key in ("kept_tokens", "visual_tokens", "theta")}
    return _means(rows, keep_ratio=_keep_ratio, **columns)


def _keep_ratio(row: Row) -> float | None:
    kept, visual = row.get("kept_tokens"), row.get("visual_tokens")
    return None if kept is None or not visual else kept / visual


def _means(rows: Sequence[Row], **values: Callable[[Row], float | None]) -> dict[str, Any]:
    """n, and the mean of each value over the rows that have it; None where none has."""
    out: dict[str, Any] = {"n": len(rows)}
    for name, value in values.items():
        known = [v for v in map(value, rows) if v is not None]
        out[name] = float(np.mean(known)) if known else None
    return out


def _in_parts(rows: Sequence[Row], summary: Callable[[Sequence[Row]], dict]) -> dict[str, Any]:
    """The summary of all rows, and under by_subtask that of each subtask's."""
    groups: dict[str, list[Row]] = {}
    for name, row in zip(subtask_names(rows), rows, strict=True):
        groups.setdefault(name, []).append(row)
    by_subtask = {name: summary(group) for name, group in sorted(groups.items())}
    return {**summary(rows), "by_subtask": by_subtask}


def build_metrics(
    rows: Sequence[Row],
    controls: Mapping[str, Sequence[Row]] | None = None,
    blind: Mapping[str, Blind] | None = None,
    provenance: Mapping[str, Any] | None = None,
    seed: int = 0,
    budgets: Mapping[str, Sequence[Row]] | None = None,
) -> dict[str, Any]:
    """Content of metrics.json.

    rows: the run's own predictions. controls: {condition: rows} of the same questions; each gets
    its summary, its interval and its difference from the run (run minus control, paired by question
    and drawn by patient). blind: "train" and "test" of `blind.constants`; the training constant
    stands for the control if there is one, and the test answers' own is its `upper_bound`.
    budgets: {PRUNER@BUDGET: rows}, the points of `curve`, where any are given.
    """
    scores = score_rows(rows)
    own = question_measure(rows, scores)
    out = summarize(rows, scores)
    out["overall"]["interval"] = _plain(own.interval(seed=seed))
    names = subtask_names(rows)
    for name, group in out["subtasks"].items():
        chosen = [i for i, n in enumerate(names) if n == name]
        part = question_measure([rows[i] for i in chosen], [scores[i] for i in chosen])
        group["interval"] = _plain(part.interval(seed=seed))
    out["retention"] = retention_summary(rows)
    out["coverage"] = coverage_summary(rows)
    out["controls"] = {}
    for condition, its in (controls or {}).items():
        out["controls"][condition] = {
            **_control(its, own, seed),
            "retention": retention_summary(its),
            "coverage": coverage_summary(its),
        }
    if blind:
        out["controls"]["constant"] = _constant_entry(rows, own, blind, seed)
    if budgets:
        out["curve"] = budget_curve(budgets, seed)
    out["provenance"] = dict(provenance or {})
    return out


def budget_curve(budgets: Mapping[str, Sequence[Row]], seed: int = 0) -> list[dict[str, Any]]:
    """A point for each condition PRUNER@BUDGET, in their order.

    Each has pruner, budget, accuracy (MRA where nothing is judged), interval, retention and
    coverage, and `difference`: photon at the same budget minus this point, paired by question.
    """
    measures = {name: question_measure(rows, score_rows(rows)) for name, rows in budgets.items()}
    points = []
    for name, rows in budgets.items():
        condition = parse_condition(name)
        photon = measures.get(f"photon@{condition.keep}")
        points.append(
            {
                "pruner": condition.method,
                "budget": condition.keep,
                "accuracy": measures[name].value(),
                "interval": _plain(measures[name].interval(seed=seed)),
                "difference": _plain(photon and photon.minus(measures[name], seed=seed)),
                "retention": _retention([r for r in rows if _keep_ratio(r) is not None]),
                "coverage": coverage_summary(rows),
            }
        )
    return points


def question_measure(rows: Sequence[Row], scores: Sequence[Score]) -> Measure:
    """Accuracy of the judged questions; mean relative accuracy where nothing is judged."""
    judged = [i for i, score in enumerate(scores) if score.correct is not None]
    chosen = judged or range(len(scores))
    return mean_of([rows[i] for i in chosen], [scores[i].value for i in chosen])


def question_values(rows: Sequence[Row]) -> dict[str, float]:
    """Right or wrong of each judged question, by id; MRA instead where nothing is judged."""
    measure = question_measure(rows, score_rows(rows))
    return dict(zip(measure.ids, measure.stats[:, 0].tolist(), strict=True))


def _plain(interval: Interval | None) -> dict[str, float] | None:
    return interval.as_dict() if interval else None


def _control(rows: Sequence[Row], own: Measure, seed: int) -> dict[str, Any]:
    scores = score_rows(rows)
    summary, other = summarize(rows, scores), question_measure(rows, scores)
    return {
        **summary["overall"],
        "macro": summary["macro"],
        "subtasks": summary["subtasks"],
        "interval": _plain(other.interval(seed=seed)),
        "difference": _plain(own.minus(other, seed=seed)),
    }


def _constant_entry(
    rows: Sequence[Row], own: Measure, blind: Mapping[str, Blind], seed: int
) -> dict[str, Any]:
    chosen = blind.get("train") or blind["test"]
    entry = _control(chosen.rows(rows), own, seed)
    for metric in [m for m in TEXT_METRICS if m in chosen.answers]:
        best = summarize(chosen.rows(rows, metric))  # each metric has its own best constant
        entry[metric], entry["macro"][metric] = best["overall"][metric], best["macro"][metric]
        for name, group in best["subtasks"].items():
            entry["subtasks"][name][metric] = group[metric]
    bound = summarize(blind["test"].rows(rows))
    entry["source"], entry["answers"] = chosen.source, chosen.chosen
    entry["upper_bound"] = {
        "accuracy": bound["overall"]["accuracy"],
        "score": bound["overall"]["score"],
        "macro": bound["macro"],
        "subtasks": {k: v["accuracy"] for k, v in bound["subtasks"].items()},
    }
    return entry


def write_report(run_dir: str | Path, metrics: Mapping[str, Any], own: str = "photon") -> str:
    """Write metrics.json and table.md into a run directory, each atomically; return the table.

    own: condition of the run's own rows, for the column title ("file" for a foreign file).
    """
    run_dir = Path(run_dir)
    table = format_table(metrics, own)
    write_json(run_dir / "metrics.json", metrics)
    write_text(run_dir / "table.md", table)
    return table
