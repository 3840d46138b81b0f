"""Attention top-k, in the manner of FastV (arXiv 2403.06764): what the last prompt row looks at.

FastV drops after layer K = 2 of a LLaVA model, by the head-averaged attention that the last input
token pays to each image token there, softmax over all keys. Here the layer is the pruner's l, as
for every method that is compared; the rest is FastV's: the row from which the answer's first token
is predicted, rotary embedding on, softmax over everything that the row sees (text before the
volume, all visual tokens, the question), mean over heads, a fixed share kept, original positions.
Only that one row is computed, never an attention map.

Shape suffixes: Q questions, J packed (question, visual token) pairs, L packed prompt rows of the
questions, N query heads, K key-value heads, H head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from photon.pruning.base import BudgetPruner, Keep, LastRow, PruneContext, Selection
from photon.pruning.retention import budget_counts, rank
from photon.pruning.saliency import precise


def last_row_attention(last: LastRow) -> Tensor:
    """Head-averaged attention of each question's last prompt row to what it sees, (L,)."""
    n_heads, size = last.queries.shape[1:]
    out = []
    for query, rows in zip(last.queries, last.rows.split(last.seen.lengths), strict=True):
        keys = precise(last.keys[rows])
        grouped = precise(query).unflatten(0, (keys.shape[1], -1))
        logits = torch.einsum("kgh,lkh->kgl", grouped, keys) * size**-0.5
        out.append(logits.softmax(-1).sum((0, 1)) / n_heads)
    return torch.cat(out)


class AttentionPruner(BudgetPruner):
    """Keeps the visual tokens to which the last prompt row attends most at layer l.

    Args:
        layer: share of decoder layers that run at full length (FastV: two layers).
        keep: share or count of tokens to keep where the call asks for none (FastV: a half).
    """

    score_rope = True

    def select(
        self,
        context: PruneContext,
        keep: Keep = None,
        generator: torch.Generator | None = None,
    ) -> Selection:
        """The tokens that stay; ties go to the lower index. No gradient: nothing is learned."""
        pairs = context.pairs
        last = context.last()
        with torch.no_grad():
            scores = last_row_attention(last)[last.is_visual]
        counts = budget_counts(self.keep if keep is None else keep, pairs)
        return Selection(rank(scores, pairs) < pairs.expand(counts), pairs, scores=scores)
