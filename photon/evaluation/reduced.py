"""Less of a volume in its place: fewer voxels, or a few slices, as controls of pruning.

Shape suffixes: C input channels, D, H, W voxels of a prepared volume.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from photon.batch.builder import Visual
from photon.errors import InputError
from photon.volume.types import Frames

Grid = tuple[int, int, int]


def coarse_grid(grid: Grid, count: int) -> Grid:
    """The grid of at most `count` tokens, at least one, that keeps most of a volume's shape.

    Among those that use four fifths of the tokens or more (or as many as any does), the one whose
    axes shrink most alike; ties go to more tokens.
    """
    sizes = [g for g in product(*(range(1, n + 1) for n in grid)) if np.prod(g) <= count]
    most = max(np.prod(g) for g in sizes) if sizes else 1
    enough = [g for g in sizes if np.prod(g) >= min(most, 0.8 * count)] or [(1, 1, 1)]

    def uneven(g: Grid) -> tuple[float, int]:
        scales = [a / b for a, b in zip(g, grid, strict=True)]
        return max(scales) / min(scales), -int(np.prod(g))

    return min(enough, key=uneven)


def coarser(volume: Visual, keep: float | int, token: Grid) -> Tensor:
    """A volume (C, D, H, W) or (D, H, W), resampled so that it has at most a budget of tokens.

    keep: share or count. token: voxels of one token. Means over voxels. Raises InputError for
    images and videos.
    """
    shape = _volume(volume).shape[-3:]
    grid = tuple(n // t for n, t in zip(shape, token, strict=True))
    count = keep if isinstance(keep, int) else max(1, round(keep * int(np.prod(grid))))
    size = [n * t for n, t in zip(coarse_grid(grid, count), token, strict=True)]
    channels = volume.reshape(1, -1, *shape).float()
    out = F.interpolate(channels, size, mode="area")
    return out.reshape(*volume.shape[:-3], *size).to(volume.dtype)


def only_slices(
    volume: Visual, n: int, depth: int, labels: np.ndarray | None, evidence: Collection[int]
) -> Tensor:
    """`n` axial slices of a volume, each repeated to the `depth` voxels of a token: (..., n depth,
    H, W). Of what `evidence` marks in `labels` (D, H, W), or of the volume where it marks nothing.
    """
    depths = evidence_slices(labels, evidence, n, _volume(volume).shape[-3])
    return torch.cat([volume[..., z : z + 1, :, :].expand(*volume.shape[:-3], depth, -1, -1)
                      for z in depths], -3)  # fmt: skip


def evidence_slices(
    labels: np.ndarray | None, evidence: Collection[int], n: int, total: int
) -> list[int]:
    """One slice: where the evidence is largest. Several: in the middle of equal parts of it.

    Without evidence in sight, of the `total` slices of the volume.
    """
    area = np.zeros(total)
    if labels is not None and evidence:
        area = np.isin(labels, list(evidence)).sum((1, 2)).astype(float)
    if not area.any():
        area = np.ones(total)
    elif n == 1:
        return [int(area.argmax())]
    reached = np.cumsum(area) / area.sum()
    return [int(np.searchsorted(reached, (i + 0.5) / n)) for i in range(n)]


def _volume(volume: Visual) -> Tensor:
    if isinstance(volume, Frames):
        raise InputError(
            "lower_resolution and slices are of volumes, and this is an image or a video: leave "
            "these controls out"
        )
    return volume
