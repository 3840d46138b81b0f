"""One 2D image from a file, as 8-bit RGB."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from photon.errors import InputError
from photon.volume.dicom import decode, is_dicom, read_header

_DEEP = ("I", "F")  # modes of more than 8 bits begin so


def read_image(path: str | Path) -> np.ndarray:
    """uint8 [H, W, 3] of a PNG, JPEG, BMP, TIFF or WebP file, or of a single DICOM image.

    Turned upright by its EXIF tag; alpha is laid on white (as Qwen's own code does). Greys of more
    than 8 bits have no common scale (12 of 16 bits is usual), so the image's own range becomes
    0..255; a DICOM image goes by its window, or by its own range without one.

    Raises:
        InputError: missing, damaged, or of several pages; names file and way out.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path and the data root.")
    if is_dicom(path):
        return _read_dicom(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                    raise InputError(
                        f"{path}: holds {image.n_frames} pages or frames. Save the one that is "
                        "meant, or give all as a folder of images."
                    )
                return _rgb(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise InputError(
            f"{path}: is not an image that can be read ({error}). Fetch it again or save it as PNG."
        ) from error


def _rgb(image: Image.Image) -> np.ndarray:
    image.load()
    if image.mode.startswith(_DEEP):
        return grey_to_rgb(np.asarray(image, dtype=np.float64))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def grey_to_rgb(
    values: np.ndarray, low: float | None = None, high: float | None = None
) -> np.ndarray:
    """[H, W] numbers to uint8 [H, W, 3], low..high (their own range) to 0..255; 0 where equal."""
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    scaled = (values.clip(low, high) - low) * (255 / (high - low)) if high > low else 0 * values
    return np.repeat(np.rint(scaled).astype(np.uint8)[..., None], 3, axis=2)


def _read_dicom(path: Path) -> np.ndarray:
    header = read_header(path)
    frames = int(header.get("NumberOfFrames") or 1)
    kind = str(header.get("PhotometricInterpretation", ""))
    if frames > 1 or kind == "PALETTE COLOR" or "Rows" not in header:
        what = f"{frames} frames" if frames > 1 else "a colour table" if kind else "no image"
        raise InputError(f"{path}: is a DICOM file with {what}. Convert it to PNG files.")
    stored = decode(path)
    if stored.ndim == 3:
        if stored.dtype != np.uint8 or stored.shape[2] != 3:
            raise InputError(f"{path}: {kind} of {stored.dtype} is not read. Convert it to PNG.")
        return stored
    values = stored * float(header.get("RescaleSlope") or 1)
    values = values + float(header.get("RescaleIntercept") or 0)
    low = high = None
    if header.get("WindowWidth") is not None and header.get("WindowCenter") is not None:
        centre, width = (_first(header[k].value) for k in ("WindowCenter", "WindowWidth"))
        low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    pixels = grey_to_rgb(values, low, high)
    return 255 - pixels if kind == "MONOCHROME1" else pixels


def _first(value: object) -> float:
    """The first of several windows."""
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)
