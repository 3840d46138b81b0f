"""Surrogate gradient propagation (Eq. 11-17): drop rows forward, restore gradients backward.

Shape suffixes: R packed rows, S rows after dropping, J (question, visual token) pairs, Q questions,
D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from photon.packing import Segments
from photon.pruning.saliency import precise

Direction = Literal["paper", "taylor", "magnitude", "gate"]
EPSILON = 1e-6


@dataclass(frozen=True)
class SurrogateConfig:
    """Constants of Eq. 13-17 (A.2.1) and the switches of the profile table (DESIGN, section 5)."""

    direction: Direction = "taylor"
    statistics: Literal["kept", "all"] = "kept"  # tokens over which Eq. 13 and 16 take statistics
    recentre: bool = False  # subtract the mean of d (released code)
    beta: float = 0.8
    eps_std: float = 3e-3
    eps_sat: float = 5e-3
    s_min: float = 0.5
    s_max: float = 2.0
    clip: float = 1.5  # c of Eq. 13: not in the paper, from the released code

    def __post_init__(self) -> None:
        legal = {"direction": get_args(Direction), "statistics": ("kept", "all")}
        for key, values in legal.items():
            if getattr(self, key) not in values:
                raise ValueError(f"pruner.{key}={getattr(self, key)!r}: legal values are {values}")
        for key in ("eps_std", "eps_sat", "clip"):
            if getattr(self, key) <= 0:
                raise ValueError(f"pruner.{key}={getattr(self, key)}: must be positive")
        if not 0 <= self.s_min <= self.s_max:
            raise ValueError(f"pruner.s_min={self.s_min}: must lie in [0, s_max={self.s_max}]")


def importance(eta: Tensor, direction: Direction) -> Tensor:
    """What a direction promotes most, (J,) (Eq. 12), from eta (J,).

    eta = <x, g> predicts that removing the token changes the loss by -eta (A.1.4), so a useful
    token has eta < 0. `paper` promotes large eta as Eq. 14 is printed, `taylor` promotes a large
    predicted loss increase -eta, `magnitude` promotes |eta|. `gate` does as `taylor` with another
    eta, the derivative by the token's weight as a key (docs/surrogate_sign.md; not in the paper).
    """
    return {"paper": eta, "taylor": -eta, "magnitude": eta.abs(), "gate": -eta}[direction]


def standardise(
    eta: Tensor, counted: Tensor, pairs: Segments, eps_std: float, clip: float
) -> Tensor:
    """z (J,): eta centred and scaled by the statistics of the counted tokens, clipped (Eq. 13).

    Zero for every token of a question whose counted scores do not vary: they rank nothing.
    """
    weight = counted.to(eta.dtype)
    n = pairs.sum(weight).clamp_min(1.0)
    mean = pairs.sum(eta * weight) / n
    centred = eta - pairs.expand(mean)
    std = (pairs.sum(centred.square() * weight) / n).sqrt()
    z = (centred / pairs.expand(std.clamp_min(eps_std))).clamp(-clip, clip)
    return z * pairs.expand(std > 0)


def spread(eta: Tensor, keep: Tensor, use: Tensor, pairs: Segments) -> Tensor:
    """Std(eta) over the kept tokens, averaged over the questions in `use` (Q,): against eps_std."""
    weight = keep.to(eta.dtype)
    n = pairs.sum(weight).clamp_min(1.0)
    centred = (eta - pairs.expand(pairs.sum(eta * weight) / n)) * weight
    std = (pairs.sum(centred.square()) / n).sqrt()
    return (std * use).sum() / use.sum().clamp_min(1)


def psi(z: Tensor) -> Tensor:
    """r in (0, 1), monotonic with psi(0) = 0.5: 0.5 + 0.5 tanh(z), as released (Eq. 14)."""
    return 0.5 + 0.5 * torch.tanh(z)


def magnitude(m: Tensor, counted: Tensor, pairs: Segments, s_min: float, s_max: float) -> Tensor:
    """s (J,): m = sum_k |x_k g_k| relative to its mean over the counted tokens (Eq. 15, 16)."""
    weight = counted.to(m.dtype)
    mean = pairs.sum(m * weight) / pairs.sum(weight).clamp_min(1.0)
    return (m / (pairs.expand(mean) + EPSILON)).clamp(s_min, s_max)


def surrogate_gradient(
    x: Tensor, g: Tensor, q: Tensor, keep: Tensor, pairs: Segments, config: SurrogateConfig
) -> Tensor:
    """dL/dq (J,) of every visual token (Eq. 17).

    x and g (J, D): activations, and gradients that are zero for dropped tokens; q (J,) retention
    probabilities; keep (J,) boolean.
    """
    product = precise(x) * precise(g)
    return from_scores(product.sum(-1), product.abs().sum(-1), q, keep, pairs, config)


def from_scores(
    eta: Tensor, m: Tensor, q: Tensor, keep: Tensor, pairs: Segments, config: SurrogateConfig
) -> Tensor:
    """dL/dq (J,) from eta (Eq. 12) and m (Eq. 15), both (J,) and zero for dropped tokens."""
    counted = keep if config.statistics == "kept" else torch.ones_like(keep)
    scores = importance(eta, config.direction)
    z = standardise(scores, counted, pairs, config.eps_std, config.clip)
    d = 0.5 - psi(z)
    if config.recentre:
        d = d - pairs.expand(pairs.mean(d))
    s = magnitude(m, counted, pairs, config.s_min, config.s_max)
    saturation = (q * (1 - q)).clamp_min(config.eps_sat)
    return config.beta * d * s * saturation


class DropTokens(torch.autograd.Function):
    """Gathers the rows that stay (Eq. 11) and gives q the surrogate gradient (Eq. 12-17)."""

    @staticmethod
    def forward(ctx, hidden, q, rows, pair_row, kept_at, keep, weight, pairs, config, monitor):
        """Rows of `hidden` (R, D) named by `rows` (S,).

        q (J,) retention probabilities; pair_row (J,) the row of `hidden` behind each pair; keep
        (J,) boolean; kept_at (kept,) where in `rows` the kept pairs stand; weight (Q,) the factor
        that each question's own loss has in the total loss (zero: no surrogate for it); monitor: a
        dict that receives `eta_std`, the spread of eta to compare with eps_std.
        """
        ctx.save_for_backward(hidden, q, rows, pair_row, kept_at, keep, weight)
        ctx.pairs, ctx.config, ctx.monitor = pairs, config, monitor
        return hidden.index_select(0, rows)

    @staticmethod
    def backward(ctx, grad):
        hidden, q, rows, pair_row, kept_at, keep, weight = ctx.saved_tensors
        grad_hidden = torch.zeros_like(hidden).index_add_(0, rows, grad.to(hidden.dtype))
        grad_q = None
        if ctx.needs_input_grad[1]:
            # SGP is defined on one sample's loss, and its size does not follow that loss. Undo the
            # sample's weight to get its own gradient, and weight the result like the loss itself:
            # a batch is then the average of its samples, whatever its size or accumulation.
            factor = ctx.pairs.expand(weight)[:, None].to(torch.float32)
            own = torch.zeros(len(q), grad.shape[1], dtype=precise(grad).dtype, device=q.device)
            own[keep] = precise(grad[kept_at])
            own = torch.where(factor > 0, own / factor.clamp_min(1e-30), 0.0)
            x = precise(hidden[pair_row])
            ctx.monitor["eta_std"] = spread((x * own).sum(-1), keep, weight > 0, ctx.pairs)
            grad_q = surrogate_gradient(x, own, precise(q), keep, ctx.pairs, ctx.config)
            grad_q = (grad_q * factor.squeeze(1)).to(q.dtype)
        return grad_hidden, grad_q, *[None] * 8


class GateTokens(torch.autograd.Function):
    """A gate of zero on every pair (J,), whose gradient becomes that of q: direction `gate`.

    The gate is added to the attention logits of the token as a key in every layer above l, so that
    its gradient is the derivative of the loss by the token's weight there. It takes the place of
    eta in Eq. 13-17; arguments as in `DropTokens`.
    """

    @staticmethod
    def forward(ctx, q, keep, weight, pairs, config, monitor):
        ctx.save_for_backward(q, keep, weight)
        ctx.pairs, ctx.config, ctx.monitor = pairs, config, monitor
        return torch.zeros_like(q)

    @staticmethod
    def backward(ctx, grad):
        q, keep, weight = ctx.saved_tensors
        factor = ctx.pairs.expand(weight).to(torch.float32)
        own = torch.where(factor > 0, precise(grad) / factor.clamp_min(1e-30), 0.0)
        ctx.monitor["eta_std"] = spread(own, keep, weight > 0, ctx.pairs)
        grad_q = from_scores(own, own.abs(), precise(q), keep, ctx.pairs, ctx.config)
        return (grad_q * factor).to(q.dtype), *[None] * 5
