"""What label maps say about visual tokens, as training targets. Not in the paper.

A tiny model that starts from nothing learns to see from these; where label maps exist, they can
also teach saliency where the evidence lies (docs/decisions.md).

Shape suffixes: V visual tokens of a volume, C label ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def token_statistics(
    labels: np.ndarray, volume: np.ndarray, n_labels: int, token: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Share of every token that each label covers, and the label's mean intensity there.

    labels (D, H, W) integers below n_labels; volume (D, H, W) float; token: voxels of a token along
    depth, height, width. Two float32 arrays (V, C), tokens in grid order; 0 where a label is
    absent.
    """
    d, h, w = (n // t for n, t in zip(labels.shape, token, strict=True))
    place = np.arange(d * h * w).reshape(d, 1, h, 1, w, 1)
    blocks = labels.reshape(d, token[0], h, token[1], w, token[2]).astype(np.int64)
    cell = (place * n_labels + blocks).ravel()
    size = d * h * w * n_labels
    count = np.bincount(cell, minlength=size).reshape(-1, n_labels)
    total = np.bincount(cell, volume.reshape(blocks.shape).ravel(), size).reshape(-1, n_labels)
    share = count / float(token[0] * token[1] * token[2])
    return share.astype(np.float32), (total / np.maximum(count, 1)).astype(np.float32)


def evidence_share(share: np.ndarray, evidence: Sequence[int]) -> np.ndarray:
    """(V,) share of every token that the evidence labels cover together."""
    return share[:, list(evidence)].sum(1)
