"""Interpolation as small matrices, one per axis.

Every axis-aligned step (resampling, flipping, cropping, padding, resizing) is a linear operator
that acts along one axis, so a chain of them is a product of small matrices [n_out, n_in] and a
volume of 10^8 voxels is touched once. Oblique grids take `sample_affine` instead.

Conventions. Voxel i of an axis occupies [i - 0.5, i + 0.5]. Inside a volume's own extent the edge
voxels continue constantly for their outer half; outside it there is nothing (weight zero), which
the caller fills with air. Axis order of all arrays is [D, H, W].
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_ROWS_AT_ONCE = 12  # output rows per product: small enough to skip most of a banded matrix
_POINTS_AT_ONCE = 4_000_000  # oblique sampling: bounds the coordinate grid at about 50 MB


def _cumulative(points: np.ndarray, n: int) -> np.ndarray:
    """Integral from -inf to each point of every sample's basis function: [len(points), n].

    The basis is the linear hat; at the two edges its outer side is constant for half a voxel.
    """
    u = np.clip(points[:, None] - np.arange(n)[None, :], -1.0, 1.0)
    left = np.where(u < 0, (u + 1) ** 2 / 2, 0.5)
    right = np.where(u > 0, 0.5 - (1 - u) ** 2 / 2, 0.0)
    left[:, 0] = np.clip(points + 0.5, 0.0, 0.5)
    right[:, -1] = np.clip(points - (n - 1), 0.0, 0.5)
    return left + right


def axis_matrix(
    n_in: int, start: float, step: float, n_out: int, antialias: bool = False, width: float = 0.0
) -> np.ndarray:
    """Weights that sample one axis at `start + step * k`, float64 [n_out, n_in].

    Args:
        n_in: voxels of the input axis.
        start, step: position of output voxel 0 and distance between output voxels, in input
            voxels; a negative step flips the axis.
        antialias: when the axis shrinks by r = |step| > 1, average the linear interpolant over a
            box of width sqrt(r^2 - 1) around each position. Second moments add, so one step by
            r1*r2 blurs as much as r1 and then r2, and the blur vanishes smoothly at r = 1 (the
            scale-factor matching of Cardoso et al., MICCAI 2015). Linear functions stay exact.
        width: width of the box in input voxels, where the caller knows better.

    Rows sum to one inside the input's extent and to the covered share outside of it.
    """
    at = start + step * np.arange(n_out, dtype=np.float64)
    ratio = abs(step)
    if antialias and ratio > 1:
        width = float(np.sqrt(ratio**2 - 1))
    if width > 1e-3:
        low, high = at - width / 2, at + width / 2
        return (_cumulative(high, n_in) - _cumulative(low, n_in)) / width
    inside = (at >= -0.5 - 1e-9) & (at <= n_in - 0.5 + 1e-9)
    clamped = np.clip(at, 0, n_in - 1)
    weights = np.maximum(0.0, 1 - np.abs(clamped[:, None] - np.arange(n_in)[None, :]))
    return weights * inside[:, None]


def nearest_index(n_in: int, start: float, step: float, n_out: int) -> np.ndarray:
    """Input voxel that holds each output position; -1 outside the extent. int64 [n_out]."""
    at = np.floor(start + step * np.arange(n_out, dtype=np.float64) + 0.5 + 1e-9).astype(np.int64)
    return np.where((at >= 0) & (at < n_in), at, -1)


def _bands(matrix: Tensor) -> list[tuple[int, int, int, int]]:
    """(row from, row to, column from, column to) of blocks that hold all non-zero weights."""
    blocks = []
    for top in range(0, matrix.shape[0], _ROWS_AT_ONCE):
        bottom = min(top + _ROWS_AT_ONCE, matrix.shape[0])
        columns = torch.nonzero(matrix[top:bottom].abs().sum(0)).flatten()
        if len(columns):
            blocks.append((top, bottom, int(columns[0]), int(columns[-1]) + 1))
    return blocks


def _is_identity(matrix: np.ndarray) -> bool:
    return matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix)))


def apply_axes(
    array: Tensor,
    matrices: tuple[np.ndarray, np.ndarray, np.ndarray],
    fill: float,
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """Apply one matrix to each axis of a volume; float32 [D, H, W] -> [d, h, w].

    Args:
        array: [D, H, W], any real dtype, any strides.
        matrices: float64 [d, D], [h, H], [w, W] from `axis_matrix` (or products of them).
        fill: value of what lies outside (weight that a row lacks to one), for instance air.
        clip: range to which the input is clipped before it is interpolated.
    """
    depth, height, width = (torch.from_numpy(m).float() for m in matrices)
    out = torch.zeros(depth.shape[0], array.shape[1], array.shape[2])
    for top, bottom, low, high in _bands(depth):
        slab = array[low:high].to(torch.float32, copy=True)
        if clip is not None:
            slab.clamp_(*clip)
        slab.sub_(fill)
        product = depth[top:bottom, low:high] @ slab.reshape(high - low, -1)
        out[top:bottom] = product.view(bottom - top, *out.shape[1:])
    if not _is_identity(matrices[1]):
        source, out = out, torch.zeros(out.shape[0], height.shape[0], out.shape[2])
        for top, bottom, low, high in _bands(height):
            out[:, top:bottom] = torch.matmul(height[top:bottom, low:high], source[:, low:high])
    if not _is_identity(matrices[2]):
        source, out = out, torch.zeros(out.shape[0], out.shape[1], width.shape[0])
        for top, bottom, low, high in _bands(width):
            out[:, :, top:bottom] = source[:, :, low:high] @ width[top:bottom, low:high].T
    return out.add_(fill)


def take_axes(array: np.ndarray, indices: list[np.ndarray]) -> np.ndarray:
    """Nearest-neighbour counterpart of `apply_axes`: one index vector per axis, -1 gives 0."""
    out = array[np.ix_(*[np.maximum(index, 0) for index in indices])]
    for axis, index in enumerate(indices):
        out[tuple([slice(None)] * axis + [index < 0])] = 0
    return out


def sample_affine(
    array: Tensor, transform: np.ndarray, shape: tuple[int, int, int], fill: float, nearest: bool
) -> Tensor:
    """Sample a volume on any grid; float32 [D, H, W] -> [d, h, w].

    Args:
        array: float32 [D, H, W].
        transform: 4x4, maps output (w, h, d, 1) to input (w, h, d, 1), in voxels.
        shape: [d, h, w] of the output.
        fill: value outside the input's extent.
        nearest: nearest neighbour instead of trilinear (label maps).
    """
    size = np.array(array.shape[::-1], dtype=np.float64)  # W, H, D
    # grid_sample without align_corners: -1 and 1 are the outer edges of the edge voxels.
    scale = np.diag([*(2 / size), 1.0])
    scale[:3, 3] = 1 / size - 1
    matrix = torch.from_numpy((scale @ transform)[:3]).float()
    rows, columns = torch.meshgrid(
        torch.arange(shape[1], dtype=torch.float32),
        torch.arange(shape[2], dtype=torch.float32),
        indexing="ij",
    )
    plane = torch.einsum("hwc,kc->hwk", torch.stack([columns, rows], -1), matrix[:, :2])
    out = torch.empty(shape, dtype=torch.float32)
    slices = max(1, _POINTS_AT_ONCE // (shape[1] * shape[2]))
    for first in range(0, shape[0], slices):
        depth = torch.arange(first, min(first + slices, shape[0]), dtype=torch.float32)
        offset = depth[:, None] * matrix[:, 2] + matrix[:, 3]
        grid = plane[None] + offset[:, None, None, :]
        values = F.grid_sample(
            array[None, None],
            grid[None],
            mode="nearest" if nearest else "bilinear",
            padding_mode="border",
            align_corners=False,
        )[0, 0]
        outside = (grid.abs() > 1 + 1e-6).any(-1)
        out[first : first + len(depth)] = values.masked_fill_(outside, fill)
    return out
