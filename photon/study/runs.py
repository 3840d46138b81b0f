"""The runs of a study: finished run directories below a folder, grouped by what differs.

A run's variant is its command-line overrides, as Hydra stores them, without the seed, without those
that all runs share, and without keys that change nothing that is computed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from photon.errors import InputError
from photon.evaluation.predictions import read_predictions
from photon.evaluation.scores import Row
from photon.evaluation.summary import question_values

# Where a run reports and how it is started; see tasks.rundir.NEUTRAL_KEYS for the training side.
NOT_A_VARIANT = ("seed", "experiment", "name", "logger", "trainer.enable_progress_bar")
DEFAULT = "default"  # the variant of runs that differ in their seed only


@dataclass(frozen=True)
class Run:
    """One finished run directory."""

    path: Path
    variant: str
    seed: int
    order: int  # place of the run in its sweep
    metrics: dict[str, Any]

    @cached_property
    def conditions(self) -> dict[str, list[Row]]:
        """Prediction rows of every condition that the run answered under."""
        files = {"photon": self.path / "predictions.jsonl"}
        files |= {p.name.removesuffix(".jsonl"): p for p in sorted(self._controls)}
        return {name: read_predictions(path) for name, path in files.items()}

    @property
    def _controls(self) -> list[Path]:
        return list((self.path / "controls").glob("*.jsonl"))

    @cached_property
    def values(self) -> dict[str, dict[str, float]]:
        """{condition: {question: right or wrong, or MRA}}."""
        return {name: question_values(rows) for name, rows in self.conditions.items()}


@dataclass(frozen=True)
class Study:
    """Runs by variant; `left_out` says which directories below the folder do not count, and why.

    only: the questions to count, or None for all.
    """

    folder: Path
    runs: list[Run]
    reference: str
    left_out: dict[str, str] = field(default_factory=dict)
    command: str = ""
    only: frozenset[str] | None = None

    @property
    def variants(self) -> list[str]:
        """Names in the order of the sweep, the reference first."""
        names = in_order(self.runs)
        return [self.reference, *(name for name in names if name != self.reference)]

    def of(self, variant: str) -> list[Run]:
        """Runs of a variant by seed."""
        return sorted((r for r in self.runs if r.variant == variant), key=lambda r: r.seed)

    def conditions(self, variant: str) -> list[str]:
        """Conditions under which every run of a variant answered."""
        first, *others = self.of(variant)
        return [name for name in first.conditions if all(name in r.conditions for r in others)]

    def values(self, variant: str, condition: str) -> dict[str, float]:
        """{question: mean over seeds} of the questions that every seed answered."""
        each = [self._counted(run, condition) for run in self.of(variant)]
        shared = [q for q in each[0] if all(q in other for other in each[1:])]
        return {q: float(np.mean([values[q] for values in each])) for q in shared}

    def per_seed(self, variant: str, condition: str) -> list[float]:
        """Mean over questions of each seed."""
        means = [list(self._counted(run, condition).values()) for run in self.of(variant)]
        return [float(np.mean(m)) for m in means if m]

    def _counted(self, run: Run, condition: str) -> dict[str, float]:
        values = run.values[condition]
        return {q: v for q, v in values.items() if self.only is None or q in self.only}

    @cached_property
    def patient_of(self) -> dict[str, str]:
        """{question: patient}: questions of one patient hang together."""
        rows = [row for run in self.runs for row in run.conditions["photon"]]
        return {str(row["id"]): str(row.get("patient") or row.get("volume")) for row in rows}


def read_study(folder: str | Path, reference: str | None = None) -> Study:
    """The finished runs below a folder.

    reference: the variant that others are compared with; None takes the sweep's first. Raises
    InputError without any finished run, or for a reference that is not there.
    """
    folder = Path(folder)
    paths = sorted(path.parent for path in folder.rglob("run.json"))
    if not paths:
        raise InputError(f"{folder}: no run directory in it. Give the folder of a sweep.")
    found, left_out = [], {}
    for path in paths:
        reason = _unfinished(path)
        if reason is not None:
            left_out[str(path.relative_to(folder))] = reason
        else:
            found.append(path)
    if not found:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise InputError(f"{folder}: no run is finished ({reasons}). Run the sweep again.")
    overrides = [_overrides(path) for path in found]
    runs = [
        Run(
            path, name, _json(path / "run.json")["seed"], _place(path), _json(path / "metrics.json")
        )
        for path, name in zip(found, variant_names(overrides), strict=True)
    ]
    _check_seeds(runs)
    names = in_order(runs)
    if reference is not None and reference not in names:
        raise InputError(f"--reference {reference}: no such variant; there are {', '.join(names)}")
    return Study(folder, runs, reference or names[0], left_out, _command(overrides))


def in_order(runs: Sequence[Run]) -> list[str]:
    """Variants by the first place of their runs in the sweep, then by name."""
    first: dict[str, int] = {}
    for run in runs:
        first[run.variant] = min(run.order, first.get(run.variant, run.order))
    return sorted(first, key=lambda name: (first[name], name))


def variant_names(overrides: Sequence[dict[str, str]]) -> list[str]:
    """A short name for each run's overrides: `KEY=VALUE, ...` of those that not all runs share.

    Only the last part of a key is written, or the last two where several keys end alike.
    """
    keys = {key for own in overrides for key in own}
    ends = [key.split(".")[-1] for key in keys]

    def short(key: str) -> str:
        parts = key.split(".")
        return ".".join(parts[-1:] if ends.count(parts[-1]) == 1 else parts[-2:])

    shared = {
        key for key in overrides[0] if all(o.get(key) == overrides[0][key] for o in overrides)
    }
    names = []
    for own in overrides:
        parts = [
            f"{short(key)}={value}"
            for key, value in own.items()
            if key not in shared and not key.startswith(NOT_A_VARIANT)
        ]
        names.append(", ".join(parts) or DEFAULT)
    return names


def _unfinished(path: Path) -> str | None:
    """Why a run directory does not count, or None."""
    try:
        state = json.loads((path / "status.json").read_text())["state"]
    except (OSError, ValueError, KeyError):
        return "no status"
    if state != "finished":
        return f"state {state}"
    return None if (path / "metrics.json").is_file() else "no metrics.json"


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{file}: cannot be read ({error}). Call the sweep again.") from error


def _place(path: Path) -> int:
    """The run's number in its sweep; 0 for a run by itself."""
    number = _yaml(path / ".hydra" / "hydra.yaml")["hydra"]["job"].get("num")
    return number if isinstance(number, int) else 0


def _overrides(path: Path) -> dict[str, str]:
    lines = _yaml(path / ".hydra" / "overrides.yaml") or []
    return dict(line.lstrip("+~").split("=", 1) for line in lines if "=" in line)


def _check_seeds(runs: Sequence[Run]) -> None:
    seen: dict[tuple[str, int], Path] = {}
    for run in runs:
        other = seen.setdefault((run.variant, run.seed), run.path)
        if other != run.path:
            raise InputError(
                f"{run.path} and {other} are both seed {run.seed} of {run.variant}. Keep one, or "
                "give them overrides that differ."
            )


def _command(overrides: Sequence[dict[str, str]]) -> str:
    """The command behind the runs: what all of them share."""
    first = overrides[0]
    shared = {k: v for k, v in first.items() if all(o.get(k) == v for o in overrides)}
    shared.pop("seed", None)
    return " ".join(["python train.py", *(f"{key}={value}" for key, value in shared.items())])
