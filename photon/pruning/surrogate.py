"""Surrogate gradient propagation (Eq. 11-17): drop rows forward, restore gradients backward.

Shape suffixes: R packed rows, S rows after dropping, J (question, visual token) pairs, n of them
that stay, Q questions, D width.
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
TINY = 1e-30  # least weight of a key in the soft stage


@dataclass(frozen=True)
class SurrogateConfig:
    """Constants of Eq. 13-17 (A.2.1) and the switches of the profile table."""

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
    """s (J,): m = sum_k |x_k g_k| relative to its mean over the counted tokens (Eq. 15, 16).

    Over max(mean, epsilon) as released, where Eq. 16 prints mean + epsilon: the two differ by a
    share of epsilon / mean, and the maximum leaves small gradients as they are.
    """
    weight = counted.to(m.dtype)
    mean = pairs.sum(m * weight) / pairs.sum(weight).clamp_min(1.0)
    return (m / pairs.expand(mean).clamp_min(EPSILON)).clamp(s_min, s_max)


def row_scores(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """eta = <x, g> and m = sum_k |x_k g_k|, (n,), from x and gradients g (n, D) (Eq. 12, 15)."""
    product = precise(x) * precise(g)
    return product.sum(-1), product.abs().sum(-1)


def surrogate_gradient(
    eta: Tensor, m: Tensor, q: Tensor, keep: Tensor, pairs: Segments, config: SurrogateConfig
) -> Tensor:
    """dL/dq (J,) of every visual token (Eq. 17).

    eta and m (J,), both zero for dropped tokens; q (J,) retention probabilities; keep (J,) boolean.
    """
    counted = keep if config.statistics == "kept" else torch.ones_like(keep)
    scores = importance(eta, config.direction)
    z = standardise(scores, counted, pairs, config.eps_std, config.clip)
    d = 0.5 - psi(z)
    if config.recentre:
        d = d - pairs.expand(pairs.mean(d))
    s = magnitude(m, counted, pairs, config.s_min, config.s_max)
    saturation = (q * (1 - q)).clamp_min(config.eps_sat)
    return config.beta * d * s * saturation


def log_weight(q: Tensor) -> Tensor:
    """log q as a gate: a token then weighs q as a key; 0 at q = 1, and at q = 0 finite (-69).

    Derivative by q: 1 / (q + TINY), finite too where it meets the attention of the key, which is
    proportional to q + TINY. Not in the paper, which scales rows by q.
    """
    return (precise(q) + TINY).log()


def _own_gradient(
    own: Tensor, m: Tensor, q: Tensor, keep: Tensor, weight: Tensor, how: tuple
) -> Tensor:
    """dL/dq (J,) from eta and m of each question's own loss, weighted like that loss.

    SGP is defined on one sample's loss, and its size does not follow that loss. So eta and m are
    taken of the sample's own gradient, and the result is weighted like the loss itself: a batch is
    then the average of its samples, whatever its size or accumulation.
    """
    pairs, config, monitor = how
    monitor["eta_std"] = spread(own, keep, weight > 0, pairs)
    gradient = surrogate_gradient(own, m, precise(q), keep, pairs, config)
    return (gradient * pairs.expand(weight)).to(q.dtype)


def _unweighted(values: Tensor, factor: Tensor) -> Tensor:
    """Gradients without the factor that their question's loss has; zero where that is zero."""
    return torch.where(factor > 0, values / factor.clamp_min(1e-30), 0.0)


class DropTokens(torch.autograd.Function):
    """Gathers the rows that stay (Eq. 11) and gives q the surrogate gradient (Eq. 12-17)."""

    @staticmethod
    def forward(ctx, hidden, q, rows, at, kept, weight, pairs, config, monitor):
        """Rows of `hidden` (R, D) named by `rows` (S,).

        q (J,) retention probabilities; kept (n,) the pairs that stay, and at (n,) where in `rows`
        each has its own; weight (Q,) the factor that each question's own loss has in the total loss
        (zero: no surrogate for it); monitor: a dict that receives `eta_std`, the spread of eta to
        compare with eps_std.
        """
        out = hidden.index_select(0, rows)
        ctx.save_for_backward(out, q, rows, at, kept, weight)
        ctx.shape, ctx.how = hidden.shape, (pairs, config, monitor)
        return out

    @staticmethod
    def backward(ctx, grad):
        out, q, rows, at, kept, weight = ctx.saved_tensors
        grad_hidden = grad.new_zeros(ctx.shape).index_add_(0, rows, grad)
        grad_q = None
        if ctx.needs_input_grad[1]:
            scores = row_scores(out[at], grad[at])
            scores = [s.new_zeros(len(q)).index_copy(0, kept, s) for s in scores]
            factor = ctx.how[0].expand(weight).to(scores[0].dtype)
            eta, m = (_unweighted(s, factor) for s in scores)
            keep = torch.zeros_like(q, dtype=torch.bool).index_fill(0, kept, True)
            grad_q = _own_gradient(eta, m, q, keep, weight, ctx.how)
        return grad_hidden, grad_q, *[None] * 7


class GateTokens(torch.autograd.Function):
    """A gate of zero on every pair (J,), whose gradient becomes that of q: direction `gate`.

    The gate is added to the attention logits of the token where the question reads it, in every
    layer above l, so that its gradient is the derivative of the loss by the token's weight there,
    also where other questions share the row. It takes the place of eta in Eq. 13-17 and its
    absolute value that of m; weight, pairs, config and monitor as in `DropTokens`.
    """

    @staticmethod
    def forward(ctx, q, keep, weight, pairs, config, monitor):
        ctx.save_for_backward(q, keep, weight)
        ctx.how = pairs, config, monitor
        return torch.zeros_like(q)

    @staticmethod
    def backward(ctx, grad):
        q, keep, weight = ctx.saved_tensors
        eta = _unweighted(precise(grad), ctx.how[0].expand(weight).to(precise(grad).dtype))
        return _own_gradient(eta, eta.abs(), q, keep, weight, ctx.how), *[None] * 5
