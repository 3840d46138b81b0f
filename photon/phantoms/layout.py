"""What a phantom may look like: the organs' layout, label ids, and the settings of the generator.

Lengths in the layout are voxels of a 112^3 grid and scale with the shape; HU are Hounsfield units.
The sizes, steps and lesion radii follow what a tiny model was measured to learn from 14^3 patches.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np

from photon.annotations import NonNegative, Positive, Range, Share, check

VERSION = 2
SIZES = ("small", "normal", "large")
ATTENUATIONS = ("low", "normal", "high")
GRID = 112.0
Side = Annotated[int, Range(28)]  # voxels


@dataclass(frozen=True)
class Organ:
    """One organ of the layout: centre and semi-axes (d, h, w) in voxels of the 112^3 grid."""

    id: int
    name: str
    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    hu: float
    hu_step: float
    lesion_hu: tuple[float, ...]
    removable: bool = False
    depth_jitter: float = 1.5


# Painted in this order, the first owner of a voxel keeps it, so the lungs give way to the rest.
ORGANS: tuple[Organ, ...] = (
    Organ(3, "heart", (80, 40, 57), (12, 13, 13), 160, 100, (400, -300)),
    Organ(4, "liver", (50, 43, 33), (13, 19, 21), 110, 100, (400, -300)),
    Organ(5, "spleen", (50, 54, 85), (12.5, 12, 11.5), 130, 100, (400, -300), removable=True),
    Organ(6, "kidney_right", (34, 78, 32), (13.5, 10.5, 10.5), 190, 100, (400, -300), True, 5),
    Organ(7, "kidney_left", (34, 78, 80), (13.5, 10.5, 10.5), 190, 100, (400, -300), True, 5),
    Organ(8, "urinary_bladder", (15, 46, 56), (9, 13, 14), 80, 80, (400, -300), removable=True),
    Organ(1, "lung_right", (83, 56, 27), (18.5, 25, 16), -775, 75, (850,)),
    Organ(2, "lung_left", (83, 56, 86), (18.5, 25, 16), -775, 75, (850,)),
)
BY_NAME = {organ.name: organ for organ in ORGANS}
LESION_OFFSET = 10
AORTA, SPINE, EFFUSION = 9, 10, {"right": 19, "left": 20}
NAMES: dict[int, str] = {
    **{organ.id: organ.name for organ in sorted(ORGANS, key=lambda o: o.id)},
    AORTA: "aorta",
    SPINE: "spine",
    **{o.id + LESION_OFFSET: f"{o.name}_lesion" for o in sorted(ORGANS, key=lambda o: o.id)},
    EFFUSION["right"]: "pleural_effusion_right",
    EFFUSION["left"]: "pleural_effusion_left",
}


@dataclass(frozen=True)
class PhantomConfig:
    """What a phantom may look like; each probability is per organ (or side) and independent.

    shape: voxels along (d, h, w). spacing: mm of a voxel, one number or one an axis. field: share
    of the 112^3 layout that the volume shows along each axis, so that a layout unit measures
    shape * spacing / (112 * field). hu_shift: added to every organ. orientation: axes of the file.
    lesion_radius: range in layout units.
    """

    shape: tuple[Side, Side, Side] = (112, 112, 112)
    spacing: tuple[Positive, Positive, Positive] | Positive = (3.0, 3.0, 3.0)
    field: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    size_factors: tuple[Positive, Positive, Positive] = (0.8, 1.0, 1.22)
    lesion_probabilities: tuple[Share, Share, Share] = (0.4, 0.3, 0.3)
    missing_probability: Share = 0.25
    effusion_probability: Share = 0.5
    lesion_radius: tuple[Positive, Positive] = (6.0, 8.0)
    noise_hu: NonNegative = 20.0
    pose_jitter: NonNegative = 1.0
    hu_shift: float = 0.0
    orientation: str = "LPS"

    def __post_init__(self) -> None:
        if isinstance(self.spacing, int | float):
            object.__setattr__(self, "spacing", (float(self.spacing),) * 3)
        for key, value in vars(self).items():  # lists of a YAML file
            if not isinstance(value, int | float | str):
                object.__setattr__(self, key, tuple(value))
        check(self)
        if self.lesion_radius[0] > self.lesion_radius[1]:
            raise ValueError(
                f"PhantomConfig: lesion_radius={self.lesion_radius} must be (smallest, largest)"
            )
        if sorted("LRAPIS".find(letter) // 2 for letter in self.orientation) != [0, 1, 2]:
            raise ValueError(
                f"PhantomConfig: orientation={self.orientation!r} must be three letters, one of "
                "L or R, one of A or P, one of I or S"
            )
        if abs(sum(self.lesion_probabilities) - 1) > 1e-6:
            raise ValueError(
                f"PhantomConfig: lesion_probabilities={self.lesion_probabilities} must be three "
                "numbers (0, 1 and 2 lesions) that sum to 1"
            )

    @property
    def scale(self) -> np.ndarray:
        """Voxels of a layout unit along each axis, float [3]."""
        return np.asarray(self.shape) / (GRID * np.asarray(self.field))

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000.0

    def reference(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Per organ: volume_ml and hu limits between the low, normal and high class."""
        scale = float(np.prod(self.scale)) * self.voxel_ml
        low, mid, high = (f**3 for f in self.size_factors)
        ranges = {}
        for organ in ORGANS:
            nominal = 4 / 3 * np.pi * float(np.prod(organ.axes)) * scale
            volume = (nominal * (low * mid) ** 0.5, nominal * (mid * high) ** 0.5)
            hu = (organ.hu - organ.hu_step / 2, organ.hu + organ.hu_step / 2)
            ranges[organ.name] = {
                "volume_ml": (round(float(volume[0]), 1), round(float(volume[1]), 1)),
                "hu": hu,
            }
        return ranges

    def to_dict(self) -> dict:
        """Plain values plus the generator version, for manifests and hashes."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {**plain, "version": VERSION}
