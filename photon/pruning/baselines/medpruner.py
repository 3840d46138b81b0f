"""MedPruner (arXiv 2603.11625): slabs that change, and in each the nucleus of attention.

Two stages before the language model, the same for every question. A slab stays only where it
differs from the last one that stayed (its anchor). Of each slab that stays, the fewest tokens whose
attention sums to a share p of the slab's are kept.

Source: the paper's description; no code is released, and it states neither number here, so that
`threshold` and `nucleus` are ours. Choices of ours: the difference is the mean absolute one of
intensities in [0, 1]; attention is what a token receives in the last encoder block, whose attention
is within slabs. With a budget (not in the paper), p is solved for it in each volume, and slabs that
do not change are used when all others are.

Shape suffixes: B volumes, V packed visual tokens, P input values of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from photon.annotations import Budget, NonNegative, PositiveShare
from photon.batch.layout import Tail
from photon.packing import Segments
from photon.pruning.encoded import Encoded, Reduction, top
from photon.pruning.pre_llm import EncodedPruner
from photon.pruning.saliency import precise


def slabs_of(places: Tensor, volumes: Segments) -> Segments:
    """Segments of the slabs; tokens (V, 4) are in grid order."""
    slab = torch.cat([volumes.ids[:, None], places[:, :2]], 1)
    lengths = torch.unique_consecutive(slab, dim=0, return_counts=True)[1]
    return Segments(lengths, places.device)


def anchor_slabs(
    pixels: Tensor, places: Tensor, volumes: Segments, slabs: Segments, threshold: float
) -> Tensor:
    """Mask (V,) of the tokens in slabs that differ from the last anchor by more than a threshold.

    The first slab of every volume is one. Only places that both slabs have (see air) are compared;
    slabs without a common place differ.
    """
    keep = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
    width = int(places[:, 3].max()) + 1 if len(places) else 1
    cell = places[:, 2] * width + places[:, 3]
    owner = torch.stack([volumes.ids, places[:, 0]], 1)[slabs.starts].tolist()
    anchor, anchored = slice(0, 0), None
    for rows, volume in zip(slabs, owner, strict=True):
        if volume == anchored:
            mine, its = (cell[rows][:, None] == cell[anchor]).nonzero().unbind(1)
            change = (pixels[rows][mine] - pixels[anchor][its]).abs().mean()
            if bool(change <= threshold):  # false for NaN, where no place is common
                continue
        keep[rows] = True
        anchor, anchored = rows, volume
    return keep


def nucleus_level(attention: Tensor, slabs: Segments) -> Tensor:
    """Share of its slab's attention that lies with better tokens, (V,): kept where p exceeds it."""
    ordered, order = slabs.pad(precise(attention)).sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(1) - ordered
    total = ordered.sum(1, keepdim=True).clamp_min(1e-12)
    return slabs.unpad(torch.zeros_like(ordered).scatter(1, order, before / total))


def medpruner(
    attention: Tensor,
    pixels: Tensor,
    places: Tensor,
    volumes: Segments,
    counts: Tensor | None,
    threshold: float,
    nucleus: float,
) -> Tensor:
    """Mask (V,): the nucleus of every slab that changes, or the `counts` (B,) tokens next to it."""
    slabs = slabs_of(places, volumes)
    changed = anchor_slabs(pixels, places, volumes, slabs, threshold)
    level = nucleus_level(attention, slabs)
    if counts is None:
        return changed & (level < nucleus)
    return top(-(level + (~changed).to(level.dtype)), counts, volumes)


class MedPruner(EncodedPruner):
    """Keeps the nucleus of each slab that changes (`medpruner`).

    Args:
        keep: see `EncodedPruner`; None keeps the nucleus.
        tail: see `EncodedPruner`.
        threshold: mean absolute difference of intensities in [0, 1] between anchors.
        nucleus: share p of a slab's attention.
    """

    blocks = (1.0,)

    def __init__(
        self,
        keep: Budget | None = 0.3,
        tail: Tail = "union",
        threshold: NonNegative = 0.05,
        nucleus: PositiveShare = 0.9,
    ):
        super().__init__(keep, tail, threshold=threshold, nucleus=nucleus)

    def reduce(self, encoded: Encoded, counts: Tensor | None) -> Reduction:
        return Reduction(
            medpruner(
                encoded.received[1.0],
                encoded.pixels,
                encoded.places,
                encoded.volumes,
                counts,
                self.threshold,
                self.nucleus,
            )
        )
