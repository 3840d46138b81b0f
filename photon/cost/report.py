"""Plans and measurements as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from photon.cost.flops import PASSES, TERA
from photon.cost.plan import GIB, Plan

STAGES = {"off": "unpruned", "soft": "soft stage", "hard": "pruned"}


def plan_text(plan: Plan, name: str) -> str:
    """What a plan says of a phase, as tables in Markdown."""
    run, shape, counts = plan.run, plan.shape, plan.parameters
    some = run.assumed
    kept = f"{shape.kept:,} kept after l = {shape.cut}" if "hard" in plan.flops else "no pruning"
    what = f"{run.train} weights" + (", recomputing" if run.checkpointing else "")
    lines = [
        f"# {name}: {run.gpus} x {run.device.memory:g} GiB, {run.strategy}, {what}",
        "",
        f"{counts['total'] / 1e9:.3f} B parameters: vision {counts['vision'] / 1e9:.3f} B, "
        f"language {counts['language'] / 1e9:.3f} B; {2 * counts['total'] / GIB:.2f} GiB in bf16.",
        f"{shape.visual:,} visual tokens a volume ({kept}), {shape.questions} question(s) of "
        f"{shape.prefix} + {shape.question} + {shape.answer} text rows each.",
        "",
        *_flops(plan),
        "",
        *_memory(plan),
        "",
        summary(plan),
        "",
        f"Assumed: {run.device.peak:g} TFLOP/s at {some.utilisation:.0%}, {some.link:g} GB/s "
        "between GPUs, nothing overlapped; a tenth of the memory stays free. Set plan.device, "
        "plan.utilisation, plan.link to what you measure (`bench step`).",
    ]
    return "\n".join(lines)


def summary(plan: Plan) -> str:
    """Peak by stage, time and disk in one line."""
    run = plan.run
    peaks = ", ".join(f"{STAGES[s]} {value / GIB:.1f}" for s, value in plan.peak.items())
    speed = f"{run.questions_an_update} questions an update, {plan.seconds:.2f} s"
    if run.updates is not None:
        hours = run.updates * plan.seconds / 3600
        speed = f"{run.updates:,} updates of {speed}: {hours:.1f} h"
    fits = "fits" if plan.fits else "does not fit"
    return (
        f"peak GiB: {peaks}; {fits} {run.device.memory:g}. {speed}. "
        f"{plan.disk / GIB:.0f} GiB of disk for two checkpoints and the export."
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, its columns aligned."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(head), line(rule), *(line(row) for row in rows)]


def _flops(plan: Plan) -> list[str]:
    stages, passes = list(plan.flops), PASSES[plan.run.train]
    each = TERA * plan.shape.questions
    rows = [
        [part, *(f"{plan.flops[stage][part] / each:.3g}" for stage in stages)]
        for part in plan.flops[stages[0]]
    ]
    forward = [sum(plan.flops[stage].values()) / each for stage in stages]
    rows.append(["forward", *(f"{value:.3g}" for value in forward)])
    rows.append([f"training ({passes} x)", *(f"{passes * value:.3g}" for value in forward)])
    prefill = {stage: sum(parts.values()) / each for stage, parts in plan.prefill.items()}
    rows.append(["prefill", *(f"{prefill[s]:.3g}" if s in prefill else "-" for s in stages)])
    return table(["TFLOP a question", *(STAGES[stage] for stage in stages)], rows)


def _memory(plan: Plan) -> list[str]:
    keys = ("weights", "gradients", "optimizer", "buffers", "update")
    state = [f"{getattr(plan.state, key) / GIB:.1f}" for key in keys]
    rows = [
        [STAGES[stage], *state, f"{plan.activations[stage] / GIB:.1f}", f"{peak / GIB:.1f}"]
        for stage, peak in plan.peak.items()
    ]
    return table(["GiB a GPU", *keys, "activations", "peak"], rows)


def step_text(report: Mapping[str, Any]) -> str:
    """Measured cases beside each other, then where their forward passes spend the time."""
    cases = report["cases"]
    first = cases[0]
    head = ["case", "questions", "visual tokens", "kept", "seconds", "faster", "processor"]
    head += ["TFLOP", "TFLOP/s", "peak GiB"]
    rows = [
        [
            f"{case['name']}, {case['mode']}",
            str(case["questions"]),
            f"{case['visual_tokens']:,}",
            f"{case['kept_tokens']:,}",
            f"{case['seconds']:.4f}",
            f"{first['seconds'] / case['seconds']:.2f} x",
            f"{case['processor_seconds']:.4f}",
            f"{case['tflop']:.3g}",
            f"{case['tflop'] / case['seconds']:.3g}",
            "-" if case["peak_gib"] is None else f"{case['peak_gib']:.3g}",
        ]
        for case in cases
    ]
    lines = [f"# {report['device']}, {report['precision']}", "", *table(head, rows)]
    parts = list(dict.fromkeys(part for c in cases for part in c.get("seconds_forward", ())))
    if parts:
        shares = [
            [c["name"], *(_seconds(c["seconds_forward"].get(p)) for p in parts)] for c in cases
        ]
        lines += ["", *table(["seconds of the forward pass", *parts], shares)]
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
