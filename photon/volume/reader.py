"""Read one volume or label map from a NIfTI file or a DICOM folder, or say what is wrong with it.

A damaged or ambiguous file never yields voxels: every defect is one `InputError` that names the
file and the way out. Harmless oddities (wrong suffix, bytes after the end) are warnings.
"""

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from photon.errors import InputError
from photon.volume.images.kinds import ARRAY_SUFFIXES
from photon.volume.types import Volume

MAX_VOXELS = 2_000_000_000  # a 1024 x 1024 x 1900 scan; more is taken for a damaged header
_AIR = -1000.0


def read_volume(
    path: str | Path,
    nan: str = "reject",
    assume_orientation: str | None = None,
    max_voxels: int = MAX_VOXELS,
) -> Volume:
    """Read a .nii, .nii.gz or folder of one DICOM series as float32 HU [D, H, W].

    Args:
        path: file or folder.
        nan: "reject" volumes with NaN or infinite voxels or take them as "air" (-1000 HU).
        assume_orientation: ITK letters (see `geometry`) for a NIfTI file without sform and qform.
        max_voxels: refuse a file that claims more, before any memory is taken.

    Raises:
        InputError: missing, damaged, ambiguous or unsuitable input; names file and way out.
    """
    volume = _read(path, assume_orientation, max_voxels)
    array = volume.array
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        array = checked_finite(array, path, nan)
    return replace(volume, array=np.ascontiguousarray(array, dtype=np.float32))


def read_labels(
    path: str | Path, assume_orientation: str | None = None, max_voxels: int = MAX_VOXELS
) -> Volume:
    """Read a label map [D, H, W]: uint8 when its largest id is below 256, else uint16.

    Raises:
        InputError: as `read_volume`, and where a value is not a whole number in 0..65535.
    """
    volume = _read(path, assume_orientation, max_voxels)
    array = volume.array
    low, high = float(array.min()), float(array.max())
    if not (0 <= low and high <= 65535):
        raise InputError(
            f"{path}: label values run from {low:g} to {high:g}, not within 0..65535. "
            "Give the label map, not the scan, or renumber its labels."
        )
    ids = np.ascontiguousarray(array, dtype=np.uint8 if high < 256 else np.uint16)
    if array.dtype.kind == "f" and not np.array_equal(ids, array):
        raise InputError(
            f"{path}: label values are not whole numbers. A label map must be resampled with "
            "nearest neighbour; make it again."
        )
    return replace(volume, array=ids)


def hash_source(path: str | Path) -> str:
    """SHA-256 of a file's bytes, or of a folder's DICOM slices in any order and under any name."""
    from photon.volume import dicom

    path = _existing(path)
    if path.is_dir():
        return dicom.hash_folder(path)
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def find_sources(folder: str | Path) -> list[Path]:
    """All volumes below a folder, sorted: NIfTI files, and folders that hold DICOM slices."""
    from photon.volume import dicom

    found: set[Path] = set()
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and path.name.lower().endswith((".nii", ".nii.gz")):
            found.add(path)
        elif path.is_file() and path.parent not in found and dicom.is_dicom(path):
            found.add(path.parent)
    return sorted(found)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    try:
        exists = path.exists()
    except OSError:  # a name that the file system cannot hold
        exists = False
    if not exists:
        raise InputError(f"{path}: no such file or folder. Check the path and the data root.")
    return path


def _read(path: str | Path, assume_orientation: str | None, max_voxels: int) -> Volume:
    """The volume as stored (rescaled, any dtype), array [D, H, W]."""
    from photon.volume import dicom, nifti

    path = _existing(path)
    try:
        if path.is_dir():
            return dicom.read_folder(path, max_voxels)
        if path.suffix.lower() in ARRAY_SUFFIXES:
            raise InputError(
                f"{path}: an array says nothing of spacing or HU. Give the scan as NIfTI or DICOM, "
                "or let a benchmark's reader say what its arrays mean (docs/benchmarks.md)."
            )
        if dicom.is_dicom(path):
            raise InputError(
                f"{path}: this is one DICOM slice. Give the folder that holds the series instead."
            )
        return nifti.read_file(path, assume_orientation, max_voxels)
    except (OSError, MemoryError) as error:
        what = "does not fit into memory" if isinstance(error, MemoryError) else str(error)
        raise InputError(
            f"{path}: cannot be read ({what}). Check permissions, disk and free memory."
        ) from error


def checked_finite(array: np.ndarray, path: str | Path, nan: str) -> np.ndarray:
    """Apply the policy for voxels that are not finite."""
    if nan not in ("reject", "air"):
        raise InputError(f"nan: {nan!r} is not one of reject, air.")
    finite = np.isfinite(array)
    bad = int(array.size - np.count_nonzero(finite))
    if bad == 0:
        return array
    if bad == array.size:
        raise InputError(f"{path}: no voxel is finite. Export the volume again.")
    if nan == "reject":
        raise InputError(
            f"{path}: {bad} of {array.size} voxels are NaN or infinite. Repair the file, or set "
            "nan=air (--nan air) to take them as air."
        )
    warnings.warn(f"{path}: {bad} NaN or infinite voxels taken as air.", stacklevel=3)
    return np.where(finite, array, np.float32(_AIR))
