"""Sections of a study's report that compare accuracies: variants, budgets, other volumes.

Every interval is a 95 % percentile bootstrap over questions, whole patients drawn together; a
question's value is its mean over seeds, so that seeds are averaged and not counted as questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from photon.errors import InputError
from photon.evaluation.conditions import every_pruner, parse_condition
from photon.evaluation.intervals import Measure, mean_of
from photon.evaluation.summary import coverage_summary, retention_summary
from photon.evaluation.table import TITLES, aligned, interval_text, percent
from photon.study.runs import Run, Study

OTHER_VOLUMES = ("shuffled_volume", "blank_volume", "noise_volume", "question_only")


@dataclass(frozen=True)
class Section:
    """A part of the report: Markdown lines and the same numbers as plain data."""

    title: str
    lines: list[str]
    data: Any = field(default_factory=dict)


def _measure(study: Study, variant: str, condition: str) -> Measure:
    values = study.values(variant, condition)
    rows = [{"id": question, "patient": study.patient_of[question]} for question in values]
    return mean_of(rows, list(values.values()))


def accuracy(study: Study, variant: str, condition: str, resamples: int) -> dict[str, Any]:
    """Mean over seeds with its interval, and each seed's own mean."""
    interval = _measure(study, variant, condition).interval(resamples)
    seeds = study.per_seed(variant, condition)
    return {"interval": interval.as_dict() if interval else None, "seeds": seeds}


def difference(
    study: Study, one: tuple[str, str], other: tuple[str, str], resamples: int
) -> dict[str, float] | None:
    """Interval of (variant, condition) `one` minus `other`, paired by question."""
    interval = _measure(study, *one).minus(_measure(study, *other), resamples)
    return interval.as_dict() if interval else None


def kept(runs: Sequence[Run], condition: str) -> dict[str, float | None]:
    """Mean over runs: share of tokens kept, share of evidence kept, its ratio to random, theta."""
    tokens = [retention_summary(run.conditions[condition]) for run in runs]
    evidence = [coverage_summary(run.conditions[condition]) for run in runs]
    out = {
        "keep_ratio": _mean([t["keep_ratio"] for t in tokens]),
        "theta": _mean([t["theta"] for t in tokens]),
        "coverage": _mean([e["mean"] for e in evidence]),
        "random": _mean([e["random"] for e in evidence]),
    }
    known = out["coverage"] is not None and out["random"]
    return {**out, "lift": out["coverage"] / out["random"] if known else None}


def _mean(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return float(np.mean(there)) if there else None


def spread(seeds: Sequence[float]) -> str:
    """Standard deviation over seeds in points."""
    return f"{100 * np.std(seeds, ddof=1):.1f}" if len(seeds) > 1 else "-"


def main_conditions(study: Study) -> list[str]:
    """What variants are compared under: own threshold, own choice at two budgets, no pruning."""
    names = study.conditions(study.reference)
    budgets = [name for name in names if name.startswith("photon@")]
    budgets.sort(key=lambda name: parse_condition(name).keep)
    return ["photon", *budgets[:2], *(["no_pruning"] if "no_pruning" in names else [])]


def compare_variants(study: Study, resamples: int) -> Section:
    """Accuracy of every variant, and its difference from the reference."""
    lines: list[str] = []
    data: dict[str, Any] = {}
    for condition in main_conditions(study):
        body = []
        for variant in study.variants:
            if condition not in study.conditions(variant):
                continue
            runs = study.of(variant)
            entry = {**accuracy(study, variant, condition, resamples), **kept(runs, condition)}
            if variant != study.reference:
                pair = (variant, condition), (study.reference, condition)
                entry["difference"] = difference(study, *pair, resamples)
            data.setdefault(variant, {})[condition] = entry
            body.append(_variant_row(variant, entry))
        header = ["variant", "seeds", "accuracy (95 %)", "SD", "minus reference (95 %)", "kept %"]
        header += ["evidence kept %", "x random", "theta"]
        lines += [f"### {TITLES.get(condition, condition)}", "", *aligned(header, body), ""]
    return Section("Variants", lines, data)


def compare_within(study: Study, key: str, resamples: int) -> Section:
    """Accuracy of every variant on the questions of each value of a key, learned threshold.

    key: of the prediction rows, such as `subtask`, `kind` or `organ`. Raises InputError where no
    row has it.
    """
    groups: dict[str, set[str]] = {}
    for row in (row for run in study.runs for row in run.conditions["photon"]):
        if row.get(key) is not None:
            groups.setdefault(str(row[key]), set()).add(str(row["id"]))
    if not groups:
        raise InputError(f"--by {key}: no answer in {study.folder} has it. Try --by subtask.")
    body, data = [], {}
    for name, questions in sorted(groups.items()):
        part = replace(study, only=frozenset(questions))
        for variant in study.variants:
            entry = accuracy(part, variant, "photon", resamples)
            if variant != study.reference:
                pair = (variant, "photon"), (study.reference, "photon")
                entry["difference"] = difference(part, *pair, resamples)
            data.setdefault(name, {})[variant] = entry
            body.append(
                [
                    name,
                    variant,
                    str(len(part.values(variant, "photon"))),
                    interval_text(entry["interval"]),
                    spread(entry["seeds"]),
                    interval_text(entry.get("difference"), signed=True),
                ]
            )
    header = [key, "variant", "n", "accuracy (95 %)", "SD", "minus reference (95 %)"]
    return Section(f"Accuracy by {key}", [*aligned(header, body), ""], data)


def _variant_row(variant: str, entry: dict[str, Any]) -> list[str]:
    lift, theta = entry["lift"], entry["theta"]
    return [
        variant,
        str(len(entry["seeds"])),
        interval_text(entry["interval"]),
        spread(entry["seeds"]),
        interval_text(entry.get("difference"), signed=True),
        percent(entry["keep_ratio"]),
        percent(entry["coverage"]),
        "-" if lift is None else f"{lift:.2f}",
        "-" if theta is None else f"{theta:.2f}",
    ]


def curve(study: Study, variant: str, resamples: int) -> Section | None:
    """Accuracy against budget of every pruner, of one variant; None without two budgets."""
    names = [name for name in study.conditions(variant) if "@" in name]
    points = {(c.keep, c.method): c.name for c in map(parse_condition, names)}
    budgets = sorted({budget for budget, _ in points})
    pruners = [p for p in every_pruner() if any(pruner == p for _, pruner in points)]
    if len(budgets) < 2:
        return None
    data: dict[str, Any] = {}
    for (budget, pruner), name in points.items():
        entry = {**accuracy(study, variant, name, resamples), **kept(study.of(variant), name)}
        ours = points.get((budget, "photon"))
        if ours is not None and pruner != "photon":
            entry["difference"] = difference(study, (variant, ours), (variant, name), resamples)
        data.setdefault(pruner, {})[str(budget)] = entry
    titles = [TITLES.get(pruner, pruner) for pruner in pruners]
    others = [pruner for pruner in pruners if pruner != "photon"]

    def table(columns: Sequence[str], cell) -> list[str]:
        body = [
            [str(b), *(cell(data[p][str(b)]) if str(b) in data[p] else "-" for p in columns)]
            for b in budgets
        ]
        return aligned(["budget", *(TITLES.get(p, p) for p in columns)], body)

    lines = ["Accuracy (95 %):", "", *table(pruners, lambda e: interval_text(e["interval"])), ""]
    if "photon" in pruners and others:
        lines += ["Photon minus the other at the same budget (95 %), in points:", ""]
        lines += table(others, lambda e: interval_text(e.get("difference"), signed=True))
    if {"photon", "oracle"} <= set(pruners):
        share = {b: _share(data, b) for b in map(str, budgets)}
        text = ", ".join(f"{b}: {percent(value)} %" for b, value in share.items())
        data["share_of_oracle"] = share
        lines += ["", f"Photon's accuracy as a share of the oracle mask's, by budget: {text}."]
    lines += ["", f"Evidence kept in percent ({', '.join(titles)}):", ""]
    lines += [*table(pruners, lambda e: percent(e["coverage"])), ""]
    return Section(f"Budgets ({variant})", lines, data)


def _share(data: dict[str, Any], budget: str) -> float | None:
    ours, best = (data[p].get(budget, {}).get("interval") for p in ("photon", "oracle"))
    return ours["mean"] / best["mean"] if ours and best and best["mean"] else None


def language_bias(study: Study, resamples: int) -> Section | None:
    """Answers under another volume: accuracy, and how many answers stay what they were."""
    body, data = [], {}
    for variant in study.variants:
        for condition in [c for c in OTHER_VOLUMES if c in study.conditions(variant)]:
            same = [_unchanged(run, condition) for run in study.of(variant)]
            entry = {
                **accuracy(study, variant, condition, resamples),
                "loss": difference(study, (variant, "photon"), (variant, condition), resamples),
                "unchanged": _mean(same),
            }
            data.setdefault(variant, {})[condition] = entry
            cells = [interval_text(entry["interval"]), interval_text(entry["loss"], signed=True)]
            title = TITLES.get(condition, condition)
            body.append([variant, title, *cells, percent(entry["unchanged"])])
    if not body:
        return None
    header = ["variant", "shown", "accuracy (95 %)", "own volume minus it (95 %)", "same answer %"]
    note = "Same answer: share of the questions answered as with their own volume."
    return Section("Language bias", [*aligned(header, body), "", note, ""], data)


def _unchanged(run: Run, condition: str) -> float:
    own = {row["id"]: row["prediction"] for row in run.conditions["photon"]}
    other = run.conditions[condition]
    return float(np.mean([row["prediction"] == own[row["id"]] for row in other]))
