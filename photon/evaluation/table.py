"""table.md: conditions side by side, per subtask, macro and overall, readable in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TITLES = {
    "photon": "Photon",
    "no_pruning": "no pruning",
    "random_keep": "random keep",
    "shuffled_volume": "shuffled volume",
    "blank_volume": "blank volume (ood)",
    "noise_volume": "noise volume (ood)",
    "opposite_orientation": "opposite orientation",
    "question_only": "question only (ood)",
    "constant": "constant",
    "file": "file",
}
METRIC_COLUMNS = (
    ("balanced", "balanced_accuracy"),
    ("MRA", "mra"),
    ("BLEU-1", "bleu1"),
    ("ROUGE-1", "rouge1"),
)


def format_table(metrics: Mapping[str, Any], own: str = "photon") -> str:
    """Markdown of a metrics dictionary (report.build_metrics), padded for the terminal.

    Two tables: subtasks by conditions, and conditions by metrics with their 95 % intervals and the
    difference from the run. All cells but token counts are percentages.
    """
    conditions = [c for c in TITLES if c in metrics["controls"]]
    conditions += sorted(set(metrics["controls"]) - set(conditions))
    lines = _subtask_table(metrics, conditions, own)
    lines += ["", *_condition_table(metrics, conditions, own), ""]
    if metrics.get("curve"):
        lines += [*curve_table(metrics["curve"]), ""]
    lines += [f"- {note}" for note in _notes(metrics, conditions, own)]
    return "\n".join(lines) + "\n"


def _subtask_table(metrics: Mapping[str, Any], conditions: Sequence[str], own: str) -> list[str]:
    controls = [metrics["controls"][c] for c in conditions]
    keep_of = metrics["retention"]["by_subtask"]
    header = ["subtask", "n", *(TITLES.get(c, c) for c in (own, *conditions)), "kept %"]
    body: list[list[str] | None] = []

    def row(name: str, n: int, values: Iterable[float | None], keep: float | None) -> None:
        body.append([name, str(n), *(percent(v) for v in values), percent(keep)])

    for name, group in metrics["subtasks"].items():
        groups = [group, *(c["subtasks"].get(name, {}) for c in controls)]
        keep = keep_of.get(name, {}).get("keep_ratio")
        if group["n_judged"]:
            row(name, group["n_judged"], [g.get("accuracy") for g in groups], keep)
        if group["n_numbers"]:
            row(f"{name} (MRA)", group["n_numbers"], [g.get("mra") for g in groups], keep)
    body.append(None)
    overall, macro = metrics["overall"], metrics["macro"]
    macros = [macro, *(c["macro"] for c in controls)]
    keep = metrics["retention"]["keep_ratio"]
    if overall["n_judged"]:
        groups = [overall, *controls]
        row("macro accuracy", overall["n_judged"], [m["accuracy"] for m in macros], None)
        row("overall accuracy", overall["n_judged"], [g["accuracy"] for g in groups], keep)
    if overall["n_numbers"]:
        row("macro MRA", overall["n_numbers"], [m["mra"] for m in macros], None)
    return aligned(header, body)


def _condition_table(metrics: Mapping[str, Any], conditions: Sequence[str], own: str) -> list[str]:
    entries = {own: {**metrics["overall"], **{k: metrics[k] for k in ("retention", "coverage")}}}
    entries |= {c: metrics["controls"][c] for c in conditions}
    columns = [c for c in METRIC_COLUMNS if metrics["overall"][c[1]] is not None]
    main = "accuracy" if metrics["overall"]["n_judged"] else "MRA"
    header = ["condition", f"{main} (95 %)", f"{TITLES.get(own, own)} minus it (95 %)"]
    header += [*(label for label, _ in columns), "tokens kept", "organ kept %"]
    body = []
    for condition, entry in entries.items():
        cells = [TITLES.get(condition, condition), interval_text(entry["interval"])]
        cells.append(interval_text(entry.get("difference"), signed=True))
        cells += [percent(entry[key]) for _, key in columns]
        kept = entry.get("retention", {}).get("kept_tokens")
        cells.append("-" if kept is None else f"{kept:.1f}")
        cells.append(percent(entry.get("coverage", {}).get("mean")))
        body.append(cells)
    return aligned(header, body)


def curve_table(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of the table of accuracies, a row a budget and a column a pruner, in percent."""
    pruners = list(dict.fromkeys(point["pruner"] for point in points))
    cells = {(p["budget"], p["pruner"]): interval_text(p["interval"]) for p in points}
    body = [
        [str(budget), *(cells.get((budget, pruner), "-") for pruner in pruners)]
        for budget in dict.fromkeys(point["budget"] for point in points)
    ]
    return aligned(["budget", *(TITLES.get(p, p) for p in pruners)], body)


def _notes(metrics: Mapping[str, Any], conditions: Sequence[str], own: str) -> list[str]:
    overall, retention = metrics["overall"], metrics["retention"]
    notes = []
    if retention["kept_tokens"] is not None:
        notes.append(
            f"Kept {retention['kept_tokens']:.1f} of {retention['visual_tokens']:.0f} visual "
            f"tokens ({percent(retention['keep_ratio'])} %) per question."
        )
    coverage = metrics["coverage"]
    if coverage["n"]:
        notes.append(
            f"Organ kept: share of the tokens of the organ asked about, over {coverage['n']} "
            f"questions with a mask; random tokens would keep {percent(coverage['random'])} %."
        )
    notes.append(f"{overall['n']} questions, {overall['n_empty']} without an answer (wrong).")
    if overall["n_numbers"]:
        notes.append("MRA: mean relative accuracy; questions in numbers enter no accuracy.")
    if "constant" in conditions:
        entry = metrics["controls"]["constant"]
        which = {"train": "training answers", "test": "test answers themselves (upper bound)"}
        bound = percent(entry["upper_bound"]["accuracy"])
        notes.append(
            f"Constant: per subtask and metric the best of the {which[entry['source']]}; "
            f"with the best of the test answers {bound}."
        )
    notes.append("Intervals: 95 %, whole patients drawn with replacement.")
    if any("(ood)" in TITLES.get(condition, "") for condition in conditions):
        notes.append("ood: an input unlike any of training; it says less about what a model sees.")
    notes.append(f"Commit {metrics['provenance'].get('commit') or 'unknown'}.")
    return notes


def percent(value: float | None) -> str:
    """A share in percent with one decimal; a dash for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def interval_text(
    interval: Mapping[str, float] | None, signed: bool = False, digits: int = 1
) -> str:
    """Mean and interval in percent, "50.0 [40.0, 60.0]"; a dash for None."""
    if interval is None:
        return "-"
    form = f"{'+' if signed else ''}.{digits}f"
    mean, low, high = (format(100 * interval[k], form) for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def aligned(header: Sequence[str], body: Sequence[Sequence[str] | None]) -> list[str]:
    """Markdown table padded to equal columns; None is an empty row."""
    rows = [list(header), *(["" for _ in header] if row is None else list(row) for row in body)]
    # A rule needs two characters to say which way a column is aligned.
    widths = [max(2, *(len(row[i]) for row in rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))
        )
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [line(rows[0]), line(rule), *(line(row) for row in rows[1:])]
