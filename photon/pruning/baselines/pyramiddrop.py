"""PyramidDrop (arXiv 2410.17247): the last prompt row's attention, at several layers.

After each of several layers the same share of the tokens that are left stays: those to which the
row that predicts the answer's first token attends most. It trains as it answers: tokens are
dropped in the forward pass, and nothing about the choice is learned.

Source: Cooperx521/PyramidDrop, `pdrop_rank_drop`. Differences:
- scores are of the last layer that ran, by its own queries and keys; the release projects the
  next layer's ahead of time;
- the share of a stage follows from the budget (`FallingStages`); the release takes 1/2 of what is
  left at each of three stages, of all tokens at 7/24 of the compute (keep=0.2917);
- positions stay; the release numbers them anew after every stage;
- any batch: the release fails in eager attention, with grouped keys, and in SDPA with padding.
"""

from __future__ import annotations

from collections.abc import Sequence

from photon.annotations import Budget, Fraction
from photon.batch.layout import Tail
from photon.pruning.baselines.fastv import AttentionPruner
from photon.pruning.stages import RepeatedStages


class PyramidDropPruner(RepeatedStages):
    """Keeps what the last prompt row attends to, at each of `layers`.

    Args:
        layers: shares of the decoder's layers after which tokens are dropped (as released).
        keep: mean share or count above the first of them.
        tail: of the last stage, see `photon.batch.layout.lay_out`.
    """

    def __init__(
        self,
        layers: Sequence[Fraction] = (0.25, 0.5, 0.75),
        keep: Budget = 0.3,
        tail: Tail = "question",
    ):
        super().__init__(AttentionPruner, layers, keep, tail)
