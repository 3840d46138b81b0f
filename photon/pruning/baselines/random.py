"""Random keep: the control that any selection must beat at the same count."""

from __future__ import annotations

import torch
from torch import nn

from photon.pruning.base import Keep, PruneContext, Selection
from photon.pruning.retention import budget_counts, rank


class RandomPruner(nn.Module):
    """Keeps visual tokens drawn uniformly without replacement.

    Args:
        layer: share of decoder layers that run at full length.
        keep: share or count of tokens to keep where the call asks for none.
        seed: seed of the draw where the call brings no generator.
    """

    score_rope = False

    def __init__(self, layer: float = 0.25, keep: float | int = 0.3, seed: int = 0):
        super().__init__()
        self.options = {"layer": layer, "keep": keep, "seed": seed}
        self.layer = layer
        self.keep = keep
        self.generator = torch.Generator().manual_seed(seed)

    def select(
        self,
        context: PruneContext,
        keep: Keep = None,
        generator: torch.Generator | None = None,
    ) -> Selection:
        pairs = context.pairs
        counts = budget_counts(self.keep if keep is None else keep, pairs)
        generator = self.generator if generator is None else generator
        scores = torch.rand(pairs.total, generator=generator).to(pairs.device)
        return Selection(rank(scores, pairs) < pairs.expand(counts), pairs, scores=scores)
