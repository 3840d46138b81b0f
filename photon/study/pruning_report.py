"""pruning.md, pruning.csv, table_3.tex and a figure of a benchmark of pruning methods."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from photon.benchmarks.page import paper_table, printed
from photon.evaluation.scores import Row
from photon.evaluation.table import TITLES, aligned
from photon.files import write_json, write_text
from photon.study.figures import DPI, GREY, INK, LINES, PRUNER_COLORS, tidy
from photon.study.pruning_benchmark import Answered, read_benchmark, table_rows

ALONE = "1x1"  # the pass of one question at a time, from which tokens a second are taken
Score = Callable[[Sequence[Row]], Mapping[tuple[str, str], float | None]]
COSTS = {
    "tokens": ("tokens", 1),
    "GFLOP": ("gflop", 2),
    "select ms": ("selection_ms", 1),
    "prefill p50": ("prefill_p50_ms", 0),
    "p99": ("prefill_p99_ms", 0),
    "a token": ("decode_ms", 1),
    "peak MiB": ("peak_mib", 0),
    "KV MiB": ("kv_mib", 2),
}
FURTHER = {"prefill p50": ("prefill_p50_ms", 0), "peak MiB": ("peak_mib", 0), "KV": ("kv_mib", 2)}


def write_benchmark(
    runs: Sequence[Path], notes: Mapping[str, Any], score: Score | None = None, seed: int = 0
) -> str:
    """Write the report of one run or several seeds into the first; returns the text.

    notes: what to say of model, data, machine and commit. score: measures (group, measure) of rows
    as the paper's Table 3 names them, where the data are its own.
    """
    answered = read_benchmark(runs)
    rows = table_rows(answered, seed)
    folder = runs[0]
    head, body = table_three(answered, rows, score)
    text = "\n".join([*_summary(rows, notes), "## Table 3", "", *_apart(head, body), ""])
    text += (
        '\nRows marked "paper" are printed in the paper (3D-RAD, its own model and machine) and '
        "were not reproduced here.\n"
    )
    write_text(folder / "pruning.md", text)
    write_json(folder / "pruning.json", {"notes": dict(notes), "rows": rows})
    write_text(folder / "pruning.csv", csv_text(rows))
    write_text(folder / "table_3.tex", latex(head, body))
    (folder / "figures").mkdir(exist_ok=True)
    time_figure(rows).savefig(folder / "figures" / "accuracy_time.png", dpi=DPI)
    return text


def _summary(rows: Sequence[Mapping[str, Any]], notes: Mapping[str, Any]) -> list[str]:
    """Title, conditions of the measurement, accuracies with comparisons, and costs."""
    lines = ["# Pruning methods compared", ""]
    lines += [f"- {key}: {value}" for key, value in notes.items()]
    lines += [
        "- Intervals: 95 %, whole patients drawn, a question's value its mean over seeds; "
        "differences are paired by question: minus random tokens at the same place and count, "
        "minus pooling to the same count, minus three slices of the organ asked about.",
        "- tokens: visual tokens that a question reads, averaged over the decoder's layers. Times, "
        "memory and operations are of the same passes as the answers, each condition by itself.",
        "",
    ]
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    for budget in budgets:
        chosen = [row for row in rows if row["budget"] == budget]
        lines += [f"## {_budget(budget)}", "", *aligned(*_accuracies(chosen)), ""]
        lines += [*aligned(*_costs(chosen)), ""]
    return lines


def _budget(budget: float | int | None) -> str:
    if budget is None:
        return "Without a budget"
    return f"{100 * budget:g} %" if isinstance(budget, float) else f"{budget} tokens"


def _title(row: Mapping[str, Any]) -> str:
    return TITLES.get(row["condition"], row["method"] if row["budget"] else row["condition"])


def _accuracies(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    head = [
        "method",
        "place",
        "accuracy",
        "minus random",
        "minus pooling",
        "minus 3 slices",
        "kept",
    ]
    body = [
        [
            _title(row),
            row["place"],
            _range(row, "accuracy"),
            *(_range(row, f"minus_{name}", True) for name in ("random", "pooling", "slices")),
            f"{row['kept']:.1f}",
        ]
        for row in rows
    ]
    return head, body


def _range(row: Mapping[str, Any], name: str, signed: bool = False) -> str:
    values = [row[key] for key in (name, f"{name}_low", f"{name}_high")]
    if None in values:
        return "-"
    mean, low, high = (format(100 * v, "+.1f" if signed else ".1f") for v in values)
    return f"{mean} [{low}, {high}]"


def _costs(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    further = list(dict.fromkeys(k.split("_")[0] for row in rows for k in row if _is_pass(k)))
    head = ["method", *COSTS, *(f"{name} {what}" for name in further for what in FURTHER)]
    body = []
    for row in rows:
        cells = [_title(row), *(_number(row.get(key), n) for key, n in COSTS.values())]
        cells += [
            _number(row.get(f"{name}_{key}"), n) for name in further for key, n in FURTHER.values()
        ]
        body.append(cells)
    return head, body


def _is_pass(key: str) -> bool:
    volumes, x, questions = key.split("_")[0].partition("x")
    return bool(x) and volumes.isdigit() and questions.isdigit()


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def table_three(
    answered: Mapping[str, Answered], rows: Sequence[Mapping[str, Any]], score: Score | None = None
) -> tuple[list[str], list[list[str] | None]]:
    """Head and body of Table 3: a row a method and budget, ours above the paper's.

    With `score` both have the paper's columns; otherwise ours has the subtasks of its data, and the
    paper's rows follow under a head of their own.
    """
    paper = paper_table(3)
    titles = [f"{group}, {measure}" for group, measure, _ in paper.rows]
    its = [[f"paper: {name}", *cells] for name, cells in paper.models.items()]
    if score is not None:
        ours = []
        for row in rows:
            found = score([r for run in answered[row["condition"]].rows[:1] for r in run])
            cells = [printed(found.get((g, m)), unit) for g, m, unit in paper.rows[:-2]]
            ours.append([_name(row), *cells, *_speed(row)])
        return ["method", *titles], [*ours, None, *its]
    names = sorted({name for row in rows for name in row["subtasks"]})
    ours = [
        [_name(row), *(_percent(row["subtasks"].get(name)) for name in names), *_speed(row)]
        for row in rows
    ]
    head = ["method", *names, "Infer Speed, Tok/s", "Token Num, Tok/case"]
    width = max(len(head), len(titles) + 1)
    body = [*ours, None, ["3D-RAD", *titles], *its]
    return _filled(head, width), [None if line is None else _filled(line, width) for line in body]


def _apart(head: Sequence[str], body: Sequence[Sequence[str] | None]) -> list[str]:
    """One table where ours and the paper's columns are the same, otherwise two."""
    cut = body.index(None)
    if body[cut + 1][0].startswith("paper"):
        return aligned(head, body)
    used = sum(bool(title) for title in head)
    ours = aligned(head[:used], [line[:used] for line in body[:cut]])
    return [*ours, "", *aligned(body[cut + 1], body[cut + 2 :])]


def _filled(cells: Sequence[str], width: int) -> list[str]:
    return [*cells, *[""] * (width - len(cells))]


def _name(row: Mapping[str, Any]) -> str:
    return _title(row) + (f" {_budget(row['budget'])}" if row["budget"] else "")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _speed(row: Mapping[str, Any]) -> list[str]:
    prefix = f"{ALONE}_" if f"{ALONE}_tok_s" in row else ""
    return [_number(row.get(f"{prefix}tok_s"), 2), f"{row['tokens']:.0f}"]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """All numbers, a line a condition, a column `subtask: NAME` for each subtask."""
    flat = [
        {
            **{k: v for k, v in row.items() if k != "subtasks"},
            **{f"subtask: {name}": value for name, value in row["subtasks"].items()},
        }
        for row in rows
    ]
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in flat for name in row))
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def latex(head: Sequence[str], body: Sequence[Sequence[str] | None]) -> str:
    """A booktabs table; None is a rule."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(_escaped(cell) for cell in cells) + r" \\"

    rows = [r"\midrule" if cells is None else line(cells) for cells in body]
    frame = [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", line(head)]
    return "\n".join([*frame, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(cell: str) -> str:
    for sign in "&%_#$":
        cell = cell.replace(sign, f"\\{sign}")
    return cell


def time_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy against the measured median prefill of a pass, a line a method over its budgets."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    ax = figure.subplots()
    methods = list(dict.fromkeys(row["method"] for row in rows if row["accuracy"] is not None))
    for i, method in enumerate(methods):
        own = [row for row in rows if row["method"] == method and row["accuracy"] is not None]
        own.sort(key=lambda row: row["budget"] or 0)
        x, y = [row["prefill_p50_ms"] for row in own], [100 * row["accuracy"] for row in own]
        color = PRUNER_COLORS.get(method, LINES[i % len(LINES)])
        if all(row["place"] == "-" for row in own):
            color = INK if method == "no_pruning" else GREY
        style = ("-", "--", ":")[i // len(LINES) % 3]
        name = TITLES.get(method, method)
        ax.plot(x, y, style, color=color, marker="o", ms=4, lw=1.2, label=name)
        for row, at, value in zip(own, x, y, strict=True):
            low, high = 100 * row["accuracy_low"], 100 * row["accuracy_high"]
            ax.plot([at, at], [low, high], color=color, lw=0.6, alpha=0.4)
            if row["budget"]:
                label = _budget(row["budget"]).split(" ")[0]
                ax.annotate(label, (at, value), fontsize=6, color=color)
    ax.set(xlabel="time to the first tokens (ms, median of a pass)", ylabel="accuracy (%)")
    tidy(ax)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure
