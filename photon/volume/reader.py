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
from photon.volume.preparation import check_orientation
from photon.volume.sources import ARRAY_SUFFIXES, load_array
from photon.volume.types import ScanHeader, Volume

MAX_VOXELS = 2_000_000_000  # a 1024 x 1024 x 1900 scan; more is taken for a damaged header
_AIR = -1000.0


def read_volume(
    path: str | Path,
    nan: str = "reject",
    assume_orientation: str | None = None,
    max_voxels: int = MAX_VOXELS,
    header: ScanHeader | None = None,
) -> Volume:
    """Read a .nii, .nii.gz or folder of one DICOM series as float32 HU [D, H, W].

    Args:
        path: file or folder.
        nan: "reject" volumes with NaN or infinite voxels or take them as "air" (-1000 HU).
        assume_orientation: ITK letters (see `geometry`) for a NIfTI file without sform and qform.
        max_voxels: refuse a file that claims more, before any memory is taken.
        header: takes the place of the file's own, which must be blank: a header that says something
            is never overruled, since a scan must not be rescaled twice. With one, a .npy or .npz
            array is read too.

    Raises:
        InputError: missing, damaged, ambiguous or unsuitable input; names file and way out.
    """
    if header is not None:
        return _read_with(Path(path), header, nan, max_voxels)
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
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{path}: is a pipe or a device, not a file. Give a file or a folder.")
    return path


def _read(path: str | Path, assume_orientation: str | None, max_voxels: int) -> Volume:
    """The volume as stored (rescaled, any dtype), array [D, H, W]."""
    from photon.volume import dicom, nifti

    path = _existing(path)
    if assume_orientation is not None:
        check_orientation("assume_orientation", assume_orientation)
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
    except InputError:
        raise
    except (OSError, MemoryError) as error:
        what = "does not fit into memory" if isinstance(error, MemoryError) else str(error)
        raise InputError(
            f"{path}: cannot be read ({what}). Check permissions, disk and free memory."
        ) from error
    except Exception as error:  # what the parsers of two formats raise has no common base
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}: {str(error)[:200]}). It is damaged; "
            "fetch or export it again."
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


def _read_with(path: Path, header: ScanHeader, nan: str, max_voxels: int) -> Volume:
    """The scan in HU with a declared header in place of its blank one."""
    import nibabel as nib

    from photon.volume.nifti import assumed_affine

    if path.suffix.lower() in ARRAY_SUFFIXES:
        return _read_array(path, header, nan)
    volume = read_volume(path, nan, header.orientation, max_voxels)
    own = nib.load(path).dataobj  # its header no longer shows what was stored
    slope, intercept = float(own.slope), float(own.inter)
    if (slope, intercept) != (1.0, 0.0):
        raise InputError(
            f"{path}: its own header rescales (slope {slope:g}, intercept {intercept:g}), and the "
            "metadata would do it again. Read it as a corrected scan (scans=fixed)."
        )
    array = volume.array * np.float32(header.slope) + np.float32(header.intercept)
    affine = assumed_affine(header.spacing, volume.array.shape[::-1], header.orientation)
    return replace(volume, array=array, affine=affine)


def _read_array(path: Path, header: ScanHeader, nan: str) -> Volume:
    """A .npy or .npz array (D, H, W) or (1, D, H, W)."""
    from photon.volume.nifti import assumed_affine

    array = load_array(path)
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    if array.ndim != 3 or array.dtype.kind not in "iuf" or min(array.shape) < 1:
        raise InputError(
            f"{path}: holds {array.dtype} of shape {array.shape}, not a volume of three axes. "
            "Fetch the file again."
        )
    values = checked_finite(np.asarray(array, dtype=np.float32), path, nan)
    values = values * np.float32(header.slope) + np.float32(header.intercept)
    affine = assumed_affine(header.spacing or (1, 1, 1), array.shape[::-1], header.orientation)
    return Volume(values, affine, str(path), hash_source(path))


def implausible(array: np.ndarray, modality: str = "ct") -> str | None:
    """What about the values [D, H, W] of a CT does not look like HU; None where all is well."""
    sample = array[:: max(1, array.shape[0] // 64), ::4, ::4] if array.size > 10**6 else array
    low, high = float(sample.min()), float(sample.max())
    if low == high:
        return f"all voxels are {low:g}. Export the scan again."
    if modality != "ct":
        return None
    if high - low < 16:
        return f"values run from {low:g} to {high:g} and are not HU. Take the original scan."
    if low >= 0:
        return (
            f"no value is below 0 (lowest {low:g}): the rescale intercept (often -1024) is "
            "missing. Apply it, or use --modality mr if this is not a CT."
        )
    # Lungs of a scan whose intercept was added twice; noisy air lies higher, padding is even.
    odd = sample[(sample > -1950) & (sample < -1250)]
    if odd.size > 0.1 * sample.size and np.unique(odd).size > 64:
        return (
            f"{100 * odd.size / sample.size:.0f} % of voxels lie in -1950..-1250 HU, where nothing "
            "is: the rescale was applied twice. Read the file by its own header alone."
        )
    tissue = np.count_nonzero((sample > -200) & (sample < 300)) / sample.size
    if tissue < 0.01:
        return (
            f"only {100 * tissue:.2f} % of voxels lie in -200..300 HU, where soft tissue is. "
            "The rescale was applied twice or not at all; export the scan again."
        )
    return None
