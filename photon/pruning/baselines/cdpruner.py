"""CDPruner (arXiv 2506.10967): diverse tokens, weighted by what the question asks.

Greedy maximisation of the determinant of L_ij = r_i S_ij r_j (a conditional determinantal point
process), where S is the cosine of the visual tokens and r the relevance to the question, min-max
normalised. Before the language model; one choice a question.

Source: Theia-4869/CDPruner, `encode_images`. Differences:
- relevance. The release takes CLIP's joint image-text space, which Qwen does not have, and has no
  code for Qwen: here it is the cosine of the tokens and the embeddings of the question's words as
  the language model reads both;
- minimum and maximum are of each question. The release takes them over the batch, so that an answer
  depends on what is asked beside it;
- where the kernel's rank is less than the budget, the rest are the best left by index order of the
  remaining gain; the release divides by zero and repeats tokens;
- no N x N map: a row of the kernel is formed when its token is chosen.
As released: the relevance is of the negated cosine (in CLIP's space patches that match a text have
the lower cosine), and 1e-6 is added to the numerator only. `negate=False` takes the cosine.

Shape suffixes: B volumes, Q questions, J packed (question, visual token) pairs, V packed visual
tokens, T packed instruction tokens, K questions of one volume, D, E widths.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from photon.annotations import Budget
from photon.batch.layout import Tail
from photon.packing import Segments
from photon.pruning.base import Keep, PruneContext, Selection
from photon.pruning.pre_llm import EncodedPruner
from photon.pruning.retention import budget_counts
from photon.pruning.saliency import precise

FLOOR = 1e-10  # of the gain: below it a token adds nothing


def relevance(
    tokens: Tensor,
    text: Tensor,
    volumes: Segments,
    questions: Segments,
    volume_of: list[int],
    negate: bool = True,
) -> Tensor:
    """r (J,): mean cosine of tokens (V, E) and text (T, E), min-max over each question's tokens."""
    unit, words = (F.normalize(precise(x), dim=-1) for x in (tokens, text))
    rows, found = list(volumes), []
    # The mean cosine with several words is the product with their mean.
    for v, question in zip(volume_of, questions.mean(words), strict=True):
        cosine = unit[rows[v]] @ question
        if not len(cosine):
            found.append(cosine)
            continue
        cosine = -cosine if negate else cosine
        low, high = cosine.aminmax()
        found.append((cosine - low + 1e-6) / (high - low).clamp_min(1e-12))
    return torch.cat(found)


def determinant_order(unit: Tensor, weights: Tensor, steps: int) -> Tensor:
    """Tokens (K, steps) in the order in which greedy determinant maximisation adds them.

    unit (N, D): unit rows of one volume. weights (K, N): r of each of its questions. Fast greedy
    MAP inference (Chen et al., 2018) with O(N steps) memory a question.
    """
    n_questions, n = weights.shape
    row = torch.arange(n_questions, device=unit.device)
    gain = weights.square()
    factors = unit.new_zeros(n_questions, steps, n)
    order = torch.zeros(n_questions, steps, dtype=torch.long, device=unit.device)
    chosen = torch.zeros_like(weights, dtype=torch.bool)
    for step in range(steps):
        pick = gain.masked_fill(chosen, float("-inf")).argmax(1)
        order[:, step] = pick
        chosen[row, pick] = True
        kernel = weights[row, pick][:, None] * (unit[pick] @ unit.T) * weights
        before = factors[:, :step]
        kernel = kernel - (before[row, :, pick][:, None] @ before).squeeze(1)
        factor = kernel / gain[row, pick].clamp_min(FLOOR).sqrt()[:, None]
        factor = torch.where(gain[row, pick][:, None] > FLOOR, factor, 0.0)
        factors[:, step] = factor
        gain = gain - factor.square()
    return order


def relevant_and_diverse(
    tokens: Tensor, weights: Tensor, counts: Tensor, volumes: Segments, volume_of: list[int]
) -> Tensor:
    """Mask (J,) of the `counts` (Q,) tokens of each question.

    tokens (V, D) give the similarity, weights (J,) the relevance. All questions of a volume are
    served by the same rows of its kernel.
    """
    unit = F.normalize(precise(tokens), dim=-1)
    parts = [weights[rows] for rows in Segments([volumes.lengths[v] for v in volume_of])]
    masks: list[Tensor] = [torch.empty(0)] * len(parts)
    for v, rows in enumerate(volumes):
        asked = [q for q, volume in enumerate(volume_of) if volume == v]
        if not asked:
            continue
        wanted = counts[asked].clamp_max(volumes.lengths[v])
        order = determinant_order(unit[rows], torch.stack([parts[q] for q in asked]),
                                  int(wanted.max()))  # fmt: skip
        place = torch.full_like(order[:, :1].expand(-1, volumes.lengths[v]), order.shape[1])
        place = place.scatter(1, order, torch.arange(order.shape[1]).to(order).expand_as(order))
        for q, mask in zip(asked, place < wanted[:, None], strict=True):
            masks[q] = mask
    return torch.cat(masks)


class CDPruner(EncodedPruner):
    """Keeps the tokens that are diverse and relevant to the question (`relevant_and_diverse`).

    Args:
        keep: share or count of tokens to keep where the call asks for none.
        tail: see `photon.batch.layout.lay_out`; questions keep tokens of their own.
        negate: see `relevance`.
    """

    def __init__(self, keep: Budget = 0.3, tail: Tail = "question", negate: bool = True):
        super().__init__(keep, tail, negate=negate)

    def select(
        self,
        context: PruneContext,
        keep: Keep = None,
        generator: torch.Generator | None = None,
    ) -> Selection:
        """The tokens that stay for each question. No gradient: nothing is learned."""
        encoded, asked, pairs = context.encoded(), context.volume_of, context.pairs
        counts = budget_counts(self.keep if keep is None else keep, pairs)
        with torch.no_grad():
            scores = relevance(
                encoded.tokens, encoded.text, encoded.volumes, context.text, asked, self.negate
            )
            kept = relevant_and_diverse(encoded.tokens, scores, counts, encoded.volumes, asked)
        return Selection(kept, pairs, scores=scores)
