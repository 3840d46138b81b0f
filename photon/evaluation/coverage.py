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


def evidence_recall(share: np.ndarray, keep: np.ndarray) -> float | None:
    """Part of an organ's tokens that is kept (Table 12), in [0, 1]; None if it covers no token.

    share [d, h, w]: from `token_coverage`; keep: bool, same size (flat in d, h, w order will do). A
    random choice of tokens keeps, on average, the keep ratio: compare with that.
    """
    keep = np.asarray(keep, dtype=bool)
    if keep.size != share.size:
        raise ValueError(f"keep has {keep.size} tokens but share has {share.size}")
    organ = share > 0
    return float(keep.reshape(share.shape)[organ].mean()) if organ.any() else None
