"""Volumes, label maps and thumbnails as the page reads them.

Shape suffixes: D H W voxels, d h w tokens.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence

import numpy as np
from isal import igzip
from PIL import Image

STEP = 4  # HU: finer differences are noise, and double the size
THUMB = 112  # pixels of a slice's longer side
THUMB_WINDOW = (-160.0, 240.0)  # HU


def script(name: str, array: np.ndarray, affine: np.ndarray) -> str:
    """A script that hands the page an array [D, H, W] as NIfTI: a page on disk may not fetch."""
    data = base64.b64encode(igzip.compress(nifti_bytes(array, affine), 2)).decode()
    return f"photonData({json.dumps(name)}, {json.dumps(data)});\n"


def nifti_bytes(array: np.ndarray, affine: np.ndarray) -> bytes:
    """A NIfTI file of an array [D, H, W] whose affine maps (w, h, d, 1) to RAS+ mm."""
    import nibabel as nib

    image = nib.Nifti1Image(np.ascontiguousarray(array).T, np.asarray(affine, dtype=float))
    return image.to_bytes()


def rounded(hu: np.ndarray) -> np.ndarray:
    """int16 [D, H, W] to whole steps of STEP HU."""
    half = STEP // 2
    return ((hu.astype(np.int32) + half) // STEP * STEP).astype(np.int16)


def shrunk(
    array: np.ndarray, affine: np.ndarray, by: int, labels: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Every `by` voxels of each axis as one (their mean; of labels the first), with its affine."""
    if by == 1:
        return np.asarray(array), np.asarray(affine)
    shape = [n // by for n in array.shape]
    whole = np.asarray(array)[tuple(slice(n * by) for n in shape)]
    blocks = whole.reshape(*(m for n in shape for m in (n, by)))
    out = blocks[:, 0, :, 0, :, 0] if labels else blocks.mean(axis=(1, 3, 5)).round()
    scale = np.diag([by, by, by, 1.0])
    scale[:3, 3] = (by - 1) / 2
    return out.astype(array.dtype), np.asarray(affine) @ scale


def thumbnails(
    hu: np.ndarray, token: Sequence[int], spacing: Sequence[float], window: Sequence[float]
) -> bytes:
    """A JPEG of the middle slice of each slab of tokens, side by side."""
    low, high = window
    slices = np.asarray(hu)[token[0] // 2 :: token[0]]
    grey = np.clip((slices - low) / max(high - low, 1e-6), 0, 1) * 255
    height, width = hu.shape[1] * spacing[1], hu.shape[2] * spacing[2]
    size = [max(1, round(THUMB * side / max(width, height))) for side in (width, height)]
    strip = Image.new("L", (size[0] * len(grey), size[1]))
    for i, one in enumerate(grey.astype(np.uint8)):
        strip.paste(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR), (i * size[0], 0))
    out = io.BytesIO()
    strip.save(out, "JPEG", quality=82)
    return out.getvalue()


def window_of(hu: np.ndarray) -> tuple[float, float] | None:
    """The 1st and 99th percentile of values that are not HU; None where they are."""
    sample = np.asarray(hu)[::4, ::4, ::4]
    if sample.min() < -500:
        return None
    low, high = np.percentile(sample, [1, 99])
    return float(low), float(max(high, low + 1))
