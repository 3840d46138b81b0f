"""LLaVA-PruMerge and PruMerge+ (arXiv 2403.15388): outliers of attention that absorb their likes.

Tokens are ranked by attention. Without a budget, as many stay as are outliers by the interquartile
rule (above Q3 + 1.5 IQR); PruMerge+ adds tokens at equal steps. Each token that stays receives the
attention-weighted sum of the 32 tokens with the most similar keys, and one further token stands for
all that are dropped. Before the language model, the same for every question.

Source: 42Shawn/LLaVA-PruMerge, `token_prune_merge_advanced` and `_plus`, which rank by the class
token's attention in a single head. Differences:
- Qwen's encoder has no class token: the attention that a token receives in the last block, divided
  by its sum over the volume, takes its place (as in the ports to Qwen2.5-VL), and its keys;
- grid order. The release orders by falling attention, which moves tokens away from their positions;
- the further token takes the place, and the position, of the best dropped one, within the budget;
- each volume has its own share of outliers (the release takes one over the whole batch) and at
  least one token (the release fails where there is no outlier);
- with a budget, PruMerge+ gives the outliers their places and shares the rest out at equal steps
  among the others; the release's grid may repeat outliers and lose as many tokens.
The weighted sum is not normalised, as released.

Shape suffixes: B volumes, V packed visual tokens, H size of a key.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from photon.annotations import Budget
from photon.batch.layout import Tail
from photon.packing import Segments
from photon.pruning.baselines.uniform import strided
from photon.pruning.encoded import Encoded, Merge, Reduction, joined, top
from photon.pruning.pre_llm import EncodedPruner
from photon.pruning.saliency import precise

LIKES = 32


def outlier_counts(attention: Tensor, volumes: Segments) -> Tensor:
    """Tokens of each volume whose attention (V,) lies above Q3 + 1.5 IQR, (B,)."""
    low, high = volumes.quantile(attention, 0.25), volumes.quantile(attention, 0.75)
    return volumes.sum((attention > volumes.expand(high + 1.5 * (high - low))).long())


def spread_out(keep: Tensor, counts: list[int], volumes: Segments) -> Tensor:
    """`keep` (V,) with tokens at equal steps among the others, up to `counts` (B) a volume."""
    keep = keep.clone()
    for rows, count in zip(volumes, counts, strict=True):
        others = (~keep[rows]).nonzero().squeeze(1) + rows.start
        missing = count - int(keep[rows].sum())
        keep[others[strided(missing, len(others)).to(others.device)]] = True
    return keep


def official_grid(keep: Tensor, outliers: Tensor, volumes: Segments) -> Tensor:
    """`keep` with every int(int(N / n) / 3)-th token but the last, for n outliers of N, (V,)."""
    keep = keep.clone()
    for rows, n in zip(volumes, outliers.tolist(), strict=True):
        total = rows.stop - rows.start
        step = max(int(int(total / n) / 3), 1) if n else 1
        keep[rows.start : rows.stop - 1 : step] = True
    return keep


def absorb_likes(attention: Tensor, keys: Tensor, keep: Tensor) -> Merge:
    """Each kept token of one volume plus the attention-weighted sum of its 32 likes.

    attention (N,), keys (N, H), keep (N,). A like may be kept or dropped, but is another token.
    """
    unit = F.normalize(precise(keys), dim=-1)
    kept = keep.nonzero().squeeze(1)
    cosine = (unit[kept] @ unit.T).scatter(1, kept[:, None], float("-inf"))
    likes = cosine.topk(min(LIKES, len(unit) - 1), dim=1).indices
    return Merge(
        torch.cat([kept, likes.flatten()]),
        torch.cat([kept, kept.repeat_interleave(likes.shape[1])]),
        torch.cat([torch.ones(len(kept)).to(attention), attention[likes.flatten()]]),
    )


def rest_of(attention: Tensor, keep: Tensor) -> Merge:
    """The attention-weighted sum of one volume's dropped tokens, in the place of the best one."""
    dropped = (~keep).nonzero().squeeze(1)
    best = dropped[attention[dropped].argmax()]
    return Merge(dropped, best.expand(len(dropped)), attention[dropped])


def prumerge(attention: Tensor, keys: Tensor, keep: Tensor, volumes: Segments) -> Reduction:
    """The kept tokens of every volume, merged, and one more for what is dropped, if anything is.

    attention (V,): sums to about one over each volume. keep (V,): chosen by attention.
    """
    merges, keep = [], keep.clone()
    for rows in volumes:
        if not bool(keep[rows].any()):
            continue
        part = [absorb_likes(attention[rows], keys[rows], keep[rows])]
        if not bool(keep[rows].all()):
            part.append(rest_of(attention[rows], keep[rows]))
            keep[part[1].target[0] + rows.start] = True
        whole = joined(part)
        merges.append(Merge(whole.source + rows.start, whole.target + rows.start, whole.weight))
    return Reduction(keep, joined(merges))


def prumerge_tokens(
    attention: Tensor, counts: Tensor | None, volumes: Segments, plus: bool = False
) -> Tensor:
    """Mask (V,) of the tokens that absorb others.

    counts (B,): with it, one less than the budget, for the token that stands for the rest; None
    takes the outliers, and for `plus` the release's grid beside them.
    """
    outliers = outlier_counts(attention, volumes).clamp_min(1)
    if counts is None:
        keep = top(attention, outliers, volumes)
        return official_grid(keep, outliers, volumes) if plus else keep
    room = torch.where(counts < volumes.counts, (counts - 1).clamp_min(0), counts)
    if not plus:
        return top(attention, room, volumes)
    keep = top(attention, torch.minimum(outliers, room), volumes)
    return spread_out(keep, room.tolist(), volumes)


class PruMergePruner(EncodedPruner):
    """Keeps outliers of attention, which absorb their likes (`prumerge`).

    Args:
        keep: see `EncodedPruner`; None keeps as many tokens as are outliers.
        tail: see `EncodedPruner`.
        plus: PruMerge+, which adds tokens at equal steps.
    """

    blocks = (1.0,)

    def __init__(self, keep: Budget | None = 0.3, tail: Tail = "union", plus: bool = False):
        super().__init__(keep, tail, plus=plus)

    def reduce(self, encoded: Encoded, counts: Tensor | None) -> Reduction:
        volumes, received = encoded.volumes, encoded.received[1.0]
        attention = received / volumes.expand(volumes.sum(received))
        keep = prumerge_tokens(attention, counts, volumes, self.plus)
        return prumerge(attention, encoded.keys, keep, volumes)
