"""benchmark.md: the paper's tables with our columns beside its own, then controls and confusion.

The paper's numbers stand in paper/table_N.csv, cells as printed: a row is one measure (`group`,
`measure`, `unit`), a column one model as the paper names it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from photon.benchmarks.benchmark import Benchmark, PaperTable
from photon.benchmarks.judging import Key, Scored
from photon.benchmarks.rows import squash
from photon.benchmarks.scoring import SUMMARY, Column, Columns
from photon.evaluation.table import TITLES, aligned, interval_text

FOLDER = Path(__file__).parent / "paper"
# How a value of ours is printed in a table of this unit; an unknown unit is an error.
SCALE = {"percent": (100, 2), "fraction": (1, 3), "fraction4": (1, 4), "rate": (1, 3)}
SHOWN_CLASSES = 6
KEEPING = ("random_keep",)  # controls whose kept tokens say something


@dataclass(frozen=True)
class Printed:
    """Rows (group, measure, unit) of a table, and cells as printed by model."""

    rows: tuple[tuple[str, str, str], ...]
    models: Mapping[str, tuple[str, ...]]


@cache
def paper_table(number: int) -> Printed:
    """Table `number` of the paper."""
    with (FOLDER / f"table_{number}.csv").open(newline="", encoding="utf-8") as file:
        header, *body = csv.reader(file)
    rows = tuple((line[0], line[1], line[2]) for line in body)
    models = {name: tuple(line[i] for line in body) for i, name in enumerate(header) if i > 2}
    return Printed(rows, models)


def printed(value: float | None, unit: str, n: int | None = None) -> str:
    """A value of ours in a table's unit; "not computed" without one.

    Units: percent, fraction, fraction4 and rate (of values in [0, 1]); tokens (in thousands, "K");
    tokens1; count ("right/all", from the share and `n`).
    """
    if value is None:
        return "not computed"
    if unit == "tokens":
        return f"{value / 1000:.2f}K"
    if unit == "tokens1":
        return f"{value:.1f}"
    if unit == "count":
        return f"{round(value * (n or 0))}/{n}"
    factor, digits = SCALE[unit]
    return f"{value * factor:.{digits}f}"


def same_row(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Whether two (group, measure) name the same row, whatever their case, spaces and stars."""
    return all(
        squash(a).strip("*") == squash(b).strip("*") for a, b in zip(first, second, strict=True)
    )


def layout(table: PaperTable, ours: Mapping[str, Sequence[str]]) -> list[str]:
    """A table of the paper with columns (or rows) of ours before its own, as lines of Markdown.

    ours: {title: one cell for each row of the table}; groups of which no cell says anything ("-"
    throughout) are left out. Every model of the paper is labelled so.
    """
    its = paper_table(table.number)
    columns = {**ours, **{f"paper: {name}": cells for name, cells in its.models.items()}}
    told = {g for i, (g, _, _) in enumerate(its.rows) if any(c[i] != "-" for c in ours.values())}
    keep = [i for i, row in enumerate(its.rows) if row[0] in told]
    labels = [f"{its.rows[i][0]}, {its.rows[i][1]}" for i in keep]
    if table.models_in_rows:
        body = [[name, *(cells[i] for i in keep)] for name, cells in columns.items()]
        return aligned(["method", *labels], body)
    body = [[label, *(c[i] for c in columns.values())] for label, i in zip(labels, keep)]
    return aligned(["measure", *columns], body)


def format_benchmark(
    benchmark: Benchmark, columns: Columns, metrics: Mapping[str, Any], own: str = "ours"
) -> str:
    """Text of benchmark.md; `metrics` is what `benchmark_metrics` made of the columns."""
    lines = [f"# {benchmark.facts.title}", ""]
    for table in benchmark.filled():
        ours = {}
        for (protocol, variant), column in columns.items():
            ours |= _our_cells(table, column, protocol, variant, own)
        if any(cell != "-" for cells in ours.values() for cell in cells):
            lines += [f"## Table {table.number} of the paper: {table.title}", ""]
            lines += [*layout(table, ours), ""]
    lines += ["## Controls (strict)", ""]
    for variant, entry in metrics["protocols"]["strict"].items():
        lines += [*([f"### {variant}", ""] if variant != "all" else []), *_controls(entry, own), ""]
        lines += _confusion(entry["confusion"])
    notes = [
        f"Protocols: {benchmark.differences}",
        '"paper" columns are printed in the paper and were not reproduced here.',
        "Intervals: 95 %, 1,000 resamples of patients; differences are paired by question.",
        "Seen: above the best control without a scan (constants of training answers, text_rule, "
        "question_only)",
        "Constants are the answers that score best on each measure, by the answers they name.",
        *(n for p in metrics["protocols"].values() for e in p.values() for n in e["notes"]),
    ]
    notes = dict.fromkeys(note.rstrip(".") for note in notes)
    return "\n".join([*lines, *(f"- {note}." for note in notes)]) + "\n"


def _our_cells(
    table: PaperTable, column: Column, protocol: str, variant: str, own: str
) -> dict[str, list[str]]:
    """Our cells of one table: value, with the spread over seeds; and the constants' (strict)."""
    prefix = f"{variant}/" if variant else ""
    sources: dict[str, str | None] = {f"{prefix}{own} ({protocol})": None}
    if table.tokens:
        if protocol != "strict":
            return {}
        sources = {f"{prefix}{own}": None, **{n: n for n in column.others if n in KEEPING}}
    elif protocol == "strict":
        sources |= {
            f"{prefix}{name}": name
            for name in column.others
            if "constant" in name or name == "text_rule"
        }
    rows, out = paper_table(table.number).rows, {}
    for title, control in sources.items():
        scored = column.own if control is None else column.others[control]
        keys = [(_key(scored, row), row[2]) for row in rows]
        out[title] = ["-" if k is None else _cell(column, scored, k, u, control) for k, u in keys]
    if table.number == 5 and protocol == "strict":  # the paper prints a row of its own for it
        out[f"{prefix}{own} bootstrap"] = [_bootstrap(column, row[:2]) for row in rows]
    return out


def _key(scored: Scored, row: tuple[str, str, str]) -> Key | None:
    """The measure that a row of the paper's table is about; "right/all" is of the accuracy."""
    group, measure, unit = row
    names = (group, "Acc.") if unit == "count" else (group, measure)
    return next((key for key in scored.measures if same_row(key, names)), None)


def _cell(column: Column, scored: Scored, key: Key, unit: str, control: str | None) -> str:
    measure = scored.measures[key]
    n = 0 if measure is None else measure.n
    if control is not None:
        return printed(None if measure is None else measure.value(), unit, n)
    text, spread = printed(column.value(key), unit, n), column.spread(key)
    return text if spread is None else f"{text} +- {printed(spread, unit, n)}"


def _bootstrap(column: Column, row: tuple[str, str]) -> str:
    measure = column.own.measures.get(row)
    interval = measure.interval() if measure else None
    return interval_text(interval.as_dict() if interval else None)


def _controls(entry: Mapping[str, Any], own: str) -> list[str]:
    """Summary measures of the run and of every control, with what the run has over it."""
    body: list[list[str] | None] = []
    for name, mine in entry["measures"].items():
        if name.split(" | ")[1] not in SUMMARY or mine["value"] is None:
            continue
        label = name.replace(" | ", ", ")
        value = interval_text(mine["interval"], digits=2)
        seen = interval_text(mine["seen"], True, 2)
        body.append([label, own, value, "-", seen, str(mine["n"])])
        for control, scores in entry["controls"].items():
            other = scores["measures"].get(name)
            if other and other["value"] is not None:
                difference = interval_text(other.get("difference"), True, 2)
                title = TITLES.get(control, control)
                body.append(["", title, f"{100 * other['value']:.2f}", difference, "", ""])
        body.append(None)
    header = ["measure", "condition", "value (95 %)", f"{own} minus it (95 %)", "seen (95 %)", "n"]
    return aligned(header, body[:-1]) if body else ["No closed or summarised measure."]


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
