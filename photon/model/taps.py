"""What a pruner before the language model reads of the encoder's attention.

Shape suffixes: P patches, V visual tokens, N heads, H head size.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from photon.packing import Segments
from photon.pruning.saliency import precise


def attention_received(q: Tensor, k: Tensor, slabs: Segments) -> Tensor:
    """Attention that each patch receives within its slab, (P,): sum over queries, mean over heads.

    q, k (P, N, H), rotated. A map of one slab, (N, n, n), is the most that exists at once.
    """
    q, k = (precise(x).transpose(0, 1) for x in (q, k))
    return torch.cat(
        [
            (q[:, rows] @ k[:, rows].mT * q.shape[-1] ** -0.5).softmax(-1).sum(1).mean(0)
            for rows in slabs
        ]
    )


def of_tokens(patches: Tensor, merge: int) -> Tensor:
    """(P, ...) to (V, ...): the mean over the patches of each token."""
    return patches.unflatten(0, (-1, merge**2)).mean(1)


def token_keys(k: Tensor, merge: int) -> Tensor:
    """(V, H) the mean over patches and heads of rotated keys (P, N, H)."""
    return of_tokens(precise(k), merge).mean(1)


def noted_blocks(
    shares: Collection[float], depth: int, windowed: Collection[int]
) -> dict[float, int]:
    """Index of the block whose attention is noted for each share of the encoder's depth.

    The full-attention block that ends nearest to the share: of Qwen2.5-VL's 32 blocks 0.25 is
    index 7, 0.5 is 15, and 1.0 is 31.
    """
    full = [i for i in range(depth) if i not in windowed]
    return {share: min(full, key=lambda i: abs(i + 1 - share * depth)) for share in shares}
