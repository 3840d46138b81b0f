"""A batch without the visual tokens that a selection dropped, for the layers up to the next one.

Shape suffixes: R prefix rows and S suffix rows of a batch, V visual tokens, Q questions, J
(question, visual token) pairs, P prefix rows that stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from photon.batch.batch import VolumeBatch
from photon.packing import Segments


def narrow(batch: VolumeBatch, keep: Tensor) -> tuple[VolumeBatch, Tensor, Tensor]:
    """The batch of what `keep` (J,), on the CPU, keeps; its rows, (P + S), and visual tokens.

    Where all questions of every item keep the same, items stay as they are. Otherwise every
    question gets an item of its own, so that none reads what only another one kept. Positions are
    those from before. Patches are left out: no stage above the first one reads them.
    """
    parts = keep.split(batch.pairs.lengths)
    pairs = list(zip(parts, parts[1:], batch.volume_of, batch.volume_of[1:], strict=False))
    together = all(v != w or torch.equal(a, b) for a, b, v, w in pairs)
    layout = batch.lay_out(keep, "union" if together else "question")
    device, n = batch.suffix_ids.device, layout.total
    rows, tokens = layout.rows.to(device), layout.tokens.to(device)
    visual = batch.on_host[layout.rows[:n]]
    segments = Segments(layout.prefixes)
    owners = range(len(batch.grids)) if together else batch.volume_of
    asked = dict(zip(batch.volume_of, parts, strict=True)) if together else dict(enumerate(parts))
    smaller = replace(
        batch,
        patches=batch.patches[:0],
        grids=[batch.grids[v] for v in owners],
        prefix_ids=batch.prefix_ids[rows[:n]],
        prefix_positions=batch.prefix_positions[:, rows[:n]],
        visual=visual.to(device),
        visual_lengths=segments.sum(visual.long()).tolist(),
        present=_present(batch, owners, asked),
        prefixes=Segments(layout.prefixes, device),
        volume_of=batch.volume_of if together else list(range(len(parts))),
        labels=[batch.labels[v] for v in owners] if batch.labels else [],
    )
    smaller.__dict__["on_host"] = visual
    return smaller, rows, tokens


def _present(batch: VolumeBatch, owners: Sequence[int], asked: dict[int, Tensor]) -> list[Tensor]:
    """Which tokens of their grids the items still have; an item without questions has none."""
    out = []
    for i, v in enumerate(owners):
        before = batch.present[v].cpu()
        kept = asked.get(i, torch.zeros(int(before.sum()), dtype=torch.bool))
        out.append(torch.zeros_like(before).masked_scatter(before, kept))
    return out
