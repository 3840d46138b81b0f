"""What a data set's metadata says about a scan whose own header is blank.

CT-RATE's original NIfTI files carry no spacing, orientation, slope or intercept; a CSV does. A
header that says something itself is never overruled: a scan must not be rescaled twice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from photon.errors import InputError
from photon.volume.reader import read_volume
from photon.volume.types import Volume


@dataclass(frozen=True)
class ScanHeader:
    """Rescale and geometry of a scan.

    slope, intercept: HU = slope * stored + intercept.  spacing: mm along the file's axes (i, j, k).
    orientation: where those axes come from, ITK letters (see `Preparation`).
    """

    slope: float
    intercept: float
    spacing: tuple[float, float, float]
    orientation: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "spacing", tuple(float(v) for v in self.spacing))
        numbers = (self.slope, self.intercept, *self.spacing)
        if not np.isfinite(numbers).all() or self.slope <= 0 or min(self.spacing) <= 0:
            raise InputError(f"{self} is not a usable header; correct the metadata")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"spacing": list(self.spacing)}


def read_declared(path: str | Path, header: ScanHeader, nan: str = "reject") -> Volume:
    """The scan in HU with the declared header in place of its blank one, as `read_volume`.

    Raises:
        InputError: the file's own header rescales already, or the scan cannot be read.
    """
    from photon.volume.nifti import assumed_affine

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
