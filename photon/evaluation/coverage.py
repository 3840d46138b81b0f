"""How much of an organ's mask falls into kept tokens.

Shape suffixes: D H W voxels of the model's input; d h w tokens. A token is `token` voxels,
14x28x28: a 14^3 patch, merged 2x2 in plane. Masks must lie on the grid of the model's input, flips
included.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from photon.errors import InputError

TOKEN = (14, 28, 28)


def token_coverage(
    labels: np.ndarray, ids: Collection[int], token: tuple[int, int, int] = TOKEN
) -> np.ndarray:
    """Share of each token's voxels whose label is one of `ids`: [D, H, W] -> float32 [d, h, w].

    An empty `ids` covers nothing. InputError if a side is not a multiple of the token's.
    """
    if labels.ndim != 3 or any(s % t for s, t in zip(labels.shape, token, strict=True)):
        raise InputError(
            f"label map of shape {tuple(labels.shape)} does not divide into tokens of {token} "
            "voxels. Load it with the geometry of the model's input."
        )
    inside = np.isin(labels, sorted(ids))
    d, h, w = (s // t for s, t in zip(labels.shape, token, strict=True))
    blocks = inside.reshape(d, token[0], h, token[1], w, token[2])
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def evidence_recall(
    share: np.ndarray, keep: np.ndarray, threshold: float = 0.0, by_volume: bool = False
) -> float | None:
    """Part of an organ that is kept (Table 12), in [0, 1]; None if the organ covers no token.

    share [d, h, w]: from `token_coverage`; keep: bool, same size (flat in d, h, w order will do). A
    token belongs to the organ if more than `threshold` of it is covered. `by_volume` weighs tokens
    by the organ's share in them, which needs no threshold. A random choice of tokens keeps, on
    average, the keep ratio: compare with that.
    """
    keep = np.asarray(keep, dtype=bool)
    if keep.size != share.size:
        raise ValueError(f"keep has {keep.size} tokens but share has {share.size}")
    positive = share > threshold
    weight = (share * positive if by_volume else positive).astype(np.float64)
    total = weight.sum()
    return float((weight * keep.reshape(share.shape)).sum() / total) if total > 0 else None


def voxel_mask(keep: np.ndarray, token: tuple[int, int, int] = TOKEN) -> np.ndarray:
    """Token mask or scores [d, h, w] repeated to voxels [D, H, W]."""
    out = np.asarray(keep)
    for axis, size in enumerate(token):
        out = out.repeat(size, axis=axis)
    return out
