"""Given selections: controls and oracles whose masks are decided elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from photon.batch.layout import Tail, check_tail
from photon.pruning.base import Keep, PruneContext, Selection


class GivenPruner(nn.Module):
    """Keeps exactly the masks in `masks`, one boolean mask a question of the next batch."""

    score_rope = False

    def __init__(
        self,
        layer: float | None = 0.25,
        masks: Sequence[np.ndarray] = (),
        tail: Tail = "question",
    ):
        super().__init__()
        self.layer = layer
        self.masks = masks
        self.tail = check_tail(tail)

    def select(
        self,
        context: PruneContext,
        keep: Keep = None,
        generator: torch.Generator | None = None,
    ) -> Selection:
        """Raises ValueError when the masks do not fit the batch; `keep` must be None."""
        assert keep is None
        lengths = [mask.size for mask in self.masks]
        if lengths != context.pairs.lengths:
            raise ValueError(f"masks of {lengths} tokens for questions of {context.pairs.lengths}")
        keep = torch.from_numpy(np.concatenate([mask.ravel() for mask in self.masks]))
        return Selection(keep.bool().to(context.pairs.device), context.pairs)
