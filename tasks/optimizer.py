"""Muon for the hidden matrices with AdamW for the rest, as one optimiser.

Muon alone takes no embedding, vector or convolution, and Lightning steps one optimiser by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer

from photon.annotations import Fraction, NonNegative, Positive

Closure = Callable[[], float] | None


class Together(Optimizer):
    """Several optimisers that step as one; schedules act on the groups of all of them."""

    def __init__(self, *parts: Optimizer):
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Closure = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def muon_with_adamw(
    groups: Iterable[dict],
    lr: Positive,
    betas: tuple[Fraction, Fraction] = (0.9, 0.95),
    weight_decay: NonNegative = 0.05,
) -> Together:
    """Muon on the groups marked `hidden` (see `parameter_groups`), AdamW on the others.

    Muon's update is scaled to the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM
    training"), so that both take the same rate and decay.
    """
    groups = list(groups)
    return Together(
        Muon(
            [group for group in groups if group["hidden"]],
            lr=lr,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        AdamW(
            [group for group in groups if not group["hidden"]],
            lr=lr,
            betas=tuple(betas),
            weight_decay=weight_decay,
        ),
    )
