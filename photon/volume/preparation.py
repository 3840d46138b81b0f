"""The settings that turn a scan into the model's input; their values name a store's folder."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from photon.errors import InputError
from photon.volume.images.preparation import ImagePreparation

# Raise when the same settings give other voxels than before: old store entries are then left alone.
VERSION = 1
_LOAD_TIME = ("intensity", "windows", "flip_x")  # applied when a stored volume is loaded
# Kept in a folder of their own, and of a size to choose at use: the backbone is trained on any.
_APART = ("images",)
_AXES = ("RL", "AP", "IS")


@dataclass(frozen=True)
class Preparation:
    """How a scan becomes the model's input. All triples are (D, H, W).

    Attributes:
        orientation: where the axes come from, ITK letters, (W, H, D) order: ITK "RAI" is what
            nibabel calls "LPS".
        spacing: voxel size in mm after resampling; None keeps the scan's own.
        crop: voxels kept around the centre (padded with air, -1000 HU); None keeps all.
        size: voxels of the model's input, multiples of a patch of 14 (Qwen2.5-VL) or 16 (Qwen3-VL)
            voxels, and of two patches in H and W.
        hu: range to which HU are clipped.
        intensity: "window" maps `hu` to [0, 1]; "minmax" maps the volume's own range (as released
            by the paper's authors).
        windows: ranges (low, high) within `hu`, an input channel for each: HU are clipped to it,
            then scaled to [0, 1]. None is one channel, as `intensity` says. Not in the paper: a
            wide range leaves little contrast between soft tissues, a narrow one no bone or lung.
        flip_x: mirror the W axis on loading (as released by the paper's authors).
        antialias: average while shrinking, in one step from the scan to `size`; False skips
            voxels, in two steps over `spacing` (as released by the paper's authors).
        nan: "reject" a scan with NaN or infinite voxels, or take them as "air".
        assume_orientation: ITK letters for a NIfTI file that says nothing about its orientation
            (no sform and no qform); None rejects such a file.
        images: of 2D images and videos beside volumes.
    """

    orientation: str = "RAI"
    spacing: tuple[float, float, float] | None = (1.0, 1.0, 1.0)
    crop: tuple[int, int, int] | None = (364, 364, 364)
    size: tuple[int, int, int] = (140, 280, 280)
    hu: tuple[int, int] = (-1000, 1000)
    intensity: str = "window"
    windows: tuple[tuple[int, int], ...] | None = None
    flip_x: bool = False
    antialias: bool = True
    nan: str = "reject"
    assume_orientation: str | None = None
    images: ImagePreparation = field(default_factory=ImagePreparation)

    def __post_init__(self) -> None:
        if isinstance(self.images, Mapping):
            object.__setattr__(self, "images", ImagePreparation.from_dict(self.images))
        if self.spacing is not None:
            object.__setattr__(self, "spacing", _triple("spacing", self.spacing, float))
        if self.crop is not None:
            object.__setattr__(self, "crop", _triple("crop", self.crop, int))
        object.__setattr__(self, "size", _triple("size", self.size, int))
        object.__setattr__(self, "orientation", check_orientation("orientation", self.orientation))
        if self.assume_orientation is not None:
            letters = check_orientation("assume_orientation", self.assume_orientation)
            object.__setattr__(self, "assume_orientation", letters)
        if any(v % unit for v, unit in zip(self.size, (16, 32, 32), strict=True)):
            check_size(self.size, 14)
        object.__setattr__(self, "hu", _pair("hu", self.hu))
        for key, legal in (("intensity", ("window", "minmax")), ("nan", ("reject", "air"))):
            if getattr(self, key) not in legal:
                raise InputError(
                    f"preparation.{key}: {getattr(self, key)!r} is not one of {', '.join(legal)}."
                )
        if self.windows is not None:
            object.__setattr__(self, "windows", self._checked_windows())

    def _checked_windows(self) -> tuple[tuple[int, int], ...]:
        low, high = self.hu
        if not isinstance(self.windows, list | tuple) or not self.windows:
            raise InputError(
                f"preparation.windows: {self.windows!r} is not a list of ranges. Write for "
                "instance [[-1000, 1000], [-160, 240]], or null."
            )
        windows = tuple(_pair("windows", window) for window in self.windows)
        for window in windows:
            if window[0] < low or window[1] > high:
                raise InputError(
                    f"preparation.windows: {list(window)} reaches beyond preparation.hu "
                    f"[{low}, {high}], to which stored volumes are clipped. Widen hu or narrow it."
                )
        if self.intensity != "window":
            raise InputError(
                f"preparation.windows and intensity={self.intensity} both say how HU are scaled. "
                "Set intensity to window, or windows to null."
            )
        return windows

    @property
    def channels(self) -> int | None:
        """Channels of a loaded volume [C, D, H, W]; None where it is [D, H, W], of one channel."""
        return None if self.windows is None else len(self.windows)

    def value(self, hu: float) -> float:
        """The value in [0, 1] that no channel of a loaded voxel of `hu` exceeds.

        Raises InputError where the voxels are scaled by the volume's own range, or where no window
        reaches below `hu`.
        """
        if self.intensity != "window":
            raise InputError(
                f"model.air={hu}: with preparation.intensity={self.intensity} voxels are scaled by "
                "each volume's own range, so that no value means air. Set model.air=null."
            )
        ranges = [pair for pair in self.windows or (self.hu,) if pair[0] < hu]
        if not ranges:
            raise InputError(
                f"model.air={hu}: no window of preparation.windows (or preparation.hu) begins "
                "below it, so that air and soft tissue look alike. Raise it, or set model.air=null."
            )
        return max((hu - low) / (high - low) for low, high in ranges)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "Preparation":
        """A named preparation: "paper", "official" (as the authors released it) or "tiny"."""
        if name not in PRESETS:
            raise InputError(
                f"preparation preset {name!r} does not exist. Take one of {', '.join(PRESETS)}."
            )
        return cls(**{**PRESETS[name], **changes})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preparation":
        """Inverse of `to_dict`; refuses unknown keys and a different code version."""
        values = dict(values)
        version = values.pop("version", VERSION)
        if version != VERSION:
            raise InputError(
                f"preparation.version: {version} was written by other preparation code than this "
                f"(version {VERSION}). Use the release that wrote it, or set version to {VERSION} "
                "after checking results."
            )
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise InputError(
                f"preparation: unknown key {unknown[0]!r}. Legal keys: {', '.join(known)}."
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the code version."""
        return {**json.loads(json.dumps(asdict(self))), "version": VERSION}

    def fingerprint(self) -> str:
        """SHA-256 of everything that changes a volume for the model; a checkpoint carries it."""
        return _digest({k: v for k, v in self.to_dict().items() if k not in _APART})

    def store_fingerprint(self) -> str:
        """SHA-256 of what changes the stored voxels: those of _LOAD_TIME come later."""
        others = (*_LOAD_TIME, *_APART)
        return _digest({k: v for k, v in self.to_dict().items() if k not in others})


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "official": {"intensity": "minmax", "flip_x": True, "antialias": False},
    "tiny": {"spacing": (3.0, 3.0, 3.0), "crop": (112, 112, 112), "size": (112, 112, 112)},
}


def check_size(size: tuple[int, int, int], patch: int, depth: int | None = None) -> None:
    """Raise InputError unless a (D, H, W) input divides into patches, two merged in H and W.

    patch: voxels of a patch in plane; depth: along D, as many by default.
    """
    units = (patch if depth is None else depth, 2 * patch, 2 * patch)
    for value, unit, axis in zip(size, units, "DHW", strict=True):
        if value % unit:
            raise InputError(
                f"preparation.size: {axis} = {value} is not a multiple of {unit} "
                f"(a patch of {patch} voxels; in H and W two patches merge into one token). "
                f"Take {max(unit, round(value / unit) * unit)}."
            )


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _triple(key: str, value: Any, kind: type) -> tuple:
    try:
        triple = tuple(kind(v) for v in value)
        whole = kind is float or all(float(v) == int(v) for v in value)
    except (TypeError, ValueError):
        triple, whole = (), False
    if len(triple) != 3 or not whole or not all(0 < v < 1e5 for v in triple):
        noun = "numbers" if kind is float else "whole numbers"
        raise InputError(
            f"preparation.{key}: {value!r} is not three positive {noun} (D, H, W). "
            f"Write for instance {'[1.0, 1.0, 1.0]' if kind is float else '[140, 280, 280]'}."
        )
    return triple


def _pair(key: str, value: Any) -> tuple[int, int]:
    try:
        low, high = (int(v) for v in value)
    except (TypeError, ValueError):
        low, high = 0, 0
    if not -32768 <= low < high <= 32767:
        raise InputError(
            f"preparation.{key}: {value!r} is not a rising pair within the 16-bit range. "
            "Write for instance [-1000, 1000]."
        )
    return low, high


def check_orientation(key: str, value: Any) -> str:
    """The letters in capitals. Raises InputError unless they are one of each axis."""
    letters = str(value).upper()
    if sorted(next((a for a in _AXES if c in a), "") for c in letters) != sorted(_AXES):
        raise InputError(
            f"preparation.{key}: {value!r} is not an orientation. Write one letter of each of "
            "R/L, A/P, I/S that says where an axis comes from (ITK), for instance RAI."
        )
    return letters
