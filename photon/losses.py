"""The losses of Phase 2 and how they combine (Eq. 18-21), and pointing, which masks supervise.

Shape suffixes: A supervised rows, Q questions, J (question, visual token) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from photon.annotations import NonNegative, Share
from photon.packing import Segments
from photon.pruning.base import Selection
from photon.pruning.retention import straight_through

EPSILON = 1e-6


def answer_loss(logits: Tensor, targets: Tensor, questions: Segments) -> Tensor:
    """L_CE of every question, (Q,): mean over its answer tokens of -log p(y|x) (Eq. 21).

    logits (A, vocabulary), targets (A,).
    """
    return questions.mean(F.cross_entropy(logits.float(), targets, reduction="none"))


def retention_ratio(selection: Selection, on: Literal["soft", "hard"]) -> Tensor:
    """r of every question, (Q,) (Eq. 18): mean of q, or of the straight-through mask (Eq. 10).

    With tau 0.2 a soft ratio inside the band can go with a hard ratio far below it; `hard` makes
    the band act on what is really kept, with the gradient of q.
    """
    if on == "soft":
        return selection.pairs.mean(selection.prob)
    return selection.pairs.mean(straight_through(selection.prob, selection.keep))


def band_loss(ratio: Tensor, low: float, high: float) -> Tensor:
    """L_band of every question, (Q,): distance of r from [low, high] (Eq. 18)."""
    return (ratio - high).relu() + (low - ratio).relu()


def robust_loss(logits: Tensor, questions: Segments) -> Tensor:
    """L_robust of every question, (Q,): minus the mean entropy of its answer rows (Eq. 19)."""
    log_p = logits.float().log_softmax(-1)
    return questions.mean((log_p.exp() * log_p).sum(-1))


def flip_loss(logits: Tensor, targets: Tensor, questions: Segments) -> Tensor:
    """L_flip of every question, (Q,): mean of -log(1 - p(y|x) + eps) (Eq. 20)."""
    log_p = logits.float().log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    return questions.mean(-torch.log1p(EPSILON - log_p.exp()))


def pointing_loss(u: Tensor, share: Tensor, pairs: Segments, least: float = 0.02) -> Tensor:
    """KL from where the evidence lies to softmax(u), mean over the segments that have evidence.

    Not in the paper: masks teach a score where to look. u (J,) raw saliency (Eq. 5) or attention
    logits, share (J,) of every pair's visual token that the evidence covers. A segment whose shares
    add up to less than `least` of a token has no evidence; zero where no segment has any.
    """
    target = pairs.pad(share)
    total = target.sum(1, keepdim=True)
    known = total.squeeze(1) > least
    target = target / total.clamp_min(EPSILON)
    log_p = pairs.pad(u.float(), float("-inf")).log_softmax(1)
    log_p = torch.where(target > 0, log_p, 0.0)
    gap = (target * (target.clamp_min(1e-9).log() - log_p)).sum(1)
    return (gap * known).sum() / known.sum().clamp_min(1)


@dataclass(frozen=True)
class Band:
    """Soft retention band (Eq. 18). Bounds: A.2.1. `on`: see `retention_ratio`."""

    low: Share = 0.3
    high: Share = 0.8
    weight: NonNegative = 1.0
    on: Literal["soft", "hard"] = "hard"

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(
                f"band.low={self.low}, band.high={self.high}: legal: 0 <= low <= high <= 1"
            )
        if self.on not in ("soft", "hard"):
            raise ValueError(f"band.on={self.on!r}: legal values are soft, hard")


@dataclass(frozen=True)
class Occasional:
    """A loss that is drawn with a probability. Not in the paper: values of the released code."""

    probability: Share
    weight: NonNegative = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability}: legal values lie in [0, 1]")


@dataclass(frozen=True)
class Robust(Occasional):
    """Perturbed volumes (Eq. 19). exact: see `perturb`; False is the released code."""

    exact: bool = True


@dataclass(frozen=True)
class Routing:
    """Which question is trained on what, (Q,) booleans (Eq. 21)."""

    answer: Tensor  # cross-entropy and band
    robust: Tensor
    flip: Tensor

    @staticmethod
    def draw(
        volume_of: Tensor,
        n_volumes: int,
        robust: float,
        flip: float,
        routing: Literal["paper", "exclusive"],
        generator: torch.Generator | None = None,
    ) -> Routing:
        """Draw perturbed volumes and flipped questions with probabilities `robust` and `flip`.

        A perturbed volume serves all of its questions. routing: `paper` adds the flip term to the
        answer's loss (Eq. 21); `exclusive` trains a flipped question on the flip term alone, as the
        released code does.
        """
        # With bf16 weights Lightning makes bf16 the default, whose draws may be others.
        perturbed = torch.rand(n_volumes, generator=generator, dtype=torch.float32) < robust
        is_robust = perturbed[volume_of]
        draw = torch.rand(len(volume_of), generator=generator, dtype=torch.float32) < flip
        flipped = draw & ~is_robust
        answer = ~is_robust & ~flipped if routing == "exclusive" else ~is_robust
        return Routing(answer, is_robust, flipped)
