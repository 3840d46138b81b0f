"""The paper's printed numbers (table_N.csv, cells as printed) and tables in their layout.

A CSV row is one measure (`group`, `measure`, `unit`), a column one model as the paper names it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from photon.benchmarks.tables import squash
from photon.evaluation.table import aligned

FOLDER = Path(__file__).parent
TITLES = {
    1: "3D-RAD",
    2: "DeepTumorVQA",
    5: "Kidney tumor recognition",
    6: "DeepTumorVQA, other institutions",
    7: "MedFrameQA, zero-shot",
    9: "MedFrameQA and SLAKE after training",
    10: "NExT-QA",
    11: "Retained lung tokens by task, and dissimilarity of organs",
    12: "Lung coverage on lung questions of 3D-RAD",
}
MODELS_IN_ROWS = (6, 7, 9, 10, 12)  # as printed; elsewhere a column is a model
# How a value of ours is printed in a table of this unit; an unknown unit is an error.
SCALE = {"percent": (100, 2), "fraction": (1, 3), "fraction4": (1, 4), "rate": (1, 3)}


@dataclass(frozen=True)
class PaperTable:
    """One table: rows (group, measure, unit), and cells as printed by model."""

    number: int
    rows: tuple[tuple[str, str, str], ...]
    models: Mapping[str, tuple[str, ...]]

    @property
    def title(self) -> str:
        return f"Table {self.number}: {TITLES[self.number]}"


@cache
def paper_table(number: int) -> PaperTable:
    """Table `number` of the paper, of TITLES."""
    with (FOLDER / f"table_{number}.csv").open(newline="", encoding="utf-8") as file:
        header, *body = csv.reader(file)
    rows = tuple((line[0], line[1], line[2]) for line in body)
    models = {name: tuple(line[i] for line in body) for i, name in enumerate(header) if i > 2}
    return PaperTable(number, rows, models)


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


def layout(number: int, ours: Mapping[str, Sequence[str]], only_with: bool = True) -> list[str]:
    """A table of the paper with columns (or rows) of ours before its own, as lines of Markdown.

    ours: {title: one cell for each row of the table}. Every model of the paper is labelled so.
    only_with: leave out groups of which no cell of ours says anything ("-" throughout).
    """
    table = paper_table(number)
    columns = {**ours, **{f"paper: {name}": cells for name, cells in table.models.items()}}
    keep = range(len(table.rows))
    if only_with:
        told = {
            g for i, (g, _, _) in enumerate(table.rows) if any(c[i] != "-" for c in ours.values())
        }
        keep = [i for i in keep if table.rows[i][0] in told]
    labels = [f"{table.rows[i][0]}, {table.rows[i][1]}" for i in keep]
    if number in MODELS_IN_ROWS:
        body = [[name, *(cells[i] for i in keep)] for name, cells in columns.items()]
        return aligned(["method", *labels], body)
    body = [[label, *(c[i] for c in columns.values())] for label, i in zip(labels, keep)]
    return aligned(["measure", *columns], body)
