"""Where voxels are: reorient, resample, crop, clip and resize as a `Preparation` says, at once.

Arrays are [D, H, W]; an affine maps homogeneous (w, h, d, 1) to RAS+ millimetres (the order of
nibabel's i, j, k). All functions are pure. Orientation codes follow ITK: the letters say where an
axis comes FROM, so ITK "RAI" runs from Right to left, Anterior to posterior, Inferior to superior,
which nibabel calls "LPS".
"""

from dataclasses import replace

import nibabel.orientations as nio
import numpy as np
import torch

from photon.errors import InputError
from photon.volume.preparation import Preparation
from photon.volume.sampling import (
    apply_axes,
    axis_matrix,
    nearest_index,
    sample_affine,
    take_axes,
)
from photon.volume.types import Volume

AIR = -1000.0
_OPPOSITE = dict(zip("RLAPIS", "LRPASI", strict=True))
# A tilt that moves no voxel by more than this many voxels is rounding in the header, not a tilt.
_STRAIGHT = 0.1

VoxelGrid = tuple[tuple[int, int, int], np.ndarray]  # (shape [D, H, W], affine)


def axis_codes(orientation: str) -> tuple[str, str, str]:
    """nibabel axis codes of an ITK orientation: "RAI" -> ("L", "P", "S")."""
    return tuple(_OPPOSITE[letter] for letter in orientation.upper())


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Voxel size in mm along (W, H, D): the lengths of the affine's columns."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def center_of(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Physical centre in mm of a grid [D, H, W]."""
    return (affine @ [*((np.array(shape[::-1]) - 1) / 2), 1.0])[:3]


def _grid(shape: tuple[int, int, int], columns: np.ndarray, center: np.ndarray) -> VoxelGrid:
    affine = np.eye(4)
    affine[:3, :3] = columns
    affine[:3, 3] = center - columns @ ((np.array(shape[::-1]) - 1) / 2)
    return shape, affine


def _straightened(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray | None:
    """The affine with each axis along one patient axis, same centre; None where it is oblique."""
    columns = affine[:3, :3]
    dominant = np.abs(columns).argmax(axis=0)
    straight = np.zeros((3, 3))
    straight[dominant, [0, 1, 2]] = columns[dominant, [0, 1, 2]]
    if len(set(dominant.tolist())) < 3:
        return None
    reach = np.abs(columns - straight) @ (np.array(shape[::-1]) / 2)
    if reach.max() > _STRAIGHT * spacing_of(affine).min():
        return None
    return _grid(tuple(shape), straight, center_of(shape, affine))[1]


def resampled_grid(
    shape: tuple[int, int, int],
    affine: np.ndarray,
    spacing: tuple[float, float, float] | None,
    orientation: str = "RAI",
) -> VoxelGrid:
    """Grid along the patient's axes with voxels of `spacing` (D, H, W) mm, centred on the volume.

    It covers the volume's extent to the nearest voxel, or, for an oblique or sheared volume, the
    box around its corners. Spacing None keeps the volume's own voxel size.
    """
    target = nio.axcodes2ornt(axis_codes(orientation))
    source = nio.io_orientation(affine)
    order = [int(np.flatnonzero(source[:, 0] == axis)[0]) for axis in target[:, 0]]
    own = spacing_of(affine)[order]
    step = own if spacing is None else np.array(spacing[::-1], dtype=np.float64)
    columns = np.zeros((3, 3))
    columns[target[:, 0].astype(int), [0, 1, 2]] = target[:, 1] * step
    straight = _straightened(shape, affine)
    basis = affine if straight is None else straight
    extent = (np.abs(basis[:3, :3]) @ np.array(shape[::-1]))[target[:, 0].astype(int)]
    counts = np.maximum(1, np.round(extent / step - 1e-6)).astype(int)
    return _grid(tuple(counts[::-1].tolist()), columns, center_of(shape, affine))


def cropped_grid(grid: VoxelGrid, crop: tuple[int, int, int] | None) -> VoxelGrid:
    """The central `crop` (D, H, W) voxels of a grid, reaching beyond it where it is smaller."""
    if crop is None:
        return grid
    shape, affine = grid
    start = [(n - c) // 2 for n, c in zip(shape, crop, strict=True)]
    moved = affine.copy()
    moved[:3, 3] = (affine @ [*start[::-1], 1.0])[:3]
    return tuple(crop), moved


def resized_grid(grid: VoxelGrid, size: tuple[int, int, int]) -> VoxelGrid:
    """`size` (D, H, W) voxels over exactly the same extent."""
    shape, affine = grid
    factor = np.array(shape[::-1]) / np.array(size[::-1])
    return _grid(tuple(size), affine[:3, :3] * factor, center_of(shape, affine))


def _axis_map(
    source: VoxelGrid, target: VoxelGrid
) -> tuple[list[int], list[tuple[float, float]]] | None:
    """Per target axis (D, H, W): the source axis it runs along, and its (start, step) there."""
    straight = _straightened(*source)
    if straight is None:
        return None
    transform = np.linalg.inv(straight) @ target[1]
    along = np.abs(transform[:3, :3]).argmax(axis=0)
    order = [2 - int(along[axis]) for axis in (2, 1, 0)]
    steps = [(transform[along[a], 3], transform[along[a], a]) for a in (2, 1, 0)]
    return order, [(float(start), float(step)) for start, step in steps]


def _shrunk_for(
    array: torch.Tensor, source: VoxelGrid, target: VoxelGrid, clip: tuple[float, float] | None
) -> tuple[torch.Tensor, np.ndarray]:
    """Blur and thin out a volume along its own axes before it is sampled obliquely and coarser.

    With r target steps per voxel along an axis, the step becomes c = r / 2 and the box width w
    such that the blur (second moments: of the two interpolations and the box) is that of
    `axis_matrix` with antialiasing.
    """
    columns = np.linalg.inv(source[1][:3, :3]) @ target[1][:3, :3]
    matrices, counts = [], []
    for n, r in zip(array.shape, np.linalg.norm(columns, axis=1)[::-1], strict=True):
        count = int(np.ceil(n / max(1.0, r / 2) - 1e-6))
        step = n / count
        width = float(np.sqrt(max(0.0, r**2 - 1 - 2 * step**2)))
        matrix = axis_matrix(n, (step - 1) / 2, step, count, width=width)
        # A blur must not mix air into the volume's own edge.
        matrices.append(matrix / matrix.sum(1, keepdims=True))
        counts.append(count)
    return apply_axes(array, tuple(matrices), 0.0, clip), resized_grid(source, tuple(counts))[1]


def sample_grids(
    array: np.ndarray,
    affine: np.ndarray,
    grids: list[VoxelGrid],
    antialias: bool,
    fill: float,
    clip: tuple[float, float] | None = None,
) -> torch.Tensor:
    """Sample a volume on grids[0], that on grids[1], and so on; float32 on the last grid.

    All grids run along the patient's axes. Where the volume does too, the whole chain is one
    matrix per axis; an oblique or sheared volume is sampled on grids[0] by its full affine first.
    """
    tensor = torch.from_numpy(array if all(s > 0 for s in array.strides) else array.copy())
    source = (array.shape, affine)
    mapping = _axis_map(source, grids[0])
    if mapping is None:
        if antialias:
            tensor, affine = _shrunk_for(tensor, source, grids[0], clip)
        else:
            tensor = tensor.float() if clip is None else tensor.float().clamp(*clip)
        transform = np.linalg.inv(affine) @ grids[0][1]
        tensor = sample_affine(tensor, transform, grids[0][0], fill, nearest=False)
        matrices = [np.eye(n) for n in grids[0][0]]
    else:
        order, steps = mapping
        tensor = tensor.permute(order)
        matrices = [
            axis_matrix(n_in, *step, n_out, antialias)
            for n_in, step, n_out in zip(tensor.shape, steps, grids[0][0], strict=True)
        ]
    for before, after in zip(grids, grids[1:], strict=False):
        _, steps = _axis_map(before, after)
        links = [
            axis_matrix(n_in, *step, n_out, antialias)
            for n_in, step, n_out in zip(before[0], steps, after[0], strict=True)
        ]
        matrices = [link @ matrix for link, matrix in zip(links, matrices, strict=True)]
    return apply_axes(tensor, tuple(matrices), fill, clip if mapping is not None else None)


def sample_labels(array: np.ndarray, affine: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    """Nearest-neighbour sample of a label map on a grid, dtype kept, 0 outside."""
    mapping = _axis_map((array.shape, affine), grid)
    if mapping is None:
        transform = np.linalg.inv(affine) @ grid[1]
        values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        sampled = sample_affine(values, transform, grid[0], 0.0, nearest=True)
        return sampled.numpy().astype(array.dtype)
    order, steps = mapping
    moved = array.transpose(order)
    indices = [
        nearest_index(n_in, *step, n_out)
        for n_in, step, n_out in zip(moved.shape, steps, grid[0], strict=True)
    ]
    return take_axes(moved, indices)


def prepared_grids(
    shape: tuple[int, int, int], affine: np.ndarray, preparation: Preparation
) -> list[VoxelGrid]:
    """The resampled and cropped grid, and the resized one that the model sees."""
    grid = resampled_grid(shape, affine, preparation.spacing, preparation.orientation)
    grid = cropped_grid(grid, preparation.crop)
    return [grid, resized_grid(grid, preparation.size)]


def prepare_volume(volume: Volume, preparation: Preparation) -> Volume:
    """Reorient, clip, resample, crop or pad with air, resize, round: int16 HU of `size`.

    HU are clipped before interpolation, not after, so that a scanner's -8192 padding or a metal
    implant does not bleed into its neighbours. With `antialias` the scan is sampled once, on the
    final grid (first to 1 mm and then to 2.6 mm would blur a 3 mm scan twice); without it, on the
    resampled grid and then on the final one. The returned affine is that of the prepared grid.
    """
    grids = prepared_grids(volume.array.shape, volume.affine, preparation)
    if preparation.antialias:
        grids = grids[-1:]
    low, high = preparation.hu
    out = sample_grids(
        volume.array, volume.affine, grids, preparation.antialias, max(low, AIR), (low, high)
    )
    array = out.clamp_(low, high).round_().to(torch.int16).numpy()
    return replace(volume, array=array, affine=grids[-1][1])


def prepare_labels(labels: Volume, preparation: Preparation) -> Volume:
    """A label map on the grid that `prepare_volume` gives a volume of the same shape and affine."""
    grid = prepared_grids(labels.array.shape, labels.affine, preparation)[-1]
    return replace(labels, array=sample_labels(labels.array, labels.affine, grid), affine=grid[1])


def same_grid(first: VoxelGrid, second: VoxelGrid) -> bool:
    """Whether two grids have one shape and their corners agree to a tenth of a voxel."""
    if tuple(first[0]) != tuple(second[0]):
        return False
    corners = np.ones((8, 4))
    corners[:, :3] = np.indices((2, 2, 2)).reshape(3, 8).T * (np.array(first[0][::-1]) - 1)
    distance = np.linalg.norm((corners @ (first[1] - second[1]).T)[:, :3], axis=1)
    return bool(distance.max() <= 0.1 * spacing_of(first[1]).min())


def check_grid(labels: Volume, grid: VoxelGrid, scan: object) -> None:
    """Raise InputError unless a label map lies on the grid of its scan, which `scan` names."""
    if not same_grid(labels.grid, grid):
        raise InputError(
            f"{labels.source}: lies on another voxel grid than {scan} (shape or affine differ). "
            "Resample the label map to its scan with nearest neighbour."
        )
