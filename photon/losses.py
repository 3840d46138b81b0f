"""The four losses of Phase 2 and how they combine (Eq. 18-21).

Shape suffixes: A supervised rows, Q questions, J (question, visual token) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

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


@dataclass(frozen=True)
class LossConfig:
    """Weights, probabilities and the band (A.2.1; where the paper is silent, the released code).

    routing: `paper` adds the flip term to whatever else a question is trained on (Eq. 21);
    `exclusive` trains a flipped question on the flip term alone, as the released code does.
    robust_probability is drawn a volume (a perturbed volume serves all of its questions),
    flip_probability a question.
    """

    band_low: float = 0.3
    band_high: float = 0.8
    band_weight: float = 1.0
    band_on: Literal["soft", "hard"] = "hard"
    robust_probability: float = 0.15
    robust_weight: float = 1.0
    flip_probability: float = 0.05
    flip_weight: float = 1.0
    routing: Literal["paper", "exclusive"] = "paper"

    def __post_init__(self) -> None:
        if not 0 <= self.band_low <= self.band_high <= 1:
            raise ValueError(
                f"task.loss.band_low={self.band_low}, band_high={self.band_high}: legal values are "
                "0 <= band_low <= band_high <= 1"
            )
        for key in ("robust_probability", "flip_probability"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"task.loss.{key}={getattr(self, key)}: legal values lie in [0, 1]")
        for key, legal in {"band_on": ("soft", "hard"), "routing": ("paper", "exclusive")}.items():
            if getattr(self, key) not in legal:
                raise ValueError(f"task.loss.{key}={getattr(self, key)!r}: legal values: {legal}")


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
        config: LossConfig,
        flip: bool,
        generator: torch.Generator | None = None,
    ) -> Routing:
        """Draw perturbed volumes and flipped questions; `flip` false before flipping begins."""
        perturbed = torch.rand(n_volumes, generator=generator) < config.robust_probability
        robust = perturbed[volume_of]
        draw = torch.rand(len(volume_of), generator=generator) < config.flip_probability
        flipped = draw & ~robust if flip else torch.zeros_like(robust)
        answer = ~robust
        if config.routing == "exclusive":
            answer = answer & ~flipped
        return Routing(answer, robust, flipped)
