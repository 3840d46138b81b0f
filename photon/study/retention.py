"""Retention over training: reading retention.parquet, means over subtasks, stages.

Columns: step, stage (off, soft, hard), subtask, n (questions), soft_keep, hard_keep, theta,
band_hit (share of questions outside the band), kept_tokens, visual_tokens; one row per step and
subtask.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from photon.errors import InputError

STAGES = ("off", "soft", "hard")
VALUES = ("soft_keep", "hard_keep", "theta", "band_hit", "kept_tokens", "visual_tokens")
COLUMNS = ("step", "stage", "subtask", "n", *VALUES)


def load_band(run: str | Path) -> tuple[float, float] | None:
    """r_min and r_max (Eq. 18) of a run directory, from its run.json; None where there are none."""
    path = Path(run) / "run.json"
    if not path.is_file():
        return None
    band = json.loads(path.read_text())["task"].get("finetune", {}).get("band")
    return None if band is None else (band["low"], band["high"])


def load_retention(run: str | Path) -> pd.DataFrame:
    """retention.parquet of a run directory (or the file itself), sorted by step.

    theta is missing while pruning is off, whatever was logged.
    """
    path = Path(run)
    path = path / "retention.parquet" if path.is_dir() else path
    if not path.is_file():
        raise InputError(
            f"{path}: no retention log. Give the directory of a Phase 2 run, which writes it."
        )
    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises its own families for damaged files
        raise InputError(
            f"{path}: not a readable Parquet file ({error}). Run the training again."
        ) from error
    missing = [c for c in COLUMNS if c not in frame.columns]
    if missing:
        raise InputError(
            f"{path}: columns {', '.join(missing)} are missing. Expected {', '.join(COLUMNS)}."
        )
    unknown = sorted(set(frame["stage"]) - set(STAGES))
    if unknown:
        raise InputError(f"{path}: unknown stage {unknown[0]!r}. Use one of {', '.join(STAGES)}.")
    frame["theta"] = frame["theta"].astype(float).where(frame["stage"] != "off")  # not in use
    return frame.sort_values(["step", "subtask"], kind="stable").reset_index(drop=True)


def weighted_mean(frame: pd.DataFrame, by: str | Sequence[str]) -> pd.DataFrame:
    """Means of the value columns weighted by the number of questions, per group, with `n` summed.

    A missing value (theta while pruning is off) is left out of its own mean only.
    """
    keys = [by] if isinstance(by, str) else list(by)
    values = frame[list(VALUES)].astype(float)
    weights = values.notna().mul(frame["n"].astype(float), axis=0)
    sums = (values.fillna(0.0) * weights).groupby([frame[k] for k in keys], sort=True).sum()
    totals = weights.groupby([frame[k] for k in keys], sort=True).sum()
    out = sums / totals.where(totals > 0)
    out.insert(0, "n", frame.groupby(keys, sort=True)["n"].sum())
    return out.reset_index()


def per_step(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per step: question-weighted means over subtasks, and the stage."""
    out = weighted_mean(frame, "step")
    out.insert(1, "stage", frame.groupby("step", sort=True)["stage"].first().to_numpy())
    return out


def per_subtask(frame: pd.DataFrame, last: float = 0.25) -> pd.DataFrame:
    """One row per subtask over the last share of the steps in stage hard (all steps if none is)."""
    if not 0 < last <= 1:
        raise ValueError(f"last={last} must be within (0, 1]")
    hard = frame[frame["stage"] == "hard"]
    hard = frame if hard.empty else hard
    steps = np.sort(hard["step"].unique())
    first = steps[len(steps) - max(1, round(len(steps) * last))]
    return weighted_mean(hard[hard["step"] >= first], "subtask")


def stage_spans(frame: pd.DataFrame) -> list[tuple[str, float, float]]:
    """(stage, first step, end) of each run of one stage; the end is the next one's first step."""
    steps = frame.groupby("step", sort=True)["stage"].first()
    if steps.empty:
        return []
    changes = [0, *(np.flatnonzero(steps.to_numpy()[1:] != steps.to_numpy()[:-1]) + 1)]
    starts = [float(steps.index[i]) for i in changes]
    ends = [*starts[1:], float(steps.index[-1])]
    return list(zip((steps.iloc[i] for i in changes), starts, ends, strict=True))


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per stage in order: steps, questions, mean ratios, theta, band triggers, tokens."""
    out = weighted_mean(frame, "stage").set_index("stage")
    out.insert(0, "steps", frame.groupby("stage")["step"].nunique())
    return out.loc[[s for s in STAGES if s in out.index]]


def rolling(values: pd.Series, window: int, stage: pd.Series) -> pd.Series:
    """Centred rolling mean within each run of one stage; missing values stay missing.

    It shortens at the ends, so that no step is lost, and never looks across a stage boundary, where
    the ratio jumps by design.
    """
    runs = (stage != stage.shift()).cumsum()
    smooth = values.groupby(runs).transform(
        lambda part: part.rolling(max(1, window), center=True, min_periods=1).mean()
    )
    return smooth.where(values.notna())
