"""Random keep: the control that any selection must beat at the same count."""

from __future__ import annotations

import torch

from photon.pruning.base import BudgetPruner, Keep, PruneContext, Selection
from photon.pruning.retention import budget_counts, rank


class RandomPruner(BudgetPruner):
    """Keeps visual tokens drawn uniformly without replacement.

    Draws come from the call's generator or from torch's own, never from one of this object: its
    state would be lost when training resumes.
    """

    def select(
        self,
        context: PruneContext,
        keep: Keep = None,
        generator: torch.Generator | None = None,
    ) -> Selection:
        pairs = context.pairs
        counts = budget_counts(self.keep if keep is None else keep, pairs)
        scores = torch.rand(pairs.total, generator=generator, dtype=torch.float32).to(pairs.device)
        return Selection(rank(scores, pairs) < pairs.expand(counts), pairs, scores=scores)
