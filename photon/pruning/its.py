"""Instruction-conditioned token scheduling: saliency, threshold and retention in one pruner."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from photon.annotations import Budget, Count, Fraction, NonNegative, Positive, PositiveShare
from photon.batch.layout import Tail, check_tail
from photon.packing import Segments
from photon.pruning.base import Keep, PruneContext, Selection
from photon.pruning.retention import (
    budget_counts,
    budget_threshold,
    hard_mask,
    keep_top_token,
    rank,
    retention_probability,
)
from photon.pruning.saliency import (
    instruction_saliency,
    instruction_weights,
    min_max,
    uniform_weights,
)
from photon.pruning.surrogate import Direction, SurrogateConfig
from photon.pruning.threshold import ThresholdPredictor, threshold_features


class PhotonPruner(nn.Module):
    """The paper's pruner with every switch of the three profiles (docs/method.md).

    Args:
        layer: share of decoder layers that run at full length (paper: 1/4).
        tau: temperature of Eq. 8.
        self_affinity: weight instruction tokens by Eq. 3-4; uniformly if false (Table 4).
        score_gradient: let the gradient reach the queries and keys through rho; the released code
            detaches them, so that only the threshold learns.
        score_rope: score with the rotary embedding in queries and keys.
        theta_scale: factor on sigmoid in Eq. 7 (released code: 0.9).
        theta_noise: relative uniform noise on theta at inference (Table 8: 0.1).
        theta: a constant threshold in [0, 1) in place of the learned one, or None.
        keep: a fixed budget (share or count) in place of the learned threshold, or None.
        hidden: width of the threshold predictor (released code: an eighth of the model's).
        tail: how the questions of a volume share rows above l, see `photon.batch.layout.lay_out`;
            where they share (union, all), direction must be gate.
        as_released: compute rho and theta with the released code's roundings: Eq. 4 over no less
            than 1, 1e-8 added to the range of u, and u, the 12 features and the predictor in the
            model's precision. In a bfloat16 model 2 to 8 of 1,000 tokens are kept otherwise.
        direction, statistics, recentre, beta, eps_std, eps_sat, s_min, s_max, clip: see
            `SurrogateConfig`.
    """

    def __init__(
        self,
        layer: Fraction = 0.25,
        tau: Positive = 0.2,
        self_affinity: bool = True,
        score_gradient: bool = True,
        score_rope: bool = True,
        theta_scale: PositiveShare = 1.0,
        theta_noise: Fraction = 0.0,
        theta: Fraction | None = None,
        keep: Budget | None = None,
        hidden: Count = 256,
        tail: Tail = "question",
        as_released: bool = False,
        direction: Direction = "taylor",
        statistics: Literal["kept", "all"] = "kept",
        recentre: bool = False,
        beta: NonNegative = 0.8,
        eps_std: Positive = 3e-3,
        eps_sat: Positive = 5e-3,
        s_min: NonNegative = 0.5,
        s_max: NonNegative = 2.0,
        clip: Positive = 1.5,
    ):
        self_options = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.options = self_options
        if tau <= 0:
            raise ValueError(f"pruner.tau={tau}: must be positive")
        if not 0 <= theta_noise < 1:
            raise ValueError(f"pruner.theta_noise={theta_noise}: legal values lie in [0, 1)")
        if theta is not None and not 0 <= theta < 1:
            raise ValueError(f"pruner.theta={theta}: legal values lie in [0, 1)")
        if check_tail(tail) != "question" and direction != "gate":
            raise ValueError(
                f"pruner.tail={tail} with pruner.direction={direction}: where questions share a "
                "row, its gradient is the sum of theirs, and only the gate tells them apart; set "
                "pruner.direction=gate or pruner.tail=question"
            )
        self.tail = tail
        self.layer = layer
        self.tau = tau
        self.self_affinity = self_affinity
        self.score_gradient = score_gradient
        self.score_rope = score_rope
        self.theta_noise = theta_noise
        self.theta = theta
        self.keep = keep
        self.as_released = as_released
        self.surrogate = SurrogateConfig(
            direction, statistics, recentre, beta, eps_std, eps_sat, s_min, s_max, clip
        )
        self.monitor: dict[str, Tensor] = {}
        self.predictor = ThresholdPredictor(hidden, theta_scale)

    @property
    def is_trained(self) -> bool:
        """Whether the threshold predictor has ever been updated: its biases start at zero."""
        return bool(self.predictor.mlp[0].bias.any() or self.predictor.mlp[2].bias.any())

    def select(
        self,
        context: PruneContext,
        keep: Keep = None,
        generator: torch.Generator | None = None,
    ) -> Selection:
        """Scores, threshold and mask of every (question, visual token) pair (Eq. 3-9).

        A question without instruction tokens has nothing to select by and keeps everything.
        """
        if not self.score_gradient:
            context = replace(
                context,
                queries=context.queries.detach(),
                keys=context.keys.detach(),
                visual_keys=context.visual_keys.detach(),
            )
        pairs = context.pairs
        u = self.saliency(context)
        rho = min_max(u, pairs, 1e-8 if self.as_released else 0.0)
        keep = self.keep if keep is None else keep
        if keep is None:
            theta = self.threshold(u, rho, pairs, context.queries.dtype)
            if not context.training and self.theta_noise:
                theta = theta * self._noise(theta, generator)
            prob = retention_probability(rho, theta, self.tau, pairs)
            mask = keep_top_token(hard_mask(prob.detach()), rho.detach(), pairs)
        else:
            counts = budget_counts(keep, pairs)
            theta = budget_threshold(rho.detach(), counts, pairs)
            prob = retention_probability(rho, theta, self.tau, pairs)
            mask = rank(rho.detach(), pairs) < pairs.expand(counts)
        empty = context.text.counts == 0
        if 0 in context.text.lengths:
            warnings.warn("a question without instruction tokens keeps all of them", stacklevel=2)
        mask = mask | pairs.expand(empty)
        return Selection(mask, pairs, scores=rho, prob=prob, theta=theta)

    def threshold(
        self, u: Tensor, rho: Tensor, pairs: Segments, precision: torch.dtype | None = None
    ) -> Tensor:
        """theta (Q,) of raw saliency u and saliency rho (J,) (Eq. 6, 7), or the constant one.

        precision: the model's, in which the released code computes it.
        """
        if self.theta is not None:
            return torch.full((len(pairs),), self.theta, dtype=rho.dtype, device=rho.device)
        features = threshold_features(u, rho, pairs)
        return self.predictor(features.to(precision) if self.as_released else features)

    def saliency(self, context: PruneContext) -> Tensor:
        """Raw saliency u of every (question, visual token) pair, (J,) (Eq. 5)."""
        least = 1.0 if self.as_released else 0.0
        weights = (
            instruction_weights(context.queries, context.keys, context.text, least)
            if self.self_affinity
            else uniform_weights(context.queries, context.text)
        )
        u = instruction_saliency(
            context.queries,
            weights,
            context.visual_keys,
            context.text,
            context.visual,
            context.volume_of,
        )
        return u.to(context.queries.dtype).to(u.dtype) if self.as_released else u

    def _noise(self, theta: Tensor, generator: torch.Generator | None) -> Tensor:
        draw = torch.rand(theta.shape, generator=generator, dtype=torch.float32).to(theta)
        return 1 + self.theta_noise * (2 * draw - 1)
