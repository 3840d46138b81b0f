"""What a pruner between encoder and language model is given, and what it returns.

Shape suffixes: B items, Q questions, V packed visual tokens of the items, T packed instruction
tokens, D width, P input values of a token, H size of a key, E terms of a merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from photon.packing import Segments
from photon.pruning.retention import rank


@dataclass(frozen=True)
class Encoded:
    """The encoder's output, and what a pruner's `blocks` asked to be noted on the way.

    For a pruner inside the language model, tokens and text are the hidden states after layer l.

    received: by the share of the encoder's depth at which a block ends (1.0: the last one), the
    attention that each token receives there within its slab: sum over queries, mean over heads and
    over the patches of the token; its mean is 1. keys: of the last of these blocks.
    """

    tokens: Tensor  # (V, D) as the next layer of the language model would see them
    volumes: Segments  # B segments of tokens
    places: Tensor  # (V, 4) which volume of its item, slab, row and column
    received: Mapping[float, Tensor] = field(default_factory=dict)  # (V,) attention, see below
    keys: Tensor | None = None  # (V, H) of the last block, rotated, averaged over patches and heads
    pixels: Tensor | None = None  # (V, P) input in [0, 1]
    text: Tensor | None = None  # (T, D) embeddings of the instruction tokens


@dataclass(frozen=True)
class Merge:
    """Values of kept tokens as weighted sums of tokens; a kept token that is no target stays."""

    source: Tensor  # (E,) tokens that are read
    target: Tensor  # (E,) kept tokens that take their places
    weight: Tensor  # (E,)

    def __call__(self, rows: Tensor) -> Tensor:
        """(V, D) rows before to (V, D) rows after; of dropped tokens nothing is promised."""
        terms = rows[self.source] * self.weight[:, None].to(rows.dtype)
        fresh = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        fresh[self.target] = True
        return (rows * ~fresh[:, None]).index_add(0, self.target, terms)


@dataclass(frozen=True)
class Reduction:
    """Which tokens of every item go on to the language model, and what they are merged from."""

    keep: Tensor  # (V,) boolean
    merge: Merge | None = None


def top(scores: Tensor, counts: Tensor, segments: Segments) -> Tensor:
    """Boolean mask of the `counts` (G,) highest scores of each segment; ties go to the lower index.

    Exact: every segment keeps its count, or all where it has fewer.
    """
    return rank(scores, segments) < segments.expand(counts)


def joined(merges: list[Merge]) -> Merge:
    """One merge of what several volumes merge."""
    return Merge(
        *(torch.cat([getattr(m, name) for m in merges]) for name in ("source", "target", "weight"))
    )
