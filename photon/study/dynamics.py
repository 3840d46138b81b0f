"""Retention over training by variant (Figures 5 and 6): where it ends, and how it gets there."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from photon.evaluation.table import aligned, percent
from photon.study import retention
from photon.study.compare import Section
from photon.study.figures import GREY, LINES, tidy
from photon.study.runs import Study

COLUMNS = ("hard_keep", "soft_keep", "theta", "band_hit")


def frames(study: Study) -> dict[str, pd.DataFrame]:
    """Per variant with retention logs: means over seeds for each step, and the stage."""
    out = {}
    for variant in study.variants:
        logs = [run.path for run in study.of(variant) if (run.path / "retention.parquet").is_file()]
        steps = [retention.per_step(retention.load_retention(path)) for path in logs]
        if steps:
            whole = pd.concat(steps)
            mean = whole.groupby("step")[list(COLUMNS)].mean()
            mean["stage"] = whole.groupby("step")["stage"].first()
            out[variant] = mean.reset_index()
    return out


def dynamics(study: Study) -> Section | None:
    """Retention over the last quarter of the steps with hard pruning, by variant."""
    body: list[list[str]] = []
    data: dict[str, Any] = {}
    for variant, frame in frames(study).items():
        hard = frame[frame["stage"] == "hard"]
        if hard.empty:
            continue
        end = hard.iloc[-max(1, len(hard) // 4) :]
        entry = {name: None if end[name].isna().all() else end[name].mean() for name in COLUMNS}
        entry["sd"] = float(end["hard_keep"].std(ddof=0))
        data[variant] = {k: None if v is None else float(v) for k, v in entry.items()}
        cells = [percent(entry[name]) for name in ("hard_keep", "sd", "soft_keep", "band_hit")]
        theta = "-" if entry["theta"] is None else f"{entry['theta']:.3f}"
        body.append([variant, str(len(end)), *cells, theta])
    if not body:
        return None
    header = ["variant", "steps", "kept %", "SD over steps", "soft %", "outside band %", "theta"]
    return Section("Retention at the end of training", [*aligned(header, body), ""], data)


def dynamics_figure(study: Study) -> Figure | None:
    """Share kept and threshold over the steps, a line a variant, smoothed; None without logs."""
    found = frames(study)
    if not found:
        return None
    figure = Figure(figsize=(8.5, 6), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for i, (variant, frame) in enumerate(found.items()):
        color, style = LINES[i % len(LINES)], ("-", "--", ":")[i // len(LINES) % 3]
        for ax, column in zip(axes, ("hard_keep", "theta"), strict=True):
            smooth = retention.rolling(frame[column], len(frame) // 20, frame["stage"])
            ax.plot(frame["step"], smooth, color=color, ls=style, lw=1.6, label=variant)
    for start in [s for _, s, _ in retention.stage_spans(next(iter(found.values())))][1:]:
        for ax in axes:
            ax.axvline(start, color=GREY, lw=0.8, ls=":")
    axes[0].set(ylabel="share of tokens kept", ylim=(0, 1.04))
    axes[1].set(ylabel="threshold theta", xlabel="training step")
    for ax in axes:
        tidy(ax)
    handles, labels = axes[0].get_legend_handles_labels()
    columns = min(4, len(handles))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    return figure
