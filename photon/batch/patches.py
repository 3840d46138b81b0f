"""Cutting volumes into patch rows, and what follows from the patch grid alone (Eq. 1).

Shape suffixes: P patches of a grid.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

Grid = tuple[int, int, int]  # patches along depth, height and width


def patch_grid(shape: Grid, patch: Grid) -> Grid:
    """Patches along each axis of a (D, H, W) volume; ValueError where an axis does not divide."""
    if any(n % p for n, p in zip(shape, patch, strict=True)):
        raise ValueError(
            f"a volume of {shape} voxels does not divide into patches of {patch}: "
            "set preparation.size to multiples of the patch"
        )
    return tuple(n // p for n, p in zip(shape, patch, strict=True))


def patchify(volume: Tensor, patch: Grid, merge: int = 2) -> Tensor:
    """Cut a (C, D, H, W) volume into patch rows (P, C * patch voxels) (Eq. 1).

    Rows run over depth, then merge groups in plane, then the patches of a group; voxels of a row
    over channel, depth, height, width: the layout of the stock Qwen2.5-VL video processor.
    """
    channels = volume.shape[0]
    d, h, w = patch_grid(tuple(volume.shape[1:]), patch)
    pd, ph, pw = patch
    blocks = volume.reshape(channels, d, pd, h // merge, merge, ph, w // merge, merge, pw)
    rows = blocks.permute(1, 3, 6, 4, 7, 0, 2, 5, 8)
    return rows.reshape(d * h * w, channels * pd * ph * pw)


def holds_something(patches: Tensor, level: float, merge: int) -> Tensor:
    """(V,) true at tokens with a voxel above `level`, of patch rows (P, voxels).

    True at all tokens where none has one: a blank volume is still a volume. Not in the paper: air
    and padding are two thirds of the patches of a CT in its input (docs/results.md).
    """
    present = patches.amax(1).unflatten(0, (-1, merge * merge)).amax(1) > level
    return present if bool(present.any()) else torch.ones_like(present)


@lru_cache(maxsize=64)
def patch_coordinates(grid: Grid, merge: int) -> Tensor:
    """(P, 2) height and width index of every patch row of one volume, in `patchify` order."""
    d, h, w = grid
    rows = torch.arange(h)[:, None].expand(h, w)
    columns = torch.arange(w)[None, :].expand(h, w)
    plane = torch.stack([rows, columns], -1)
    plane = plane.reshape(h // merge, merge, w // merge, merge, 2).transpose(1, 2).reshape(-1, 2)
    return plane.repeat(d, 1)


@lru_cache(maxsize=64)
def window_order(grid: Grid, merge: int, window: int) -> tuple[Tensor, list[int]]:
    """Order of patch rows that brings each attention window together, and the windows' lengths.

    `window` is a window's edge in merged tokens (window_size / patch / merge). Windows tile each
    depth slab; those at the far edges are smaller. Source: Qwen2.5-VL, section 2.1.1.
    """
    d, h, w = grid[0], grid[1] // merge, grid[2] // merge
    token = torch.arange(d * h * w).reshape(d, h, w)
    tiles = [
        token[z, y : y + window, x : x + window].flatten()
        for z in range(d)
        for y in range(0, h, window)
        for x in range(0, w, window)
    ]
    unit = merge * merge
    rows = torch.cat(tiles)[:, None] * unit + torch.arange(unit)
    return rows.flatten(), [len(tile) * unit for tile in tiles]


@lru_cache(maxsize=64)
def table_corners(grid: Grid, merge: int, side: int) -> tuple[Tensor, Tensor]:
    """The four rows of a (side * side, C) position table around every patch, and their weights.

    Both (P, 4), in `patchify` order; bilinear, the grid's corners on the table's. Source:
    Qwen3-VL, section 2; float32, as in the stock class.
    """
    place = patch_coordinates(grid, merge)
    steps = torch.tensor(grid[1:]).sub(1).clamp(min=1)
    at = place.float() * (side - 1) / steps
    low = at.floor()
    two = torch.arange(2)
    share = 1 - ((at - low)[..., None] - two).abs()
    near = (low.long()[..., None] + two).clamp(max=side - 1)
    rows, columns = near.unbind(1)
    by_row, by_column = share.unbind(1)
    corners = rows[:, :, None] * side + columns[:, None]
    return corners.flatten(1), (by_row[:, :, None] * by_column[:, None]).flatten(1)
