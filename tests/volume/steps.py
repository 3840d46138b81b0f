"""The steps of a preparation one after the other, to hold `prepare_volume` against."""

from dataclasses import replace

import numpy as np
import torch

from photon.volume.geometry import AIR, cropped_grid, resampled_grid, resized_grid, sample_grids
from photon.volume.sampling import apply_axes, axis_matrix
from photon.volume.types import Volume


def resample(volume: Volume, spacing: tuple[float, float, float], antialias: bool = True) -> Volume:
    """`volume` with voxels of `spacing` (D, H, W) mm along the patient's axes (ITK RAI order)."""
    grid = resampled_grid(volume.array.shape, volume.affine, spacing)
    out = sample_grids(volume.array, volume.affine, [grid], antialias, AIR)
    return replace(volume, array=out.numpy(), affine=grid[1])


def center_crop(volume: Volume, crop: tuple[int, int, int], fill: float = AIR) -> Volume:
    """Central `crop` (D, H, W) voxels; missing ones are `fill`."""
    shape, affine = cropped_grid((volume.array.shape, volume.affine), crop)
    out = np.full(shape, fill, dtype=volume.array.dtype)
    start = [(n - c) // 2 for n, c in zip(volume.array.shape, crop, strict=True)]
    pairs = list(zip(start, volume.array.shape, crop, strict=True))
    into = tuple(slice(max(0, -s), min(c, n - s)) for s, n, c in pairs)
    taken = tuple(slice(max(0, s), min(n, s + c)) for s, n, c in pairs)
    out[into] = volume.array[taken]
    return replace(volume, array=out, affine=affine)


def resize(volume: Volume, size: tuple[int, int, int], antialias: bool = True) -> Volume:
    """`size` (D, H, W) voxels over the same extent, along the volume's own axes."""
    shape, affine = resized_grid((volume.array.shape, volume.affine), size)
    matrices = []
    for n_in, n_out in zip(volume.array.shape, shape, strict=True):
        step = n_in / n_out
        matrices.append(axis_matrix(n_in, (step - 1) / 2, step, n_out, antialias))
    tensor = torch.from_numpy(np.ascontiguousarray(volume.array))
    return replace(volume, array=apply_axes(tensor, tuple(matrices), AIR).numpy(), affine=affine)
