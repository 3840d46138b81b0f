"""SparseVLM (arXiv 2410.04417): words that match the volume rate its tokens, at several layers.

A question's raters are its tokens that match the visual ones above average: the softmax over the
question's tokens of their products with each visual token, averaged over the visual tokens. After
each of several layers those visual tokens stay to which the raters attend most, on average over
raters and heads.

Source: Gumpest/SparseVLMs, `score.py` and `modelling_sparse_llama.py`, version 1. Differences:
- raters are chosen at each stage, from the states there; the release chooses them once, from
  embeddings before the first layer, which are no longer at hand there;
- the softmax of the attention is over the visual tokens; the release takes it over all that a row
  sees, which weighs raters by how much they look at the volume at all;
- dropped tokens are not clustered into means (nor are they in the release's version 2);
- the shares follow from one budget (`FallingStages`); the release has a list of counts for each of
  four budgets, and the paper's adaptive rank is not in it;
- scores are of the last layer that ran, and positions stay; the release numbers them anew;
- any batch: the release takes one image.
A question without words of its own keeps the first tokens.

Shape suffixes: Q questions, J packed (question, visual token) pairs, T packed instruction rows, V
packed visual rows, D width, N query heads, K key-value heads, H head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from photon.annotations import Budget, Fraction
from photon.batch.layout import Tail
from photon.packing import Segments
from photon.pruning.base import BudgetPruner, Keep, PruneContext, Selection
from photon.pruning.encoded import top
from photon.pruning.retention import budget_counts
from photon.pruning.saliency import precise
from photon.pruning.stages import RepeatedStages


def text_relevance(
    tokens: Tensor, text: Tensor, visual: Segments, words: Segments, volume_of: Sequence[int]
) -> Tensor:
    """(T,) how much each word of a question matches its volume's tokens; a question's sum to 1.

    tokens (V, D), text (T, D).
    """
    volumes, found = list(visual), [text.new_zeros(0, dtype=precise(text).dtype)]
    for v, rows in zip(volume_of, words, strict=True):
        match = precise(tokens[volumes[v]]) @ precise(text[rows]).T
        found.append(match.softmax(-1).mean(0))
    return torch.cat(found)


def raters(relevance: Tensor, words: Segments) -> Tensor:
    """(T,) true at the words above their question's mean; where none is, at all of them."""
    above = relevance > words.expand(words.mean(relevance))
    return above | words.expand(words.sum(above.long()) == 0)


def rated(
    queries: Tensor,
    keys: Tensor,
    rates: Tensor,
    words: Segments,
    visual: Segments,
    volume_of: Sequence[int],
) -> Tensor:
    """(J,) mean over raters and heads of their attention to the visual tokens.

    queries (T, N, H), keys (V, K, H), rates (T,) boolean. No tensor holds more than the raters of
    one question.
    """
    volumes, out = list(visual), []
    for v, rows in zip(volume_of, words, strict=True):
        own = precise(keys[volumes[v]])
        asking = precise(queries[rows][rates[rows]]).unflatten(1, (own.shape[1], -1))
        logits = torch.einsum("rkgh,vkh->rkgv", asking, own) * own.shape[-1] ** -0.5
        out.append(logits.softmax(-1).mean((0, 1, 2)).nan_to_num())
    return torch.cat(out)


class RaterPruner(BudgetPruner):
    """One stage: keeps the visual tokens to which a question's raters attend most."""

    score_rope = True

    def select(
        self,
        context: PruneContext,
        keep: Keep = None,
        generator: torch.Generator | None = None,
    ) -> Selection:
        encoded, asked = context.encoded(), context.volume_of
        with torch.no_grad():
            of = context.visual, context.text, asked
            rates = raters(text_relevance(encoded.tokens, encoded.text, *of), context.text)
            scores = rated(context.queries, context.visual_keys, rates, context.text,
                           context.visual, asked)  # fmt: skip
        counts = budget_counts(self.keep if keep is None else keep, context.pairs)
        return Selection(top(scores, counts, context.pairs), context.pairs, scores=scores)


class SparseVLMPruner(RepeatedStages):
    """Keeps what the raters attend to, at each of `layers`.

    Args:
        layers: shares of the decoder's layers after which tokens are dropped (released: 3, 7 and
            16 of 32).
        keep: mean share or count above the first of them.
        tail: of the last stage, see `photon.batch.layout.lay_out`.
    """

    def __init__(
        self,
        layers: Sequence[Fraction] = (0.09375, 0.21875, 0.5),
        keep: Budget = 0.3,
        tail: Tail = "question",
    ):
        super().__init__(RaterPruner, layers, keep, tail)
