"""What readers, geometry and stores pass on: a volume, frames, a header."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from photon.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


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

    @property
    def grid(self) -> tuple[tuple[int, ...], np.ndarray]:
        """Where its voxels are: (shape, affine)."""
        return self.array.shape, self.affine


@dataclass(frozen=True)
class Frames:
    """An image, or the sampled frames of a video.

    Attributes:
        pixels: uint8 [T, H, W, 3]; an image has T = 1.
        seconds: between two frames; None for an image.
    """

    pixels: Tensor
    seconds: float | None = None

    @property
    def is_image(self) -> bool:
        return self.seconds is None


@dataclass(frozen=True)
class ScanHeader:
    """What a data set's metadata says of a scan whose own header is blank.

    CT-RATE's original NIfTI files carry no spacing, orientation, slope or intercept; a CSV does.
    M3D's .npy arrays have no header at all.

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
