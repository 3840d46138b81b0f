"""`bench selection`: what choosing the tokens costs, method by method, at the shapes of a model.

Random weights and one random volume with its questions. The encoder and the decoder may have fewer
layers than the model, since a choice depends on widths and lengths; the prefill beside it is that
of the whole unpruned model, by its operations at the speed that the smaller one reached here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from photon.batch.batch import VolumeBatch
from photon.cost.flops import prefill_flops
from photon.cost.report import table
from photon.cost.shape import Shape
from photon.cost.step import random_batch
from photon.model.photon import PhotonModel
from photon.pruning.base import blocks_of, selection_layer
from photon.pruning.named import find_pruner, new_pruner, pruners

LAYER = 0.25


def measure_selection(
    model: PhotonModel,
    whole: nn.Module,
    shape: Shape,
    keeps: Sequence[float],
    names: Sequence[str] = (),
    rounds: int = 3,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Median milliseconds of every method's choice at every share of `keeps`, and of the prefill.

    model: of few layers, without a pruner; whole: the stock model on meta, for its operations.
    names: of pruners, none for all. A method of stages pays for each. What an encoder block takes
    to note its attention is a number of its own. Raises InputError for a name that is no pruner.
    """
    for name in names:
        find_pruner(name)
    batch = random_batch(model, shape, "prefill")
    with torch.no_grad():
        run = _median(lambda: model(batch, "off"), rounds)
        noted = _median(lambda: model.encode(batch, (1.0,)), rounds)
        noting = noted - _median(lambda: model.encode(batch), rounds)
        rows = []
        for name in names or pruners():
            say(name)
            rows.append({"method": name, **_choices(model, batch, name, keeps, rounds)})
    whole_flops, own = (
        sum(prefill_flops(m, shape, "off").values()) for m in (whole, model.backbone)
    )
    return {
        "prefill_ms": run * whole_flops / own,
        "noting_ms": noting,
        "threads": torch.get_num_threads(),
        "visual_tokens": shape.visual,
        "questions": shape.questions,
        "rows": rows,
    }


def _choices(
    model: PhotonModel, batch: VolumeBatch, name: str, keeps: Sequence[float], rounds: int
) -> dict[str, Any]:
    """Milliseconds of `select` at each share, in all stages; the blocks that must note."""
    pruner = new_pruner(name, LAYER).eval()
    cut = selection_layer(model.n_layers, pruner.layer)
    trunk = model.trunk(batch, model.encode(batch, blocks_of(pruner)), cut)
    found: dict[str, Any] = {"blocks": len(blocks_of(pruner))}
    for keep in keeps:
        times = []
        for _ in range(rounds):
            clock = _SelectionClock()
            model.arrive(trunk, keep, pruner, torch.Generator().manual_seed(0), mark=clock.mark)
            times.append(clock.selecting)
        found[str(keep)] = statistics.median(times)
    return found


class _SelectionClock:
    """Milliseconds up to each mark, those of "selection" summed."""

    def __init__(self) -> None:
        self.selecting, self.last = 0.0, time.perf_counter()

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.selecting += 1000 * (now - self.last) * (stage == "selection")
        self.last = now


def _median(work: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times[1:])


def selection_text(report: Mapping[str, Any]) -> str:
    """The table: milliseconds and percent of the prefill, noting included in the percent."""
    keeps = [key for key in report["rows"][0] if key not in ("method", "blocks")]
    body = []
    for row in report["rows"]:
        shares = [
            100 * (row[k] + row["blocks"] * report["noting_ms"]) / report["prefill_ms"]
            for k in keeps
        ]
        cells = [f"{row[k]:.0f} ({share:.1f} %)" for k, share in zip(keeps, shares, strict=True)]
        body.append([row["method"], *cells, str(row["blocks"])])
    head = ["method", *(f"{100 * float(k):g} %" for k in keeps), "blocks that note"]
    return "\n".join(
        [
            f"# {report['visual_tokens']} visual tokens, {report['questions']} question(s), "
            f"{report['threads']} thread(s)",
            "",
            f"ms of choosing (in percent of {report['prefill_ms']:.0f} ms of unpruned prefill, "
            f"with {report['noting_ms']:.0f} ms for each block that notes its attention)",
            "",
            *table(head, body),
        ]
    )
