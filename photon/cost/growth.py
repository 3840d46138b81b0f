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


def growth_fit(cases: Mapping[int, Mapping[str, Any]]) -> tuple[float, float]:
    """Seconds of what runs once, and of each question, by least squares over the counts."""
    each, once = np.polyfit(list(cases), [case["seconds"] for case in cases.values()], 1)
    return float(once), float(each)


def growth_text(report: Mapping[str, Any]) -> str:
    """Seconds a question of every curve, with what unpruned takes over them, and peak memory."""
    lines = [f"# {report['device']}, {report['precision']}, {report['threads']} thread(s)"]
    for mode in dict.fromkeys(case["mode"] for case in report["cases"]):
        found = growth_facts(report, mode)
        names = [name for name in found if name != STOCK]
        stock = next(iter(found[STOCK].values()))
        rows, memory = [], []
        for k, base in found["unpruned"].items():
            row = [found[name][k] for name in names]
            times = [
                f"{c['seconds'] / k:.4f} ({base['seconds'] / c['seconds']:.2f} x)" for c in row
            ]
            rows.append([str(k), f"{stock['seconds']:.4f}", *times])
            memory.append([str(k), *(_gib(c["peak_gib"]) for c in [stock, *row])])
        head = ["questions", STOCK, *names]
        lines += ["", f"{mode}: seconds a question (times faster than unpruned)", ""]
        lines += [*table(head, rows), "", "peak GiB", "", *table(head, memory)]
        if len(found["unpruned"]) > 1:
            fits = {name: growth_fit(found[name]) for name in names}
            said = [f"{name} {once:.3f} + {each:.4f} k" for name, (once, each) in fits.items()]
            lines += ["", "seconds of k questions: " + "; ".join(said)]
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
