"""Inter-slice L1 (OmniV-Med, arXiv 2504.14692; Hulu-Med): what does not change through the depth.

A token is dropped when its input differs little, mean absolute difference, from that of the token
at the same place in the slab before. Before the language model, the same for every question.

Source: ZJUI-AI4H/Hulu-Med, `_get_compression_mask` (OmniV-Med has no code; VideoLLaMA3 has the same
rule). Differences:
- the first slab stays, as the release's comments and VideoLLaMA3 say. The release divides that
  slab's sentinel by 255 before comparing it and so keeps its token 0 only; `official=True` does;
- a budget: the tokens that differ most, those of a first slab before all others;
- the difference is taken on intensities in [0, 1], where the release's are normalised by a mean and
  a standard deviation: thresholds compare by that factor.
As released, a slab that would lose all keeps its first token.

Shape suffixes: B volumes, V packed visual tokens, P input values of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from photon.annotations import Budget, Share
from photon.batch.layout import Tail
from photon.packing import Segments
from photon.pruning.encoded import Encoded, Reduction, top
from photon.pruning.pre_llm import EncodedPruner

THRESHOLD = 0.1


def slab_differences(pixels: Tensor, places: Tensor, volumes: Segments) -> Tensor:
    """Mean absolute difference to the token at the same place one slab before, (V,).

    Infinite where there is none: in a first slab, or where the token before is air that was left
    out. pixels (V, P); places (V, 4): see `Encoded`.
    """
    where = torch.cat([volumes.ids[:, None], places], 1)
    size = (where.amax(0) + 1).tolist()
    table = torch.full(size, -1, dtype=torch.long, device=pixels.device)
    table[where.unbind(1)] = torch.arange(len(pixels), device=pixels.device)
    before = where.clone()
    before[:, 2] -= 1
    row = table[before.clamp_min(0).unbind(1)].masked_fill(places[:, 1] == 0, -1)
    found = (pixels - pixels[row.clamp_min(0)]).abs().mean(1)
    return found.masked_fill(row < 0, float("inf"))


def changing_tokens(
    differences: Tensor,
    places: Tensor,
    volumes: Segments,
    counts: Tensor | None = None,
    threshold: Share = THRESHOLD,
    official: bool = False,
) -> Tensor:
    """Mask (V,) of tokens that differ more than the threshold, or of the `counts` (B,) largest."""
    if counts is not None:
        return top(differences, counts, volumes)
    keep = differences > threshold
    if official:
        keep &= differences.isfinite()
    slab = torch.stack([volumes.ids, places[:, 0], places[:, 1]], 1)
    fresh = torch.ones_like(keep)
    fresh[1:] = (slab[1:] != slab[:-1]).any(1)
    owner = fresh.long().cumsum(0) - 1
    alive = torch.zeros(len(keep), dtype=torch.long, device=keep.device)
    alive = alive.index_add(0, owner, keep.long())
    return keep | (fresh & (alive[owner] == 0))


class InterSlicePruner(EncodedPruner):
    """Keeps tokens whose input changes from slab to slab (`changing_tokens`).

    Args:
        keep: see `EncodedPruner`; None keeps what differs by more than the threshold.
        tail: see `EncodedPruner`.
        threshold: mean absolute difference of intensities in [0, 1].
    """

    def __init__(
        self,
        keep: Budget | None = 0.3,
        tail: Tail = "union",
        threshold: Share = THRESHOLD,
    ):
        super().__init__(keep, tail, threshold=threshold)

    def reduce(self, encoded: Encoded, counts: Tensor | None) -> Reduction:
        differences = slab_differences(encoded.pixels, encoded.places, encoded.volumes)
        return Reduction(
            changing_tokens(differences, encoded.places, encoded.volumes, counts, self.threshold)
        )
