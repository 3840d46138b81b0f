"""Plans and measurements as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from photon.cost.flops import PASSES, TERA
from photon.cost.plan import GIB, Plan
from photon.cost.settings import DEVICES

STAGES = {"off": "unpruned", "soft": "soft stage", "hard": "pruned"}


def plan_text(plan: Plan) -> str:
    """Parameters, operations, memory and time of a plan, as four tables in Markdown."""
    settings, shape, counts = plan.settings, plan.shape, plan.parameters
    device = DEVICES[settings.device]
    kept = "no pruning" if settings.keep is None else f"{shape.kept:,} kept after l = {shape.cut}"
    lines = [
        f"# {settings.model} on {settings.gpus} x {settings.device}",
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
        *_time(plan),
        "",
        f"Assumed: {device.peak:g} TFLOP/s at {settings.utilisation:.0%}, {device.memory:g} GiB of "
        f"which a tenth stays free, {settings.link:g} GB/s between GPUs, nothing overlapped. Set "
        "device=, utilisation=, link= to what you measure (`bench step`).",
    ]
    return "\n".join(lines)


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
    stages = list(plan.flops)
    questions = plan.settings.questions
    rows = [
        [part, *(f"{plan.flops[stage][part] / TERA / questions:.2f}" for stage in stages)]
        for part in plan.flops["off"]
    ]
    forward = [sum(plan.flops[stage].values()) / TERA / questions for stage in stages]
    rows.append(["forward", *(f"{value:.2f}" for value in forward)])
    passes = PASSES[plan.settings.train]
    rows.append([f"training ({passes} x)", *(f"{passes * value:.1f}" for value in forward)])
    recomputed = [f"{(passes + 1) * value:.1f}" for value in forward]
    rows.append([f"recomputing ({passes + 1} x)", *recomputed])
    prefill = {s: sum(parts.values()) / TERA / questions for s, parts in plan.prefill.items()}
    rows.append(["prefill", *(f"{prefill[s]:.2f}" if s in prefill else "-" for s in stages)])
    return table(["TFLOP a question", *(STAGES[stage] for stage in stages)], rows)


def _memory(plan: Plan) -> list[str]:
    keys = ("weights", "gradients", "optimizer", "buffers", "activations", "total")
    keys += ("activations_recomputed", "total_recomputed")
    head = ["GiB a GPU", *keys[:6], "recomputed", "total then", "fits"]
    rows = [
        [name, *(f"{parts[key] / GIB:.1f}" for key in keys), parts["fits"]]
        for name, parts in plan.memory.items()
    ]
    return table(head, rows)


def _time(plan: Plan) -> list[str]:
    head = ["seconds a step", "compute", "recomputing", "traffic", "questions/s", "h per 100k"]
    rows = []
    for name, parts in plan.step.items():
        speed = parts["questions_per_second"]
        cells = [parts["compute"], parts["compute_recomputed"], parts["traffic"]]
        rows.append(
            [name, *(f"{c:.3f}" for c in cells), f"{speed:.1f}", f"{1e5 / speed / 3600:.1f}"]
        )
    return table(head, rows)


def step_text(report: Mapping[str, Any]) -> str:
    """Measured cases beside each other, then where their forward passes spend the time."""
    cases = report["cases"]
    head = [
        report["settings"]["mode"],
        "visual tokens",
        "kept",
        "seconds",
        "faster",
        "TFLOP",
        "fewer",
        "TFLOP/s",
        "peak GiB",
        "less",
        "logits gap",
    ]
    rows = [
        [
            case["name"],
            f"{case['visual_tokens']:,}",
            f"{case['kept_tokens']:,}",
            f"{case['seconds']:.4f}",
            _times(case["ratios"]["seconds"]),
            f"{case['tflop']:.3g}",
            _times(case["ratios"]["tflop"]),
            f"{case['tflop_per_second']:.3g}",
            "-" if case["peak_gpu_gib"] is None else f"{case['peak_gpu_gib']:.2f}",
            _times(case["ratios"]["peak_gpu_gib"]),
            f"{case['logits_gap']:.1e}",
        ]
        for case in cases
    ]
    parts = list(dict.fromkeys(part for case in cases for part in case["seconds_forward"]))
    shares = [
        [case["name"], *(_seconds(case["seconds_forward"].get(part)) for part in parts)]
        for case in cases
    ]
    return "\n".join(
        [
            f"# {report['device']}, {report['precision']}, {report['settings']['questions']} "
            "question(s) of one volume",
            "",
            *table(head, rows),
            "",
            *table(["seconds of the forward pass", *parts], shares),
        ]
    )


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f} x"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
