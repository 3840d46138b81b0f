"""From saliency and threshold to the tokens that stay (Eq. 8-10), and the budget at inference.

Shape suffixes: Q questions, J packed (question, visual token) pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from photon.packing import Segments


def retention_probability(rho: Tensor, theta: Tensor, tau: float, pairs: Segments) -> Tensor:
    """q = sigmoid((rho - theta) / tau), (J,), with theta (Q,) one a question (Eq. 8)."""
    return torch.sigmoid((rho - pairs.expand(theta)) / tau)


def hard_mask(q: Tensor) -> Tensor:
    """M = 1{q > 0.5}, boolean (J,) (Eq. 9)."""
    return q > 0.5


def straight_through(q: Tensor, mask: Tensor) -> Tensor:
    """M in the forward pass, q in the backward pass, (J,) (Eq. 10)."""
    return mask.to(q.dtype) - q.detach() + q


def keep_top_token(mask: Tensor, rho: Tensor, pairs: Segments) -> Tensor:
    """The mask, with the most salient token added to every question that would lose all, (J,).

    Not in the paper: theta at 1 would otherwise leave a question without any visual token.
    """
    lost = pairs.sum(mask.long()) == 0
    return mask | (pairs.expand(lost) & (rank(rho, pairs) == 0))


def rank(rho: Tensor, pairs: Segments) -> Tensor:
    """Place of each token within its question by falling saliency, (J,) from 0; ties by index."""
    order = pairs.pad(rho, float("-inf")).argsort(dim=1, descending=True, stable=True)
    return pairs.unpad(order.argsort(dim=1))


def budget_counts(keep: float | int | Tensor, pairs: Segments) -> Tensor:
    """Tokens to keep for every question, (Q,), from a share in (0, 1], a count, or counts (Q,).

    Raises ValueError when a share or a count is out of range.
    """
    if isinstance(keep, Tensor):
        return keep.to(pairs.device).clamp_max(pairs.counts)
    if isinstance(keep, int) and keep >= 1:
        return torch.full_like(pairs.counts, keep).clamp_max(pairs.counts)
    if 0 < keep <= 1:
        return (pairs.counts.float() * keep).round().long().clamp_min(1)
    raise ValueError(f"keep={keep}: legal values are a share in (0, 1] or a whole number of tokens")


def budget_threshold(rho: Tensor, counts: Tensor, pairs: Segments) -> Tensor:
    """theta (Q,) that keeps the `counts` most salient tokens: midway to the first dropped one."""
    ordered = pairs.pad(rho, float("-inf")).sort(dim=1, descending=True).values
    last = ordered.gather(1, counts[:, None] - 1).squeeze(1)
    below = ordered.gather(1, counts.clamp_max(pairs.longest - 1)[:, None]).squeeze(1)
    everything = counts == pairs.counts
    return torch.where(everything, last - 1e-6, (last + below.clamp_min(-1.0)) / 2)
