"""VisionZip (arXiv 2412.04467): tokens that the encoder attends to, and a few merged ones.

Dominant tokens are those that receive most attention in the last encoder block. Of the others,
every step-th becomes a contextual token: itself plus the mean of the tokens whose keys are most
similar to its own. Before the language model, the same for every question.

Source: the authors' Qwen2.5-VL file as vendored in VisionSelector (`visionzip_official.py`).
Differences:
- counts are exact. The release truncates both shares, int((b - 0.05) N) and max(int(0.05 N), 1), so
  that fewer than int(b N) tokens may remain; `official_counts` has its numbers;
- a budget of less than 10 % is shared equally: the release has no dominant tokens at 5 %;
- several volumes at once; the release takes one image, and leaves videos as they are;
- the attention is that within a slab, as the block computed it. (The release's flash-attention
  class takes the softmax over all frames, which no block of the model does.)
A contextual token is a sum of two terms, about twice as long as others, as released.

Shape suffixes: B volumes, V packed visual tokens, H size of a key.
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
from photon.pruning.saliency import precise

CONTEXTUAL = 0.05  # share of all tokens


def official_counts(total: int, share: float) -> tuple[int, int]:
    """Dominant and contextual tokens as the release rounds them."""
    return int((share - CONTEXTUAL) * total), max(int(CONTEXTUAL * total), 1)


def exact_counts(total: int, count: int) -> tuple[int, int]:
    """Dominant and contextual tokens that make `count`; none is contextual where all stay."""
    contextual = 0 if count >= total else min(max(int(CONTEXTUAL * total), 1), (count + 1) // 2)
    return count - contextual, contextual


def absorb(keys: Tensor, anchors: Tensor, others: Tensor) -> Merge:
    """Each anchor plus the mean of the others whose keys (V, H) have it as their nearest anchor."""
    unit = F.normalize(precise(keys), dim=-1)
    nearest = (unit[others] @ unit[anchors].T).argmax(1)
    share = 1 / torch.bincount(nearest, minlength=len(anchors)).to(unit.dtype)
    return Merge(
        torch.cat([anchors, others]),
        torch.cat([anchors, anchors[nearest]]),
        torch.cat([torch.ones(len(anchors)).to(share), share[nearest]]),
    )


def visionzip(
    received: Tensor, keys: Tensor, counts: list[tuple[int, int]], volumes: Segments
) -> Reduction:
    """Dominant and contextual tokens of every volume, and how the latter are made.

    received (V,): attention that each token receives in the last block. keys (V, H): see `Encoded`.
    counts (B): dominant and contextual tokens of each volume, see `exact_counts`.
    """
    dominant = torch.tensor([n for n, _ in counts], device=received.device)
    keep = top(received, dominant, volumes)
    merges = []
    for rows, (_, contextual) in zip(volumes, counts, strict=True):
        rest = (~keep[rows]).nonzero().squeeze(1) + rows.start
        if contextual == 0:
            continue
        step = max(len(rest) // contextual, 1)
        chosen = torch.zeros(len(rest), dtype=torch.bool, device=rest.device)
        chosen[: step * contextual : step] = True
        merges.append(absorb(keys, rest[chosen], rest[~chosen]))
        keep = keep.index_fill(0, rest[chosen], True)
    return Reduction(keep, joined(merges) if merges else None)


class VisionZipPruner(EncodedPruner):
    """Keeps dominant tokens and makes contextual ones (`visionzip`); arguments: `EncodedPruner`."""

    blocks = (1.0,)

    def __init__(self, keep: Budget = 0.3, tail: Tail = "union"):
        super().__init__(keep, tail)

    def reduce(self, encoded: Encoded, counts: Tensor | None) -> Reduction:
        pairs = zip(encoded.volumes.lengths, counts.tolist(), strict=True)
        both = [exact_counts(total, count) for total, count in pairs]
        return visionzip(encoded.received[1.0], encoded.keys, both, encoded.volumes)
