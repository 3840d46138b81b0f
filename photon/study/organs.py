"""Sections on what was kept: tokens by subtask, organ and stratum, overlap (Tables 11, 12)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from photon.evaluation.overlap import Mask, kept_mask, organ_dissimilarity
from photon.evaluation.scores import Row, score_rows
from photon.evaluation.table import TITLES, aligned, percent
from photon.study.compare import Section, main_conditions
from photon.study.runs import Study


def organ_sections(study: Study, variant: str) -> list[Section]:
    """Tokens kept by subtask, organ and stratum, and overlap, of one variant over all seeds."""
    names = [c for c in main_conditions(study) if c in study.conditions(variant)]
    runs = study.of(variant)
    rows = {
        c: [{**row, "seed": run.seed} for run in runs for row in run.conditions[c]] for c in names
    }
    rows = {c: part for c, part in rows.items() if any(r.get("kept_mask") for r in part)}
    if not rows:
        return []
    found = [
        _kept_by(rows, "subtask", f"Tokens kept by subtask ({variant})"),
        _kept_by(rows, "organ", f"Tokens kept by organ ({variant})"),
        _overlap(rows, variant),
        _kept_by(rows, "stratum", f"Evidence by size of the lesion ({variant})"),
    ]
    return [section for section in found if section is not None]


def _kept_by(rows: dict[str, list[Row]], key: str, title: str) -> Section | None:
    """Tokens, evidence kept and accuracy by a key of the rows."""
    body, data = [], {}
    for condition, part in rows.items():
        groups: dict[str, list[Row]] = {}
        for row in part:
            if row.get(key) is not None and row.get("kept_tokens") is not None:
                groups.setdefault(str(row[key]), []).append(row)
        for name, members in sorted(groups.items()):
            tokens, n = _mean(row["kept_tokens"] for row in members), len(members)
            covered = [row for row in members if row["coverage"] is not None]
            ratio = _mean(row["kept_tokens"] / row["visual_tokens"] for row in covered)
            coverage = _mean(row["coverage"] for row in covered)
            right = _mean(score.value for score in score_rows(members))
            entry = {"n": n, "tokens": tokens, "coverage": coverage, "score": right}
            entry["lift"] = coverage / ratio if covered and ratio else None
            data.setdefault(condition, {})[name] = entry
            body.append(_cells(condition, name, entry))
    if not body:
        return None
    header = ["condition", key, "answers", "tokens kept", "evidence kept %", "x random", "score %"]
    return Section(title, [*aligned(header, body), ""], data)


def _cells(condition: str, name: str, entry: dict[str, Any]) -> list[str]:
    lift = entry["lift"]
    return [
        TITLES.get(condition, condition),
        name,
        str(entry["n"]),
        f"{entry['tokens']:.1f}",
        percent(entry["coverage"]),
        "-" if lift is None else f"{lift:.2f}",
        percent(entry["score"]),
    ]


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values else None


def _overlap(rows: dict[str, list[Row]], variant: str) -> Section | None:
    """Jaccard dissimilarity of kept tokens: questions on different organs, and on one organ."""
    body, data = [], {}
    for condition, part in rows.items():
        masks = [_mask(row) for row in part if row.get("organ") and row.get("kept_mask")]
        pairs = organ_dissimilarity(masks)
        for kind, chosen in (
            ("different organs", [d for (a, b), d in pairs.items() if a != b]),
            ("the same organ", [d for (a, b), d in pairs.items() if a == b]),
        ):
            if not chosen:
                continue
            weight = [d.pairs for d in chosen]
            mean = float(np.average([d.mean for d in chosen], weights=weight))
            chance = float(np.average([d.random for d in chosen], weights=weight))
            data.setdefault(condition, {})[kind] = {"mean": mean, "random": chance}
            cells = [kind, f"{mean:.3f}", f"{chance:.3f}", str(sum(weight))]
            body.append([TITLES.get(condition, condition), *cells])
        data.setdefault(condition, {})["pairs"] = {
            f"{a} - {b}": {"mean": d.mean, "random": d.random, "pairs": d.pairs}
            for (a, b), d in pairs.items()
        }
    if not body:
        return None
    header = ["condition", "questions on", "Jaccard dissimilarity", "random masks", "pairs"]
    return Section(f"Overlap of what is kept ({variant})", [*aligned(header, body), ""], data)


def _mask(row: Row) -> Mask:
    """A question's kept tokens. Only masks on the same volumes in the same run are compared.

    A row names the first of its volumes; their number shows in the tokens.
    """
    where = [row["seed"], row["volume"], row["visual_tokens"]]
    return Mask(json.dumps(where), str(row["organ"]), kept_mask(row))
