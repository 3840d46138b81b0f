"""HiPrune (arXiv 2508.00553): anchors, their neighbours, and what the last block attends to.

Anchors are the few tokens that receive most attention in an object-centred middle block, buffers
their neighbours in the grid; the rest of the budget goes to registers, the tokens that receive most
attention in the last block. Before the language model, the same for every question.

Source: Danielement321/HiPrune, `qwen2_5_vl_HiPrune.py`: share alpha = 0.1 of the budget for anchors
with buffers, block index 15 of 32. Differences, each of which `official=True` takes back:
- neighbours are those in the grid. The release takes index -1, +1, -width and +width, clamped, so
  that a row's last token has the next row's first as its neighbour, a slab's last row the next
  slab's first, and the first row gains token 0;
- anchors and buffers are no registers too, so that the count is exact. The release subtracts 1
  from their score, which leaves some to be chosen twice and fewer tokens to be kept.
`depth` (not in the source) adds the neighbours in the slabs above and below. The attention is
computed within slabs and in the two blocks that are needed; the release's is H x N^2 in every block
and over all frames.

Shape suffixes: B volumes, V packed visual tokens, M neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from photon.annotations import Budget, Share
from photon.batch.layout import Tail
from photon.packing import Segments
from photon.pruning.encoded import Encoded, Reduction, top
from photon.pruning.pre_llm import EncodedPruner

IN_PLANE = ((0, 0, -1), (0, 0, 1), (0, -1, 0), (0, 1, 0))  # slab, row, column
IN_DEPTH = ((-1, 0, 0), (1, 0, 0))


def grid_neighbours(places: Tensor, volumes: Segments, depth: bool = False) -> Tensor:
    """Packed rows of the neighbours of each token, (V, M); its own row where there is none.

    places (V, 4): see `Encoded`.
    """
    own = torch.arange(len(places), device=places.device)
    where = torch.cat([volumes.ids[:, None], places], 1) + 1
    size = (where.amax(0) + 2).tolist()
    table = torch.full(size, -1, dtype=torch.long, device=places.device)
    table[where.unbind(1)] = own
    found = []
    for step in IN_PLANE + (IN_DEPTH if depth else ()):
        shift = torch.tensor((0, 0, *step), device=places.device)
        found.append(table[(where + shift).unbind(1)])
    neighbours = torch.stack(found, 1)
    return torch.where(neighbours < 0, own[:, None], neighbours)


def index_neighbours(places: Tensor, volumes: Segments) -> Tensor:
    """As released: index -1, +1, -width, +width within the volume, clamped, (V, 4)."""
    width = (places[:, 3] + 1).amax()
    steps = torch.stack([-torch.ones_like(width), torch.ones_like(width), -width, width])
    own = torch.arange(len(places), device=places.device)
    first = volumes.expand(volumes.starts)
    last = first + volumes.expand(volumes.counts) - 1
    return torch.clamp(own[:, None] + steps, first[:, None], last[:, None])


def hiprune(
    middle: Tensor,
    last: Tensor,
    places: Tensor,
    counts: Tensor,
    volumes: Segments,
    alpha: float = 0.1,
    depth: bool = False,
    official: bool = False,
) -> Reduction:
    """The `counts` (B,) tokens of each volume that HiPrune keeps.

    middle, last (V,): attention that each token receives in the two blocks, column sums whose mean
    is 1. Where anchors with their buffers are more than the budget (a large alpha), the buffers
    that receive least attention in the last block go.
    """
    group = 7 if depth else 5
    anchors = top(middle, (counts * alpha / group).round().long(), volumes)
    if official:
        neighbours = index_neighbours(places, volumes)
    else:
        neighbours = grid_neighbours(places, volumes, depth)
    near = anchors.clone()
    near[neighbours[anchors]] = True
    if official:
        registers = top(last - near.to(last.dtype), counts - volumes.sum(near.long()), volumes)
        return Reduction(near | registers)
    # Three tiers with one ranking: anchors first, then buffers, then everything by the last block.
    tier = anchors.to(last.dtype) + near.to(last.dtype)
    spread = last.amax() - last.amin() + 1
    return Reduction(top(last + tier * spread, counts, volumes))


class HiPrunePruner(EncodedPruner):
    """Keeps anchors, buffers and registers (`hiprune`).

    Args:
        keep, tail: see `EncodedPruner`.
        alpha: share of the budget for anchors with their buffers.
        depth: count the neighbours in the slabs above and below as buffers too.
        official: with the release's neighbours and counts.
    """

    blocks = (0.5, 1.0)

    def __init__(
        self,
        keep: Budget = 0.3,
        tail: Tail = "union",
        alpha: Share = 0.1,
        depth: bool = False,
        official: bool = False,
    ):
        super().__init__(keep, tail, alpha=alpha, depth=depth, official=official)

    def reduce(self, encoded: Encoded, counts: Tensor | None) -> Reduction:
        return hiprune(
            *(encoded.received[block] for block in self.blocks),
            encoded.places,
            counts,
            encoded.volumes,
            self.alpha,
            self.depth,
            self.official,
        )
