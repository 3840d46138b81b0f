"""VScan (arXiv 2505.22654) with both of its stages: `vscan.py`, and a cut in the decoder's middle.

Stage 2 keeps, after a middle layer, the visual tokens that the last prompt row attends to most,
scored without rotary embedding, as released (layer 14 of 28 for Qwen2.5-VL).

Source: Tencent/SelfEvolvingAgent, `Qwen2_5_VLModel_X.layer_prune`. Differences beside those of
`vscan.py`:
- scores are of the last layer that ran, by its own queries and keys; the release projects the
  next layer's ahead of time;
- the shares of both stages follow from one budget (`FallingStages`), the mean over all layers; the
  release has a rate for each;
- any batch; the release takes one image, and the last position of the sequence whatever it is.
"""

from __future__ import annotations

from photon.annotations import Budget, Fraction
from photon.batch.layout import Tail
from photon.pruning.baselines.fastv import AttentionPruner
from photon.pruning.baselines.vscan import VScanPruner
from photon.pruning.stages import FallingStages


class UnrotatedAttention(AttentionPruner):
    """`AttentionPruner` that scores without rotary embedding."""

    score_rope = False


class VScanBothPruner(FallingStages):
    """Stage 1 before the language model, stage 2 in the middle of it.

    Args:
        middle: share of decoder layers between them.
        keep: mean share or count over all layers.
        tail: of stage 2, see `photon.batch.layout.lay_out`.
    """

    def __init__(self, middle: Fraction = 0.5, keep: Budget = 0.3, tail: Tail = "question"):
        inside = UnrotatedAttention(middle, tail=tail)
        super().__init__({"before": VScanPruner(), "inside": inside}, keep)
        self.middle = middle

    @property
    def options(self) -> dict[str, object]:
        return {"middle": self.middle, "keep": self.budget, "tail": self.tail}
