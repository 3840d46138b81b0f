"""Instruction-aware saliency estimation (Eq. 3-5).

Shape suffixes: Q questions, B volumes, T packed instruction rows, V packed visual rows of the
volumes, J packed (question, visual token) pairs, N query heads, K key-value heads, H head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from photon.packing import Segments


def precise(x: Tensor) -> Tensor:
    """At least float32: scores are compared with a threshold and must not round in bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def centrality(q: Tensor, k: Tensor, text: Segments) -> Tensor:
    """How strongly the other instruction tokens reinforce each one, (T,) (Eq. 3).

    q (T, N, H) and k (T, K, H) of the instruction rows; `text` has a segment a question. Positive
    affinities only, without the diagonal, averaged over heads (the paper does not name heads; the
    released code averages).
    """
    groups = q.shape[1] // k.shape[1]
    q_block = text.pad(precise(q)).unflatten(2, (k.shape[1], groups))
    k_block = text.pad(precise(k))
    affinity = torch.einsum("qikgh,qjkh->qijkg", q_block, k_block) * q.shape[-1] ** -0.5
    others = text.valid[:, None, :] & ~torch.eye(text.longest, dtype=torch.bool, device=q.device)
    positive = affinity.relu().mean((3, 4)) * others
    return text.unpad(positive.sum(2))


def instruction_weights(q: Tensor, k: Tensor, text: Segments, least: float = 0.0) -> Tensor:
    """Weights of the instruction tokens that sum to one over each question, (T,) (Eq. 4).

    Uniform where no token reinforces another, as with a single instruction token. least: divide by
    no less than this, as the released code does by 1; weights then sum to less than one where
    tokens hardly reinforce each other.
    """
    c = centrality(q, k, text)
    total = text.expand(text.sum(c))
    if least:
        return c / total.clamp_min(least)
    uniform = 1.0 / text.expand(text.counts).to(c.dtype)
    return torch.where(total > 0, c / torch.where(total > 0, total, 1.0), uniform)


def uniform_weights(q: Tensor, text: Segments) -> Tensor:
    """Equal weights, (T,): the ablation without self-affinity (Table 4)."""
    return 1.0 / text.expand(text.counts).to(precise(q).dtype)


def instruction_saliency(
    q: Tensor,
    weights: Tensor,
    k_visual: Tensor,
    text: Segments,
    visual: Segments,
    volume_of: list[int],
) -> Tensor:
    """Raw saliency u of every visual token for every question, (J,) (Eq. 5, before the norm).

    q (T, N, H) of the instruction rows, weights (T,), k_visual (V, K, H) of the volumes' visual
    rows; question i asks about volume `volume_of[i]`. Eq. 5 is linear in q, so the weighted query
    is formed first: u_j = <sum_t w_t q_t, k_j> / sqrt(H), averaged over heads.
    """
    n_heads, size = q.shape[1:]
    k = precise(k_visual)
    weighted = text.sum(precise(q) * weights[:, None, None])
    # Heads of one group share their key: add them up before the product.
    weighted = weighted.unflatten(1, (k.shape[1], -1)).sum(2).flatten(1)
    weighted = weighted * (size**-0.5 / n_heads)
    keys = list(k.flatten(1).split(visual.lengths))
    return torch.cat([keys[v] @ weighted[i] for i, v in enumerate(volume_of)])


def min_max(u: Tensor, pairs: Segments, epsilon: float = 0.0) -> Tensor:
    """Saliency rho in [0, 1] by min-max over each question's visual tokens, (J,) (Eq. 5, A.1.2).

    All ones where u is constant: nothing then tells tokens apart, so all are kept. epsilon: added
    to the range, as A.1.2 prints and the released code does (1e-8); a constant u then gives zeros.
    """
    low = pairs.expand(pairs.min(u))
    span = pairs.expand(pairs.max(u)) - low
    if epsilon:
        return (u - low) / (span + epsilon)
    varied = span > 0
    return torch.where(varied, (u - low) / torch.where(varied, span, 1.0), 1.0)
