"""Random keep: the control that any selection must beat at the same count."""

from __future__ import annotations

import torch
from torch import nn

from photon.batch.layout import Tail, check_tail
from photon.pruning.base import Keep, PruneContext, Selection
from photon.pruning.retention import budget_counts, rank


class RandomPruner(nn.Module):
    """Keeps visual tokens drawn uniformly without replacement.

    Draws come from the call's generator or from torch's own, never from one of this object: its
    state would be lost when training resumes.

    Args:
        layer: share of decoder layers that run at full length.
        keep: share or count of tokens to keep where the call asks for none.
        tail: how questions share rows above l, see `photon.batch.layout.lay_out`.
    """

    score_rope = False

    def __init__(self, layer: float = 0.25, keep: float | int = 0.3, tail: Tail = "question"):
        super().__init__()
        self.options = {"layer": layer, "keep": keep, "tail": tail}
        self.layer = layer
        self.keep = keep
        self.tail = check_tail(tail)

    def select(
        self,
        context: PruneContext,
        keep: Keep = None,
        generator: torch.Generator | None = None,
    ) -> Selection:
        pairs = context.pairs
        counts = budget_counts(self.keep if keep is None else keep, pairs)
        scores = torch.rand(pairs.total, generator=generator).to(pairs.device)
        return Selection(rank(scores, pairs) < pairs.expand(counts), pairs, scores=scores)
