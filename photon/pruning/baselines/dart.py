"""DART (arXiv 2502.11494): keep what duplicates the pivots least.

Pivots are the visual tokens and the prompt tokens behind them whose keys have the largest L1 norms,
four of each. For each pivot in turn, the visual tokens least similar to it (cosine of the hidden
states) are kept and leave the candidates. After decoder layer 2 in the paper.

Source: ZichenWen1/DART, `get_retained_image_token`. Differences:
- exact counts. The release keeps four pivots and 8 * int(K / 8) others, and nobody's K; here each
  pivot's share is the budget without the visual pivots, divided as evenly as it goes;
- an order. The release walks through a Python set of token numbers; here visual pivots come first,
  each kind by falling norm;
- the text pivots are of the question alone: the release looks at all rows after the image, in
  training the answer too;
- the hidden states are as they leave layer l, without the final norm's weights.

Shape suffixes: Q questions, J packed (question, visual token) pairs, T packed instruction rows, D
width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from photon.annotations import Budget, Count, Fraction
from photon.batch.layout import Tail
from photon.packing import Segments
from photon.pruning.base import BudgetPruner, Keep, PruneContext, Selection
from photon.pruning.retention import budget_counts
from photon.pruning.saliency import precise

PIVOTS = 4


def least_duplicated(
    hidden: Tensor,
    norms: Tensor,
    text_hidden: Tensor,
    text_norms: Tensor,
    count: int,
    pivots: Count = PIVOTS,
) -> Tensor:
    """Mask (N,) of the `count` tokens that one question keeps.

    hidden (N, D) and norms (N,): visual tokens and the L1 norms of their keys; text_hidden and
    text_norms: of the question's rows.
    """
    unit = F.normalize(precise(hidden), dim=-1)
    words = F.normalize(precise(text_hidden), dim=-1)
    chosen = norms.topk(min(pivots, count)).indices
    asked = text_norms.topk(min(pivots, len(text_norms))).indices
    keep = torch.zeros(len(unit), dtype=torch.bool, device=unit.device)
    keep[chosen] = True
    around = torch.cat([unit[chosen], words[asked]])
    left = count - len(chosen)
    for place, pivot in enumerate(around):
        share = left // (len(around) - place)
        likeness = (unit @ pivot).masked_fill(keep, float("inf"))
        keep[likeness.topk(share, largest=False).indices] = True
        left -= share
    return keep


def dart(
    hidden: Tensor,
    keys: Tensor,
    text_hidden: Tensor,
    text_keys: Tensor,
    counts: list[int],
    volumes: Segments,
    text: Segments,
    volume_of: list[int],
    pivots: Count = PIVOTS,
) -> Tensor:
    """Mask (J,) of the tokens that each question keeps.

    hidden (V, D), keys (V, K, H) of the volumes' visual rows; text_hidden (T, D), text_keys
    (T, K, H) of the instruction rows; counts (Q): tokens to keep.
    """
    norms, text_norms = (precise(x).abs().sum((1, 2)) for x in (keys, text_keys))
    visual = list(volumes)
    return torch.cat(
        [
            least_duplicated(
                hidden[visual[v]], norms[visual[v]], text_hidden[rows], text_norms[rows], n, pivots
            )
            for v, rows, n in zip(volume_of, text, counts, strict=True)
        ]
    )


class DartPruner(BudgetPruner):
    """Keeps, after layer l, the tokens that duplicate the pivots least (`dart`).

    Args:
        layer: share of decoder layers that run at full length (DART: two layers).
        pivots: visual pivots, and as many of the question.
    """

    score_rope = True

    def __init__(
        self,
        layer: Fraction = 0.25,
        keep: Budget = 0.3,
        tail: Tail = "question",
        pivots: Count = PIVOTS,
    ):
        super().__init__(layer, keep, tail)
        self.options["pivots"] = self.pivots = pivots

    def select(
        self,
        context: PruneContext,
        keep: Keep = None,
        generator: torch.Generator | None = None,
    ) -> Selection:
        """The tokens that stay. No gradient: nothing is learned."""
        states, pairs = context.encoded(), context.pairs
        counts = budget_counts(self.keep if keep is None else keep, pairs)
        counts = torch.minimum(counts, pairs.counts).tolist()
        with torch.no_grad():
            kept = dart(
                states.tokens,
                context.visual_keys,
                states.text,
                context.keys,
                counts,
                context.visual,
                context.text,
                context.volume_of,
                self.pivots,
            )
        return Selection(kept, pairs)
