"""`bench growth`: what a question costs against the number of questions that share its volume.

The same weights and the same volume for every case: unpruned, the three tails, and the stock class
on the same rows, which knows no sharing: one question at a time, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from photon.cost.report import table
from photon.cost.shape import Shape
from photon.cost.step import Case, Mode, environment, measure, passes, random_batch
from photon.files import write_json
from photon.model.photon import PhotonModel

STOCK = "stock class"
CLOCKS = ("seconds", "processor_seconds")


def measure_growth(
    models: Mapping[str, tuple[PhotonModel, Shape]],
    counts: Sequence[int],
    modes: Sequence[Mode],
    precision: str,
    seed: int = 0,
    rounds: int = 5,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """The report: every model with every number of questions, and the stock class with one."""
    measured = []
    for mode in modes:
        cases = growth_cases(models, counts, mode, precision, seed)
        one = replace(cases[0], name=STOCK, shape=replace(cases[0].shape, questions=1))
        stock = passes(one.model.backbone, stock_loss(one), mode, precision)
        steps = [*(case.step() for case in cases), stock]
        say(f"{mode}: {len(steps)} cases")
        found = measure(steps, one.device, rounds, say=say)
        facts = [case.facts() for case in [*cases, one]]
        measured += [fact | numbers for fact, numbers in zip(facts, found, strict=True)]
    return environment(one) | {"cases": measured}


def save_growth(report: Mapping[str, Any], folder: Path) -> None:
    """growth.json and growth.png in `folder`."""
    write_json(folder / "growth.json", report)
    growth_figure(report).savefig(folder / "growth.png", dpi=150)


def growth_cases(
    models: Mapping[str, tuple[PhotonModel, Shape]], counts: Sequence[int], *how: Any
) -> list[Case]:
    """A case for every model and number of questions; `how`: mode, precision and seed of `Case`."""
    return [
        Case(
            name, model, replace(shape, questions=k), "off" if name == "unpruned" else "hard", *how
        )
        for k in counts
        for name, (model, shape) in models.items()
    ]


def stock_loss(case: Case) -> Callable[[], torch.Tensor]:
    """The loss of the stock class on the rows of a case with one question."""
    batch = random_batch(case.model, case.shape, case.mode, case.seed).to(case.device)
    stock, answer = case.model.backbone, case.shape.answer if case.mode == "train" else 1
    ids = torch.cat([batch.prefix_ids, batch.suffix_ids])[None]
    where = torch.cat([batch.prefix_positions, batch.suffix_positions], 1)[:, None]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.cat([torch.arange(ids.shape[1]).to(where).expand(1, 1, -1), where]),
        "pixel_values_videos": case.model.normalize(batch.patches).to(stock.dtype),
        "video_grid_thw": torch.tensor([batch.grids[0][0]], device=case.device),
        "use_cache": False,
        "logits_to_keep": answer + 1,
    }

    def loss() -> torch.Tensor:
        return F.cross_entropy(stock(**inputs).logits[0, :-1].float(), ids[0, -answer:])

    return loss


def growth_facts(report: Mapping[str, Any], mode: Mode) -> dict[str, dict[int, dict[str, Any]]]:
    """Cases of a mode by curve and number of questions."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for case in report["cases"]:
        if case["mode"] == mode:
            found.setdefault(case["name"], {})[case["questions"]] = case
    return found


def growth_fit(cases: Mapping[int, Mapping[str, Any]], clock: str) -> tuple[float, float, float]:
    """Seconds of what runs once, of each question, and the largest share by which a count differs.

    Least squares of relative errors, so that few questions count as much as many.
    """
    counts, found = list(cases), np.array([case[clock] for case in cases.values()])
    each, once = np.polyfit(counts, found, 1, w=1 / found)
    off = np.abs(np.polyval((each, once), counts) / found - 1).max()
    return float(once), float(each), float(off)


def growth_text(report: Mapping[str, Any]) -> str:
    """Seconds a question of every curve, with what unpruned takes over them, and peak memory.

    On a CPU by two clocks: what other programs do shows in elapsed seconds, not in those of the
    processor.
    """
    lines = [f"# {report['device']}, {report['precision']}, {report['threads']} thread(s)"]
    clocks = CLOCKS if report["device"] == "cpu" else CLOCKS[:1]
    for mode in dict.fromkeys(case["mode"] for case in report["cases"]):
        found = growth_facts(report, mode)
        names = [name for name in found if name != STOCK]
        stock = next(iter(found[STOCK].values()))
        head = ["questions", STOCK, *names]
        for clock in clocks:
            rows = []
            for k, base in found["unpruned"].items():
                times = [found[name][k][clock] for name in names]
                told = [f"{t / k:.4f} ({base[clock] / t:.2f} x)" for t in times]
                rows.append([str(k), f"{stock[clock]:.4f}", *told])
            title = f"{mode}: {clock.replace('_', ' ')} a question (times faster than unpruned)"
            lines += ["", title, "", *table(head, rows)]
            if len(found["unpruned"]) > 2:
                fits = {name: growth_fit(found[name], clock) for name in names}
                said = [f"{n} {a:.3f} + {b:.4f} k ({off:.0%})" for n, (a, b, off) in fits.items()]
                lines += ["", "of k questions (largest difference): " + "; ".join(said)]
        memory = [
            [str(k), *(_gib(c["peak_gib"]) for c in [stock, *(found[name][k] for name in names)])]
            for k in found["unpruned"]
        ]
        lines += ["", f"{mode}: peak GiB", "", *table(head, memory)]
    return "\n".join(lines)


def growth_figure(report: Mapping[str, Any]) -> Figure:
    """Seconds a question and peak memory against the questions of a volume, a row a mode."""
    modes = list(dict.fromkeys(case["mode"] for case in report["cases"]))
    figure = Figure(figsize=(9, 3.4 * len(modes)), layout="constrained")
    axes = figure.subplots(len(modes), 2, squeeze=False)
    for mode, (left, right) in zip(modes, axes, strict=True):
        for name, cases in growth_facts(report, mode).items():
            counts = list(cases)
            if name == STOCK:
                stock = next(iter(cases.values()))
                left.axhline(stock["seconds"], color="grey", linestyle=":", label=STOCK)
                continue
            left.plot(counts, [c["seconds"] / k for k, c in cases.items()], "o-", label=name)
            if None not in (peaks := [c["peak_gib"] for c in cases.values()]):
                right.plot(counts, peaks, "o-", label=name)
        left.set(title=f"{mode}: seconds a question", yscale="log", xlabel="questions a volume")
        right.set(title=f"{mode}: peak GiB above the weights", xlabel="questions a volume")
        for ax in (left, right):
            ax.set_xscale("log", base=2)
        left.legend()
    return figure


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
