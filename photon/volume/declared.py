"""What a data set's metadata says about a scan whose own header is blank.

CT-RATE's original NIfTI files carry no spacing, orientation, slope or intercept; a CSV does. A
header that says something itself is never overruled: a scan must not be rescaled twice. M3D's .npy
arrays have no header at all.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from photon.errors import InputError
from photon.volume.images.kinds import ARRAY_SUFFIXES
from photon.volume.reader import checked_finite, hash_source, read_volume
from photon.volume.types import Volume


@dataclass(frozen=True)
class ScanHeader:
    """Rescale and geometry of a scan.

    slope, intercept: HU = slope * stored + intercept.  spacing: mm along the file's axes (i, j, k);
    None where neither spacing nor HU are known (normalised arrays): the whole array is resized to
    the model's input, and whether its values can be HU is not asked.
    orientation: where those axes come from, ITK letters (see `Preparation`).
    """

    slope: float
    intercept: float
    spacing: tuple[float, float, float] | None
    orientation: str

    def __post_init__(self) -> None:
        if self.spacing is not None:
            object.__setattr__(self, "spacing", tuple(float(v) for v in self.spacing))
        spacing = self.spacing or (1.0,)
        numbers = (self.slope, self.intercept, *spacing)
        if not np.isfinite(numbers).all() or self.slope <= 0 or min(spacing) <= 0:
            raise InputError(f"{self} is not a usable header; correct the metadata")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"spacing": self.spacing and list(self.spacing)}


def read_declared(path: str | Path, header: ScanHeader, nan: str = "reject") -> Volume:
    """The scan in HU with the declared header in place of its blank one, as `read_volume`.

    Raises:
        InputError: the file's own header rescales already, or the scan cannot be read.
    """
    from photon.volume.nifti import assumed_affine

    if Path(path).suffix.lower() in ARRAY_SUFFIXES:
        return _read_array(Path(path), header, nan)
    volume = read_volume(path, nan, assume_orientation=header.orientation)
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
    from photon.volume.images.arrays import load_array
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
