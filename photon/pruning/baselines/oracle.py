"""Oracle masks: the evidence first. What a perfect choice of tokens could reach at a budget."""

from __future__ import annotations

import numpy as np

from photon.pruning.baselines.uniform import strided


def oracle_mask(share: np.ndarray, count: int) -> np.ndarray:
    """Bool mask of `count` tokens, flat: those that the evidence covers most, then a stride.

    share: part of every token that the question's evidence covers, any shape, in grid order. Where
    fewer than `count` tokens touch the evidence, the rest are taken at equal steps from the others,
    so that the context of the volume is sampled evenly; a question without evidence gets a uniform
    stride. Ties in coverage go to the lower index.
    """
    share = np.asarray(share).ravel()
    if not 0 <= count <= share.size:
        raise ValueError(f"count={count} must be within 0..{share.size}")
    order = np.argsort(-share, kind="stable")
    covered = order[: min(count, np.count_nonzero(share))]
    mask = np.zeros(share.size, dtype=bool)
    mask[covered] = True
    others = np.flatnonzero(~mask)
    mask[others[strided(count - covered.size, others.size).numpy()]] = True
    return mask
