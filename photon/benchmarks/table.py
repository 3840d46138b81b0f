"""benchmark.md: the paper's tables with our columns beside its own, then controls and confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from photon.benchmarks.paper import TITLES, layout, paper_table, printed, same_row
from photon.benchmarks.protocol import Benchmark
from photon.benchmarks.report import SUMMARY, Columns
from photon.evaluation.table import aligned

SHOWN_CLASSES = 6
PROTOCOL_FREE = (11, 12)  # about kept tokens, whatever the answers
KEEPING = ("random_keep",)  # controls whose kept tokens say something


def format_benchmark(
    benchmark: Benchmark,
    columns: Columns,
    metrics: Mapping[str, Any],
    tables: Sequence[int],
    own: str = "ours",
) -> str:
    """Text of benchmark.md; `metrics` is what `benchmark_metrics` made of the columns."""
    lines = [f"# {benchmark.name}", ""]
    for number in tables:
        ours = {}
        for protocol, variant in columns:
            ours |= _paper_cells(number, columns, protocol, variant, own)
        if any(cell != "-" for cells in ours.values() for cell in cells):
            lines += [f"## Table {number} of the paper: {TITLES[number]}", ""]
            lines += [*layout(number, ours), ""]
    lines += ["## Controls (strict)", ""]
    for variant, entry in metrics["protocols"]["strict"].items():
        lines += [*([f"### {variant}", ""] if variant != "all" else []), *_controls(entry, own), ""]
        lines += _confusion(entry["confusion"])
    notes = [
        f"Protocols: {benchmark.differences}",
        '"paper" columns are printed in the paper and were not reproduced here.',
        "Intervals: 95 %, 1,000 resamples of questions within their subtask; differences are "
        "paired by question.",
        *(n for p in metrics["protocols"].values() for e in p.values() for n in e["notes"]),
    ]
    return "\n".join([*lines, *(f"- {note}." for note in dict.fromkeys(map(_bare, notes)))]) + "\n"


def _bare(text: str) -> str:
    return text.rstrip(".")


def _paper_cells(
    number: int, columns: Columns, protocol: str, variant: str, own: str
) -> dict[str, list[str]]:
    """Our cells of one table: value, with the spread over seeds; and the constants' (strict)."""
    column = columns[protocol, variant]
    prefix = f"{variant}/" if variant else ""
    sources = {f"{prefix}{own} ({protocol})": None}
    if number in PROTOCOL_FREE:
        if protocol != "strict":
            return {}
        sources = {f"{prefix}{own}": None, **{n: n for n in column.others if n in KEEPING}}
    elif protocol == "strict":
        sources |= {f"{prefix}{name}": name for name in column.others if "constant" in name}
    out = {}
    for title, control in sources.items():
        scored = column.own if control is None else column.others[control]
        cells = []
        for group, measure, unit in paper_table(number).rows:
            key = next((k for k in scored.measures if same_row(k, (group, measure))), None)
            if unit == "count":
                key = ("SLAKE", "Acc.") if ("SLAKE", "Acc.") in scored.measures else None
            cells.append("-" if key is None else _cell(column, scored, key, unit, control))
        out[title] = cells
    if number == 5 and protocol == "strict":
        out[f"{prefix}{own} bootstrap"] = [_bootstrap(column, row[:2]) for row in _rows(5)]
    return out


def _rows(number: int) -> tuple[tuple[str, str, str], ...]:
    return paper_table(number).rows


def _cell(column, scored, key, unit: str, control: str | None) -> str:
    measure = scored.measures[key]
    n = 0 if measure is None else measure.n
    if control is not None:
        return printed(None if measure is None else measure.value(), unit, n)
    text, spread = printed(column.value(key), unit, n), column.spread(key)
    return text if spread is None else f"{text} +- {printed(spread, unit, n)}"


def _bootstrap(column, row: tuple[str, str]) -> str:
    measure = column.own.measures.get(row)
    interval = measure.interval() if measure else None
    if interval is None:
        return "-"
    low, high, mean = (f"{100 * v:.1f}" for v in (interval.low, interval.high, interval.mean))
    return f"{mean} [{low}, {high}]"


def _controls(entry: Mapping[str, Any], own: str) -> list[str]:
    """Summary measures of the run and of every control, with what the run has over it."""
    body: list[list[str] | None] = []
    for name, mine in entry["measures"].items():
        if name.split(" | ")[1] not in SUMMARY or mine["value"] is None:
            continue
        label = name.replace(" | ", ", ")
        body.append([label, own, _range(mine["interval"]), "-", str(mine["n"])])
        for control, scores in entry["controls"].items():
            other = scores["measures"].get(name)
            if other and other["value"] is not None:
                difference = _range(other.get("difference"), signed=True)
                body.append(["", control, f"{100 * other['value']:.2f}", difference, ""])
        body.append(None)
    header = ["measure", "condition", "value (95 %)", f"{own} minus it (95 %)", "n"]
    return aligned(header, body[:-1]) if body else ["No closed or summarised measure."]


def _range(interval: Mapping[str, float] | None, signed: bool = False) -> str:
    if interval is None:
        return "-"
    form = "+.2f" if signed else ".2f"
    mean, low, high = (format(100 * interval[k], form) for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _confusion(confusion: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[str]:
    """Counts of understood answers by true answer, for questions of few classes."""
    lines: list[str] = []
    for group, table in confusion.items():
        if len(table) > SHOWN_CLASSES:
            continue
        answers = sorted({answer for counts in table.values() for answer in counts})
        if len(answers) > 2 * SHOWN_CLASSES:
            continue
        body = [[gold, *(str(c.get(answer, 0)) for answer in answers)] for gold, c in table.items()]
        lines += [*aligned([f"{group}: true answer", *answers], body), ""]
    return lines
