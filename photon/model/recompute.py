"""Activation checkpointing: memory for time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable, *args, on: bool):
    """function(*args); where `on` and a gradient is wanted, its inside is computed again for it.

    Only arguments and results are kept between the passes. Not in the paper.
    """
    if on and torch.is_grad_enabled():
        return checkpoint(function, *args, use_reentrant=False)
    return function(*args)
