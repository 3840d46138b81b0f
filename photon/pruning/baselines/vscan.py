"""VScan (arXiv 2505.22654): a local and a global look before the language model, one inside it.

Stage 1, before the language model: half of the budget goes to the tokens that receive most
attention in an early block, with a cap for each 4 x 4 window, half to those that receive most in
the last block; every other token is averaged into the kept one most similar to it. Stage 2, after a
middle decoder layer: the visual tokens that the last prompt row attends to most, without rotary
embedding; that stage is not in
`VScanPruner`.

Source: Tencent/SelfEvolvingAgent, `VScan/qwen/model`. Differences:
- windows of each slab: the release asserts one image, and fails on grids below 4 tokens a side;
- local picks that a cap refuses are made up for by global ones, so that the count is exact;
- the attention is what the block computed; the release's flash-attention class rotates queries and
  keys a second time before it scores.

Shape suffixes: B volumes, V packed visual tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from photon.annotations import Budget
from photon.batch.layout import Tail
from photon.packing import Segments
from photon.pruning.encoded import Encoded, Merge, Reduction, joined, top
from photon.pruning.pre_llm import EncodedPruner
from photon.pruning.retention import rank
from photon.pruning.saliency import precise

WINDOW = 4


def window_ids(places: Tensor, volumes: Segments) -> Tensor:
    """(V,) the 4 x 4 window of each token; left-over rows and columns belong to the last one."""
    owner = torch.stack([volumes.ids, places[:, 0]], 1)
    ids = torch.unique(owner, dim=0, return_inverse=True)[1]
    plane = places[:, 2:]
    side = (
        plane.new_zeros(len(places), 2).scatter_reduce(0, ids[:, None].expand(-1, 2), plane, "amax")
        + 1
    )
    inside = torch.minimum(plane // WINDOW, (side // WINDOW).clamp_min(1)[ids] - 1)
    return torch.unique(torch.cat([owner, places[:, 1:2], inside], 1), dim=0, return_inverse=True)[
        1
    ]


def local_tokens(local: Tensor, windows: Tensor, counts: Tensor, volumes: Segments) -> Tensor:
    """Mask (V,) of the best `counts` (B,) by the local score, at most ceil(count / windows) in one.

    local (V,); windows (V,): ids that no two volumes share.
    """
    order = rank(local, volumes).argsort(stable=True)
    order = order[windows[order].argsort(stable=True)]  # by window, best first
    sizes = torch.bincount(windows)
    first = sizes.cumsum(0) - sizes
    place = torch.empty_like(windows)
    place[order] = torch.arange(len(order), device=order.device) - first[windows[order]]
    owner = torch.zeros_like(sizes).scatter(0, windows, volumes.ids)
    n_windows = torch.bincount(owner, minlength=len(volumes))
    cap = (counts + n_windows - 1) // n_windows.clamp_min(1)
    allowed = place < volumes.expand(cap)
    counts = torch.minimum(counts, volumes.sum(allowed.long()))
    return top(local.masked_fill(~allowed, float("-inf")), counts, volumes)


def vscan(
    local: Tensor, last: Tensor, tokens: Tensor, places: Tensor, counts: Tensor, volumes: Segments
) -> Reduction:
    """The `counts` (B,) tokens of each volume, each the mean of itself and what is merged into it.

    local, last (V,): attention that each token receives in an early and in the last block; tokens
    (V, D) give the similarity; places (V, 4): see `Encoded`.
    """
    keep = local_tokens(local, window_ids(places, volumes), counts // 2, volumes)
    others = last.masked_fill(keep, float("-inf"))
    keep |= top(others, counts - volumes.sum(keep.long()), volumes)
    unit = F.normalize(precise(tokens), dim=-1)
    merges = []
    for rows in volumes:
        kept = keep[rows].nonzero().squeeze(1) + rows.start
        if not len(kept):
            continue
        rest = (~keep[rows]).nonzero().squeeze(1) + rows.start
        nearest = (unit[rest] @ unit[kept].T).argmax(1)
        share = 1 / (torch.bincount(nearest, minlength=len(kept)) + 1).to(unit.dtype)
        source, target = torch.cat([kept, rest]), torch.cat([kept, kept[nearest]])
        merges.append(Merge(source, target, torch.cat([share, share[nearest]])))
    return Reduction(keep, joined(merges))


class VScanPruner(EncodedPruner):
    """Keeps local and global picks and averages the others into them (`vscan`): stage 1 alone.

    Arguments: `EncodedPruner`.
    """

    blocks = (0.25, 1.0)

    def __init__(self, keep: Budget = 0.3, tail: Tail = "union"):
        super().__init__(keep, tail)

    def reduce(self, encoded: Encoded, counts: Tensor | None) -> Reduction:
        early, last = (encoded.received[block] for block in self.blocks)
        return vscan(early, last, encoded.tokens, encoded.places, counts, encoded.volumes)
