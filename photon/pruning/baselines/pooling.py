"""Average pooling: the control that any merging must beat at the same count.

The grid is cut into exactly as many boxes as tokens are asked for: recursively, across the longest
axis, in proportion to the tokens on either side. Each box becomes the mean of its tokens, at the
position of the one nearest to its centre. Not from a paper; with a count that divides the grid it
is ordinary average pooling. Before the language model, the same for every question.

Shape suffixes: B volumes, V packed visual tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from photon.annotations import Budget
from photon.batch.layout import Tail
from photon.packing import Segments
from photon.pruning.encoded import Encoded, Merge, Reduction
from photon.pruning.pre_llm import EncodedPruner


def boxes(places: Tensor, count: int) -> list[Tensor]:
    """Rows of `places` (N, 4) in each of `count` boxes, none of them empty."""
    waiting, done = [(torch.arange(len(places)), count)], []
    while waiting:
        rows, n = waiting.pop()
        if n == 1:
            done.append(rows)
            continue
        where = places[rows]
        extent = where.amax(0) - where.amin(0)
        # Volumes part first, then the longest side; the later axis where sides are equal.
        axis = 0 if extent[0] else len(extent) - 1 - int(extent.flip(0).argmax())
        order = where[:, axis].argsort(stable=True)
        left = n // 2
        cut = round(len(rows) * left / n)
        cut = min(max(cut, left), len(rows) - (n - left))
        waiting += [(rows[order[:cut]], left), (rows[order[cut:]], n - left)]
    return done


def pool(places: Tensor, counts: list[int], volumes: Segments) -> Reduction:
    """`counts` (B) boxes of each volume; places (V, 4): see `Encoded`."""
    keep = torch.zeros(len(places), dtype=torch.bool)
    source, target, weight = [], [], []
    where = places.cpu()
    for part, count in zip(volumes, counts, strict=True):
        for rows in boxes(where[part], count) if count else ():
            inside = where[part][rows].double()
            centre = int(rows[(inside - inside.mean(0)).square().sum(1).argmin()]) + part.start
            keep[centre] = True
            source.append(rows + part.start)
            target.append(torch.full_like(rows, centre))
            weight.append(torch.full(rows.shape, 1 / len(rows), dtype=torch.float64))
    merge = Merge(*(torch.cat(x).to(places.device) for x in (source, target, weight)))
    return Reduction(keep.to(places.device), merge)


class PoolingPruner(EncodedPruner):
    """Averages the tokens of equal boxes (`pool`); arguments: `EncodedPruner`."""

    def __init__(self, keep: Budget = 0.3, tail: Tail = "union"):
        super().__init__(keep, tail)

    def reduce(self, encoded: Encoded, counts: Tensor | None) -> Reduction:
        return pool(encoded.places, counts.tolist(), encoded.volumes)
