"""How 2D images and videos become the model's input."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from PIL import Image

from photon.errors import InputError

# Raise when the same settings give other pixels than before: old entries are then left alone.
VERSION = 1
_MAX_ASPECT = 200  # of the stock processor


@dataclass(frozen=True)
class ImagePreparation:
    """Sizes of images and sampling of videos; the defaults are those of Qwen2.5-VL's processor.

    Attributes:
        min_pixels, max_pixels: of an image after resizing; its aspect ratio is kept.
        frame_pixels: most pixels of a video frame.
        fps: frames sampled from a second of video; frames without a time of their own (a folder, a
            list, an array) are taken to be that far apart.
        frames: most frames sampled from a video, evenly over its length.
        factor: pixels of a merged visual token along height and width (Qwen2.5-VL 2 x 14,
            Qwen3-VL 2 x 16); sides are multiples of it.
    """

    min_pixels: int = 56 * 56
    max_pixels: int = 1280 * 28 * 28
    frame_pixels: int = 768 * 28 * 28
    fps: float = 2.0
    frames: int = 16
    factor: int = 28

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            whole = key == "fps" or value == int(value)
            if not (isinstance(value, int | float) and whole and value > 0):
                raise InputError(f"preparation.images.{key}: {value!r} is not a positive number")
        for key in ("max_pixels", "frame_pixels"):
            if getattr(self, key) < max(self.min_pixels, self.factor**2):
                raise InputError(
                    f"preparation.images.{key}: {getattr(self, key)} is less than min_pixels "
                    f"({self.min_pixels}) or than one token ({self.factor**2})"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImagePreparation:
        """Inverse of `to_dict`; InputError on an unknown key."""
        legal = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(legal)):
            raise InputError(
                f"preparation.images: unknown key {unknown[0]!r}. Legal keys: {', '.join(legal)}."
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def fingerprint(self) -> str:
        """SHA-256 of everything that changes the pixels, code version included."""
        text = json.dumps({**asdict(self), "version": VERSION}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Height and width that are multiples of `factor`, near the aspect ratio, with an area within
    min_pixels..max_pixels. Source: Qwen2-VL's processor, `smart_resize` (equality is a test).

    Raises:
        InputError: one side is more than 200 times the other.
    """
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise InputError(
            f"{width} x {height} pixels: one side is more than {_MAX_ASPECT} times the other. "
            "Crop the image."
        )
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        h = max(factor, math.floor(height / shrink / factor) * factor)
        w = max(factor, math.floor(width / shrink / factor) * factor)
    elif h * w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        h = math.ceil(height * grow / factor) * factor
        w = math.ceil(width * grow / factor) * factor
    return h, w


def resized(pixels: np.ndarray, images: ImagePreparation, max_pixels: int) -> np.ndarray:
    """uint8 [H, W, 3] at the size that `smart_resize` gives; bicubic with antialiasing (Pillow)."""
    height, width = smart_resize(*pixels.shape[:2], images.factor, images.min_pixels, max_pixels)
    picture = Image.fromarray(pixels)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture)
