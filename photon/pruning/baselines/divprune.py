"""DivPrune (arXiv 2503.02175): the subset of tokens that lie farthest apart.

Greedy max-min selection under cosine distance among the encoder's outputs, before the language
model: start from the token whose nearest neighbour is farthest, then add the token whose nearest
chosen token is farthest, until the budget is used.

Differences from the released `LlavaMetaForCausalLM.DivPrune` (vbdi/divprune):
- a running minimum: O(K N), where the release reads all chosen rows again at each step, O(K^2 N),
  and no N x N map (the release holds one);
- a token is never chosen twice. The release returns token 0 again and again where there are fewer
  distinct vectors than the budget; here the remaining ones are taken in order;
- float32 or better.

Shape suffixes: B volumes, V packed visual tokens, L longest volume, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from photon.annotations import Budget
from photon.batch.layout import Tail
from photon.packing import Segments
from photon.pruning.encoded import Encoded, Reduction
from photon.pruning.pre_llm import EncodedPruner
from photon.pruning.saliency import precise

CHUNK = 512  # rows of the cosine map that exist at once


def isolation(unit: Tensor, valid: Tensor) -> Tensor:
    """Cosine distance of each unit row (B, L, D) to its nearest other one, (B, L)."""
    found, every = [], torch.arange(unit.shape[1], device=unit.device)
    for start in range(0, unit.shape[1], CHUNK):
        part = unit[:, start : start + CHUNK]
        cosine = part @ unit.transpose(1, 2)
        itself = every[start : start + CHUNK, None] == every
        found.append(cosine.masked_fill(itself | ~valid[:, None], float("-inf")).amax(2))
    return (1 - torch.cat(found, 1)).masked_fill(~valid, float("-inf"))


def farthest_tokens(tokens: Tensor, counts: Tensor, volumes: Segments) -> Tensor:
    """Mask (V,) of the `counts` (B,) tokens of each volume that greedy max-min selection takes.

    The choice for a smaller budget is part of that for a larger one.
    """
    unit = volumes.pad(F.normalize(precise(tokens), dim=-1))
    valid = volumes.valid
    kept = torch.zeros_like(valid)
    row = torch.arange(len(volumes), device=tokens.device)
    nearest = torch.full(valid.shape, float("inf"), dtype=unit.dtype, device=tokens.device)
    distance = isolation(unit, valid)
    for step in range(int(counts.max())):
        pick = distance.argmax(1)
        active = step < counts
        kept[row, pick] |= active
        nearest = torch.minimum(nearest, 1 - (unit @ unit[row, pick][:, :, None]).squeeze(2))
        distance = nearest.masked_fill(kept | ~valid, float("-inf"))
    return volumes.unpad(kept)


class DivPruner(EncodedPruner):
    """Keeps the tokens that lie farthest apart (`farthest_tokens`); arguments: `EncodedPruner`."""

    def __init__(self, keep: Budget = 0.3, tail: Tail = "union"):
        super().__init__(keep, tail)

    def reduce(self, encoded: Encoded, counts: Tensor | None) -> Reduction:
        return Reduction(farthest_tokens(encoded.tokens, counts, encoded.volumes))
