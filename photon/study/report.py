"""study.md, study.json and figures of a study, written into its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from photon.files import write_text
from photon.study.compare import (
    Section,
    compare_variants,
    compare_within,
    curve,
    language_bias,
)
from photon.study.dynamics import dynamics, dynamics_figure
from photon.study.figures import DPI, INK, LINES, PRUNER_COLORS, curve_figure, tidy
from photon.study.organs import organ_sections
from photon.study.runs import Study


def sections(study: Study, resamples: int = 1000, by: str | None = None) -> list[Section]:
    """Every section that the runs have data for; those on one variant take the reference, and
    every variant where there are several curves. by: see `compare_within`."""
    curves = [curve(study, variant, resamples) for variant in study.variants]
    found = [
        compare_variants(study, resamples),
        None if by is None else compare_within(study, by, resamples),
        *curves,
        language_bias(study, resamples),
        *organ_sections(study, study.reference),
        dynamics(study),
    ]
    return [section for section in found if section is not None]


def write_study(
    study: Study, resamples: int = 1000, by: str | None = None, name: str = "study.md"
) -> Path:
    """Write FOLDER/NAME, study.json and figures/*.png; returns the path of the first."""
    parts = sections(study, resamples, by)
    data = {"provenance": provenance(study), **{part.title: part.data for part in parts}}
    text = "\n".join([*header(study, resamples), *_body(parts)]).rstrip() + "\n"
    write_text(study.folder / "study.json", json.dumps(data, indent=2, allow_nan=False) + "\n")
    write_text(study.folder / name, text)
    folder = study.folder / "figures"
    folder.mkdir(exist_ok=True)
    for drawn, figure in figures(study, data).items():
        figure.savefig(folder / f"{drawn}.png", dpi=DPI)
    return study.folder / name


def provenance(study: Study) -> dict[str, Any]:
    """Where the numbers come from."""
    commits = sorted({str(run.metrics["provenance"].get("commit")) for run in study.runs})
    return {
        "command": study.command,
        "commits": commits,
        "reference": study.reference,
        "runs": {str(run.path.relative_to(study.folder)): run.variant for run in study.runs},
        "seeds": {v: [run.seed for run in study.of(v)] for v in study.variants},
        "left_out": study.left_out,
    }


def header(study: Study, resamples: int) -> list[str]:
    """Title and provenance, as Markdown lines."""
    told = provenance(study)
    n = {len(run.values["photon"]) for run in study.runs}
    questions = " to ".join(map(str, sorted({min(n), max(n)})))
    lines = [
        f"# {study.folder.name}",
        "",
        f"- Command: `{told['command']}`",
        f"- Table: `python -m photon study {study.folder}`",
        f"- Commit: {', '.join(told['commits'])}",
        f"- Runs: {len(study.runs)} in {study.folder}, {questions} questions each; reference: "
        f"{study.reference}",
        "- Seeds: " + "; ".join(f"{v}: {s}" for v, s in told["seeds"].items()),
        f"- Intervals: 95 %, {resamples} resamples over questions, drawn by patient; a question's "
        "value is its mean over seeds. SD: over seeds, in points.",
    ]
    if study.left_out:
        reasons = "; ".join(f"{name} ({why})" for name, why in study.left_out.items())
        lines.append(f"- Left out, not finished: {reasons}")
    return [*lines, ""]


def _body(parts: Sequence[Section]) -> list[str]:
    return [line for part in parts for line in (f"## {part.title}", "", *part.lines)]


def figures(study: Study, data: Mapping[str, Any]) -> dict[str, Figure]:
    """Pictures by name: curve of the reference, differences between variants, dynamics."""
    drawn: dict[str, Figure] = {}
    budgets = data.get(f"Budgets ({study.reference})")
    if budgets:
        drawn["curve"] = curve_figure(_as_metrics(budgets, data["Variants"][study.reference]))
    if len(study.variants) > 1:
        drawn["variants"] = variants_figure(data["Variants"], study.reference)
    over_steps = dynamics_figure(study)
    if over_steps is not None:
        drawn["dynamics"] = over_steps
    return drawn


def _as_metrics(budgets: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The study's numbers in the layout of metrics.json, as far as `curve_figure` reads it."""
    points = [
        {"pruner": pruner, "interval": entry["interval"], "retention": entry}
        for pruner in PRUNER_COLORS
        for entry in budgets.get(pruner, {}).values()
    ]
    return {
        "curve": points,
        "controls": {"no_pruning": own["no_pruning"]} if "no_pruning" in own else {},
        "overall": own["photon"],
        "retention": own["photon"],
    }


def variants_figure(data: Mapping[str, Any], reference: str) -> Figure:
    """Difference of each variant from the reference, in points, with its interval."""
    names = [name for name in data if name != reference][::-1]
    conditions = list(data[reference])
    figure = Figure(figsize=(8, 1.6 + 0.4 * len(names)), layout="constrained")
    ax = figure.subplots()
    ax.axvline(0, color=INK, lw=1)
    for i, condition in enumerate(conditions):
        shift = (i - (len(conditions) - 1) / 2) * 0.18
        points = [
            (y - shift, data[name][condition]["difference"])
            for y, name in enumerate(names)
            if data[name].get(condition, {}).get("difference")
        ]
        for n, (y, d) in enumerate(points):
            low, mean, high = (100 * d[k] for k in ("low", "mean", "high"))
            label = condition if n == 0 else None
            ax.plot([low, high], [y, y], color=LINES[i], lw=1.4)
            ax.plot(mean, y, "o", color=LINES[i], ms=4.5, label=label)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel=f"accuracy minus {reference} (points, 95 %)")
    tidy(ax)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure
