"""The one type that readers, geometry and store pass on."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Volume:
    """A scan or label map in patient space.

    Attributes:
        array: [D, H, W]; float32 HU (int16 when prepared; uint8 or uint16 for a label map).
        affine: float64 4x4, maps homogeneous (w, h, d, 1) to RAS+ millimetres.
        source: path it was read from.
        sha256: of the source's bytes (of all slices, for DICOM).
    """

    array: np.ndarray
    affine: np.ndarray
    source: str
    sha256: str
