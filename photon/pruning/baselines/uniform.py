"""Uniform stride: tokens at equal steps through the grid, the same for every question."""

from __future__ import annotations

import torch

from photon.pruning.base import BudgetPruner, Keep, PruneContext, Selection
from photon.pruning.retention import budget_counts


def strided(count: int, total: int) -> torch.Tensor:
    """`count` distinct places out of 0..total-1 at equal steps, ascending, (count,).

    The middle of each of `count` equal parts: place i is floor((i + 1/2) total / count).
    """
    return (2 * torch.arange(count) + 1) * total // (2 * count) if count else torch.arange(0)


class UniformPruner(BudgetPruner):
    """Keeps every (1 / share)-th visual token in grid order."""

    def select(
        self,
        context: PruneContext,
        keep: Keep = None,
        generator: torch.Generator | None = None,
    ) -> Selection:
        """The tokens that stay; nothing about volume or question matters."""
        pairs = context.pairs
        counts = budget_counts(self.keep if keep is None else keep, pairs).tolist()
        mask = torch.zeros(pairs.total, dtype=torch.bool)
        for start, count, total in zip(pairs.offsets, counts, pairs.lengths, strict=False):
            mask[start + strided(count, total)] = True
        return Selection(mask.to(pairs.device), pairs)
