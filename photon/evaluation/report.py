"""metrics.json: one run, its controls with intervals, and where the numbers come from."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from photon.evaluation.bootstrap import Interval, bootstrap_mean, paired_difference
from photon.evaluation.condition import parse_condition
from photon.evaluation.controls import ConstantAnswers
from photon.evaluation.protocols import Protocol, Row, Score, score_rows, subtask_names, summarize
from photon.evaluation.table import format_table
from photon.files import write_json, write_text

PACKAGES = ("torch", "transformers", "lightning", "numpy", "sacrebleu", "rouge-score")


def retention_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Kept and visual tokens per question; keep_ratio is the mean over questions of kept / visual.

    Rows without counts (a foreign file) are left out; everything is None if all are.
    """
    counted = [r for r in rows if r.get("kept_tokens") is not None and r.get("visual_tokens")]
    by_subtask = {name: _retention(group) for name, group in _by_subtask(counted).items()}
    return {**_retention(counted), "by_subtask": by_subtask}


def _by_subtask(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for name, row in zip(subtask_names(rows), rows, strict=True):
        groups.setdefault(name, []).append(row)
    return dict(sorted(groups.items()))


def _retention(rows: Sequence[Row]) -> dict[str, Any]:
    if not rows:
        keys = ("keep_ratio", "kept_tokens", "visual_tokens", "theta")
        return {"n": 0, **dict.fromkeys(keys)}
    kept = np.array([r["kept_tokens"] for r in rows], dtype=float)
    visual = np.array([r["visual_tokens"] for r in rows], dtype=float)
    thetas = [r["theta"] for r in rows if r.get("theta") is not None]
    return {
        "n": len(rows),
        "keep_ratio": float((kept / visual).mean()),
        "kept_tokens": float(kept.mean()),
        "visual_tokens": float(visual.mean()),
        "theta": float(np.mean(thetas)) if thetas else None,
    }


def coverage_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean share of the evidence organ's tokens kept, beside what random tokens would keep.

    random: mean keep ratio of the same questions, the expectation for tokens kept at random.
    """
    covered = [r for r in rows if r.get("coverage") is not None]

    def mean(chosen: Sequence[Row]) -> dict[str, Any]:
        recall = float(np.mean([r["coverage"] for r in chosen])) if chosen else None
        return {"n": len(chosen), "mean": recall, "random": _retention(chosen)["keep_ratio"]}

    by_subtask = {name: mean(group) for name, group in _by_subtask(covered).items()}
    return {**mean(covered), "by_subtask": by_subtask}


def build_metrics(
    rows: Sequence[Row],
    controls: Mapping[str, Sequence[Row]] | None = None,
    constant: Mapping[str, ConstantAnswers] | None = None,
    provenance: Mapping[str, Any] | None = None,
    protocol: Protocol | None = None,
    resamples: int = 1000,
    seed: int = 0,
    budgets: Mapping[str, Sequence[Row]] | None = None,
) -> dict[str, Any]:
    """Content of metrics.json.

    rows: the run's own predictions. controls: {condition: rows} of the same questions; each gets
    its summary, its interval and its difference from the run (run minus control, paired by question
    id). constant: from `controls.constant_control`; the training constant stands for the control if
    there is one, and the test set's own majority is reported as `upper_bound`.
    budgets: {PRUNER@BUDGET: rows}, the points of `curve`, where any are given.
    """
    scores = score_rows(rows, protocol)
    out = summarize(rows, protocol, scores)
    own = question_values(rows, scores)
    out["overall"]["interval"] = _interval(own, resamples, seed)
    names = subtask_names(rows)
    for name, group in out["subtasks"].items():
        chosen = [i for i, n in enumerate(names) if n == name]
        values = question_values([rows[i] for i in chosen], [scores[i] for i in chosen])
        group["interval"] = _interval(values, resamples, seed)
    out["retention"] = retention_summary(rows)
    out["coverage"] = coverage_summary(rows)
    out["controls"] = {}
    for condition, control_rows in (controls or {}).items():
        control_scores = score_rows(control_rows, protocol)
        summary = summarize(control_rows, protocol, control_scores)
        other = question_values(control_rows, control_scores)
        out["controls"][condition] = {
            **_control(summary, own, other, resamples, seed),
            "retention": retention_summary(control_rows),
            "coverage": coverage_summary(control_rows),
        }
    if constant:
        out["controls"]["constant"] = _constant_entry(
            rows, own, constant, protocol, resamples, seed
        )
    if budgets:
        out["curve"] = budget_curve(budgets, protocol, resamples, seed)
    out["provenance"] = dict(provenance or {})
    return out


def budget_curve(
    budgets: Mapping[str, Sequence[Row]],
    protocol: Protocol | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """A point for each condition PRUNER@BUDGET, in their order.

    Each has pruner, budget, accuracy (MRA where nothing is judged), interval, retention and
    coverage, and `difference`: photon at the same budget minus this point, paired by question.
    """
    values = {
        name: question_values(rows, score_rows(rows, protocol)) for name, rows in budgets.items()
    }
    points = []
    for name, rows in budgets.items():
        condition = parse_condition(name)
        photon = values.get(f"photon@{condition.keep}", {})
        shared = [key for key in photon if key in values[name]]
        difference = paired_difference(
            [photon[k] for k in shared],
            [values[name][k] for k in shared],
            resamples=resamples,
            seed=seed,
        )
        interval = _interval(values[name], resamples, seed)
        points.append(
            {
                "pruner": condition.pruner,
                "budget": condition.keep,
                "accuracy": interval["mean"] if interval else None,
                "interval": interval,
                "difference": difference.as_dict() if difference else None,
                "retention": _retention([r for r in rows if r.get("visual_tokens")]),
                "coverage": coverage_summary(rows),
            }
        )
    return points


def _keys(rows: Sequence[Row]) -> list[str]:
    """Question ids; the position stands in where a record has none."""
    return [str(r["id"]) if r.get("id") is not None else f"#{i}" for i, r in enumerate(rows)]


def question_values(rows: Sequence[Row], scores: Sequence[Score]) -> dict[str, float]:
    """Right or wrong of each judged question, by id; MRA instead where nothing is judged."""
    pairs = list(zip(_keys(rows), scores, strict=True))
    judged = {key: float(s.correct) for key, s in pairs if s.correct is not None}
    return judged or {key: s.value for key, s in pairs}


def _interval(values: Mapping[str, float], resamples: int, seed: int) -> dict | None:
    interval = bootstrap_mean(list(values.values()), resamples=resamples, seed=seed)
    return interval.as_dict() if interval else None


def _control(
    summary: dict[str, Any],
    own: Mapping[str, float],
    other: Mapping[str, float],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    shared = [key for key in own if key in other]
    difference: Interval | None = paired_difference(
        [own[k] for k in shared], [other[k] for k in shared], resamples=resamples, seed=seed
    )
    return {
        **summary["overall"],
        "macro": summary["macro"],
        "subtasks": summary["subtasks"],
        "interval": _interval(other, resamples, seed),
        "difference": difference.as_dict() if difference else None,
    }


def _constant_entry(
    rows: Sequence[Row],
    own: Mapping[str, float],
    constant: Mapping[str, ConstantAnswers],
    protocol: Protocol | None,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    chosen = constant.get("train") or constant["test"]
    if len(chosen.predictions) != len(rows):
        raise ValueError(
            f"constant answers for {len(chosen.predictions)} questions, but {len(rows)} rows"
        )
    filled = [{**r, "prediction": p} for r, p in zip(rows, chosen.predictions, strict=True)]
    other = question_values(filled, score_rows(filled, protocol))
    entry = _control(chosen.summary, own, other, resamples, seed)
    entry.update(source=chosen.source, rules=chosen.rules, answers=chosen.answers)
    bound = constant["test"].summary
    entry["upper_bound"] = {
        "accuracy": bound["overall"]["accuracy"],
        "score": bound["overall"]["score"],
        "macro": bound["macro"],
        "subtasks": {k: v["accuracy"] for k, v in bound["subtasks"].items()},
    }
    return entry


# Provenance ---------------------------------------------------------------------------------------


def collect_provenance(
    config_hash: str | None = None, data_hash: str | None = None, **extra: Any
) -> dict[str, Any]:
    """Commit (None outside a checkout; "-dirty" with local changes), versions and given hashes."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "commit": _commit(Path(__file__).resolve().parents[2]),
        "config_hash": config_hash,
        "data_hash": data_hash,
        "versions": versions,
        "platform": platform.platform(),
        **extra,
    }


def _commit(root: Path) -> str | None:
    if not (root / ".git").exists():  # an installed copy inside someone else's repository
        return None
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=root, capture_output=True, text=True, check=True, timeout=20,
        ).stdout.strip()  # fmt: skip
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root, capture_output=True, text=True, check=True, timeout=20,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("-dirty" if changes else "")


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, for `data_hash`."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_report(
    run_dir: str | Path, metrics: Mapping[str, Any], title: str | None = None, own: str = "photon"
) -> str:
    """Write metrics.json and table.md into a run directory, each atomically; return the table.

    own: condition of the run's own rows, for the column title ("file" for a foreign file).
    """
    run_dir = Path(run_dir)
    table = format_table(metrics, title, own)
    write_json(run_dir / "metrics.json", metrics)
    write_text(run_dir / "table.md", table)
    return table
