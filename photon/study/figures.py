"""Figures of a run: retention over steps, per subtask, and accuracy beside the controls.

Every function returns a matplotlib Figure and touches neither pyplot nor a display; `save_figures`
writes what a run directory has data for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from photon.errors import InputError
from photon.evaluation.table import TITLES
from photon.study import retention

PURPLE, LILAC, TEAL, AMBER, RED, INK, GREY = (
    "#5b2ea6", "#b79be0", "#0f8b8d", "#e09f3e", "#c8553d", "#2b2d42", "#8d99ae",
)  # fmt: skip
STAGE_COLORS = {"off": "#eceff4", "soft": "#fbf1dd", "hard": "#f4effb"}
STAGE_TITLES = {"off": "off", "soft": "soft masks", "hard": "hard pruning"}
CONDITION_COLORS = {
    "photon": PURPLE,
    "no_pruning": INK,
    "random_keep": AMBER,
    "shuffled_volume": TEAL,
    "blank_volume": "#9cc5a1",
    "noise_volume": "#7d8597",
    "opposite_orientation": LILAC,
    "question_only": GREY,
    "constant": "#cfd5df",
}
PRUNER_COLORS = {
    "photon": PURPLE,
    "random": AMBER,
    "uniform": TEAL,
    "fastv": RED,
    "oracle": "#7a9e3f",
}
LINES = ("#5b2ea6", "#0f8b8d", "#e09f3e", "#c8553d", "#3d7dca", "#7a9e3f", "#a64b8e", "#8d99ae")
DPI = 130


def retention_figure(frame: pd.DataFrame, band: tuple[float, float] | None = None) -> Figure:
    """Retention over training (Figs. 5, 6): ratios and band, theta, band triggers, subtasks.

    frame: from `retention.load_retention`. Stages are shaded. Where there are many steps the raw
    values are faint and a rolling mean over 2 % of the steps is drawn on top.
    """
    steps = retention.per_step(frame)
    spans = retention.stage_spans(frame)
    window = len(steps) // 50
    figure = Figure(figsize=(9.5, 9), layout="constrained")
    axes = figure.subplots(4, 1, sharex=True, height_ratios=(2.4, 1, 1, 1.7))
    for ax in axes:
        _shade_stages(ax, spans, label=ax is axes[0])
    _ratio_panel(axes[0], steps, window, band)
    _curve(axes[1], steps, "theta", window, TEAL)
    axes[1].set_ylabel("threshold theta")
    _curve(axes[2], steps, "band_hit", window, RED, fill=True)
    axes[2].set(ylabel="band triggers", ylim=(0, 1.02))
    _subtask_panel(axes[3], frame, window)
    axes[3].set_xlabel("training step")
    axes[3].set_xlim(steps["step"].min(), max(steps["step"].max(), steps["step"].min() + 1))
    for ax in axes:
        tidy(ax)
    figure.align_ylabels(axes)
    figure.suptitle("Token retention during training", fontweight="bold", color=INK)
    return figure


def _shade_stages(ax: Axes, spans: Sequence[tuple[str, float, float]], label: bool) -> None:
    for stage, start, end in spans:
        ax.axvspan(start, end, color=STAGE_COLORS[stage], lw=0, zorder=0)
        if start != spans[0][1]:
            ax.axvline(start, color=GREY, lw=0.8, ls=(0, (4, 3)), zorder=1)
        if label:
            ax.annotate(
                STAGE_TITLES[stage], ((start + end) / 2, 1.015), xycoords=("data", "axes fraction"),
                ha="center", va="bottom", fontsize=9, color=INK,
            )  # fmt: skip


def _curve(
    ax: Axes,
    steps: pd.DataFrame,
    column: str,
    window: int,
    color: str,
    label: str | None = None,
    fill: bool = False,
) -> None:
    x, y = steps["step"], steps[column]
    smooth = retention.rolling(y, window, steps["stage"])
    if window > 1:
        ax.plot(x, y, color=color, lw=0.7, alpha=0.3)
    ax.plot(x, smooth, color=color, lw=1.9, label=label)
    if fill:
        ax.fill_between(x, 0, smooth, color=color, alpha=0.18, lw=0)


def _ratio_panel(
    ax: Axes, steps: pd.DataFrame, window: int, band: tuple[float, float] | None
) -> None:
    if band:
        ax.axhspan(*band, color=PURPLE, alpha=0.06, lw=0, zorder=1)
        for limit, name in zip(band, ("r_min", "r_max"), strict=True):
            ax.axhline(limit, color=PURPLE, lw=0.9, ls=":", zorder=2)
            ax.annotate(
                f"{name} = {limit:g}", (0.004, limit), xycoords=("axes fraction", "data"),
                xytext=(2, 3), textcoords="offset points", fontsize=8, color=PURPLE,
            )  # fmt: skip
    _curve(ax, steps, "soft_keep", window, AMBER, "soft: mean retention probability")
    _curve(ax, steps, "hard_keep", window, PURPLE, "hard: share of tokens above theta")
    ax.set(ylabel="retention ratio", ylim=(0, 1.04))
    ax.legend(loc="upper right", frameon=False, fontsize=9)
    visual = steps["visual_tokens"].dropna().unique()
    if len(visual) == 1:  # only then is one ratio one number of tokens
        scale = float(visual[0])
        tokens = ax.secondary_yaxis("right", functions=(lambda r: r * scale, lambda t: t / scale))
        tokens.set_ylabel("visual tokens", fontsize=9.5)
        tokens.tick_params(labelsize=9, color=GREY)
        tokens.spines["right"].set_visible(False)


def _subtask_panel(ax: Axes, frame: pd.DataFrame, window: int) -> None:
    table = retention.weighted_mean(frame, ["subtask", "step"])
    table["stage"] = table["step"].map(frame.groupby("step")["stage"].first())
    names = sorted(table["subtask"].unique())
    for i, name in enumerate(names):
        part = table[table["subtask"] == name]
        ax.plot(
            part["step"], retention.rolling(part["hard_keep"], 2 * window, part["stage"]), lw=1.5,
            color=LINES[i % len(LINES)], ls=("-", "--", ":")[i // len(LINES) % 3], label=name,
        )  # fmt: skip
    ax.set(ylabel="hard, by subtask", ylim=(0, 1.04))
    ax.legend(
        loc="upper left", bbox_to_anchor=(1.005, 1.0), frameon=False, fontsize=8, borderaxespad=0
    )


def tidy(ax: Axes) -> None:
    """The look that all figures share."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=9, color=GREY)
    ax.yaxis.label.set_size(9.5)
    ax.set_axisbelow(True)


def subtask_figure(metrics: Mapping[str, Any]) -> Figure:
    """Share of tokens kept per subtask as bars; of the asked organ's tokens as marks.

    A mark right of its bar: pruning favours the organ. metrics: metrics.json with token counts.
    """
    table = metrics["retention"]["by_subtask"]
    if not table:
        raise InputError("metrics hold no token counts per subtask. Evaluate a model, not a file.")
    names = sorted(table, key=lambda name: table[name]["keep_ratio"])
    cover = metrics["coverage"].get("by_subtask", {})
    y = np.arange(len(names))
    figure = Figure(figsize=(7.5, 1.5 + 0.42 * len(names)), layout="constrained")
    ax = figure.subplots()
    ratios = [table[name]["keep_ratio"] for name in names]
    ax.barh(y, ratios, color=LILAC, height=0.62, label="all visual tokens")
    marks = [(i, cover[n]["mean"]) for i, n in enumerate(names) if cover.get(n, {}).get("n")]
    if marks:
        where, values = zip(*marks, strict=True)
        ax.scatter(
            values, where, color=PURPLE, s=46, zorder=3, label="tokens of the organ asked about"
        )
    for i, name in enumerate(names):
        ax.annotate(
            f"{table[name]['kept_tokens']:.0f} of {table[name]['visual_tokens']:.0f}", (0, i),
            xytext=(5, 0), textcoords="offset points", va="center", fontsize=8, color=INK,
        )  # fmt: skip
    mean = metrics["retention"]["keep_ratio"]
    ax.axvline(mean, color=INK, lw=1, ls="--", label=f"mean {mean:.2f}")
    ax.set_yticks(y, names)
    ax.set(xlim=(0, 1.02), xlabel="share kept")
    tidy(ax)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle("Tokens kept per subtask", fontweight="bold", color=INK)
    return figure


def accuracy_figure(metrics: Mapping[str, Any], own: str = "photon") -> Figure:
    """Accuracy of the run beside its controls, overall and per subtask, with 95 % intervals.

    Subtasks that are all numbers show their MRA and say so.
    """
    controls = metrics["controls"]
    conditions = [own, *(c for c in TITLES if c in controls)]
    groups = [name for name in ("overall", *metrics["subtasks"]) if _cell(metrics, name, own)[0]]
    figure = Figure(figsize=(max(7.5, 1.25 * len(groups) + 2), 4.4), layout="constrained")
    ax = figure.subplots()
    width = 0.84 / len(conditions)
    for j, condition in enumerate(conditions):
        x = np.arange(len(groups)) + (j - (len(conditions) - 1) / 2) * width
        cells = [_cell(metrics, name, condition if j else own) for name in groups]
        values = [100 * (value or 0.0) for _, value, _ in cells]
        color = CONDITION_COLORS.get(condition, PURPLE)
        ax.bar(x, values, width * 0.92, color=color, label=TITLES.get(condition, condition))
        for xi, value, (_, _, interval) in zip(x, values, cells, strict=True):
            if interval:
                low, high = 100 * interval["low"], 100 * interval["high"]
                error = [[max(value - low, 0)], [max(high - value, 0)]]
                ax.errorbar(xi, value, error, color=RED, lw=1.1, capsize=2, capthick=1.1)
    labels = [f"{n}\n(MRA)" if _cell(metrics, n, own)[0] == "mra" else n for n in groups]
    ax.set_xticks(np.arange(len(groups)), [label.replace(" ", "\n", 1) for label in labels])
    ax.axvline(0.5, color=GREY, lw=0.8, ls=":")
    ax.set(ylabel="accuracy (%)", ylim=(0, 104), xlim=(-0.6, len(groups) - 0.4))
    ax.grid(axis="y", color="#e5e8ee", lw=0.8)
    tidy(ax)
    figure.legend(loc="outside lower center", ncols=len(conditions), frameon=False, fontsize=9)
    figure.suptitle("Accuracy beside the controls", fontweight="bold", color=INK)
    return figure


def curve_figure(metrics: Mapping[str, Any]) -> Figure:
    """Accuracy against the share of tokens kept, a line a pruner, with 95 % intervals.

    metrics: metrics.json with a `curve`. The dashed line is the same model without pruning, the
    star its own learned threshold.
    """
    points = metrics["curve"]
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    ax = figure.subplots()
    for pruner in dict.fromkeys(point["pruner"] for point in points):
        chosen = [p for p in points if p["pruner"] == pruner and p["interval"]]
        chosen.sort(key=lambda p: p["retention"]["keep_ratio"])
        x = [p["retention"]["keep_ratio"] for p in chosen]
        y, low, high = ([100 * p["interval"][k] for p in chosen] for k in ("mean", "low", "high"))
        color = PRUNER_COLORS.get(pruner, GREY)
        ax.plot(x, y, color=color, lw=1.8, marker="o", ms=4, label=TITLES.get(pruner, pruner))
        ax.fill_between(x, low, high, color=color, alpha=0.12, lw=0)
    unpruned = metrics["controls"].get("no_pruning", {}).get("interval")
    if unpruned:
        ax.axhline(100 * unpruned["mean"], color=INK, lw=1, ls="--", label="no pruning")
    own = metrics["overall"].get("interval")
    if own and metrics["retention"]["keep_ratio"]:
        ax.scatter(
            metrics["retention"]["keep_ratio"], 100 * own["mean"], marker="*", s=130, color=PURPLE,
            zorder=4, label="learned threshold",
        )  # fmt: skip
    ax.set(xlabel="share of visual tokens kept", ylabel="accuracy (%)", xlim=(0, None))
    ax.grid(axis="y", color="#e5e8ee", lw=0.8)
    tidy(ax)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle("Accuracy against keep ratio", fontweight="bold", color=INK)
    return figure


def _cell(
    metrics: Mapping[str, Any], group: str, condition: str
) -> tuple[str | None, float | None, Mapping[str, float] | None]:
    """(metric, value, interval) of a bar; metric is None where the run itself has no value."""
    source = metrics["controls"].get(condition)
    if group == "overall":
        entry, own = source or metrics["overall"], metrics["overall"]
    else:
        own = metrics["subtasks"][group]
        entry = source["subtasks"].get(group, {}) if source else own
    metric = next((k for k in ("accuracy", "mra") if own[k] is not None), None)
    return metric, entry.get(metric), entry.get("interval")


def save_figures(run: str | Path, own: str = "photon") -> list[Path]:
    """Write RUN/figures/{retention,subtasks,accuracy,curve}.png where the data is there."""
    run = Path(run)
    drawn: dict[str, Figure] = {}
    if (run / "retention.parquet").is_file():
        log = retention.load_retention(run)
        drawn["retention"] = retention_figure(log, retention.load_band(run))
    if (run / "metrics.json").is_file():
        metrics = load_metrics(run)
        if metrics["retention"]["by_subtask"]:
            drawn["subtasks"] = subtask_figure(metrics)
        drawn["accuracy"] = accuracy_figure(metrics, own)
        if metrics.get("curve"):
            drawn["curve"] = curve_figure(metrics)
    folder = run / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png", dpi=DPI)
    return [folder / f"{name}.png" for name in drawn]


def load_metrics(run: str | Path) -> dict[str, Any]:
    """metrics.json of a run directory."""
    path = Path(run) / "metrics.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}). Evaluate the run first (eval.py)."
        ) from error
