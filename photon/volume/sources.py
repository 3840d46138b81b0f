"""What the paths of a record hold, told by the file: a volume, an image or a video.

Without torch, numpy and Pillow at the top: records are read by commands that must start at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from photon.errors import InputError

if TYPE_CHECKING:
    import numpy as np

SourceKind = Literal["volume", "image", "video"]
Source = str | tuple[str, ...]  # as a record names it; several names are the frames of one video
Located = str | Path | tuple[str | Path, ...]  # on disk

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".gif")
ARRAY_SUFFIXES = (".npy", ".npz")


def kind_of(source: Located) -> SourceKind:
    """Kind of a source on disk; what cannot be told is a "volume", whose reader says what is wrong.

    A .npy or .npz of four axes that ends in 1 or 3 channels holds frames, any other a volume. A
    single DICOM file is an image, a folder of pictures a video, any other folder a volume.
    """
    if isinstance(source, tuple):
        return "video"
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix in (".nii", ".gz"):
        return "volume"
    if suffix in IMAGE_SUFFIXES or suffix in VIDEO_SUFFIXES:
        return "image" if suffix in IMAGE_SUFFIXES else "video"
    if suffix in ARRAY_SUFFIXES and os.path.isfile(path):
        return _kind_of_array(path)
    if os.path.isdir(path):
        return "video" if frame_files(path) else "volume"
    if os.path.isfile(path):
        from photon.volume.dicom import is_dicom

        return "image" if is_dicom(path) else "volume"
    return "volume"


def _kind_of_array(path: Path) -> SourceKind:
    try:
        shape = load_array(path).shape
    except InputError:  # said again by the reader
        return "volume"
    return "video" if len(shape) == 4 and shape[-1] in (1, 3) else "volume"


def is_image_name(source: Source) -> bool:
    """Whether a name alone says image; decides the key and tag under which a row names it."""
    return isinstance(source, str) and Path(source).suffix.lower() in (*IMAGE_SUFFIXES, ".dcm")


def frame_files(folder: Path) -> tuple[Path, ...]:
    """Pictures directly in a folder, by name; none where it also holds other files."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    pictures = tuple(p for p in files if p.suffix.lower() in IMAGE_SUFFIXES)
    return pictures if len(pictures) == len(files) else ()


def names(source: Located) -> tuple:
    """The files of a source: one, or each frame."""
    return source if isinstance(source, tuple) else (source,)


def locate(root: str | Path, source: Source) -> str | tuple[str, ...]:
    """A record's source below a root."""
    found = tuple(str(Path(root) / name) for name in names(source))
    return found if isinstance(source, tuple) else found[0]


def label(source: Located) -> str:
    """A source in a message."""
    first = str(names(source)[0])
    return first if not isinstance(source, tuple) else f"{first} (of {len(source)} frames)"


def absent(source: Located) -> str | None:
    """The first file of a source that is not there, or None."""
    return next((str(name) for name in names(source) if not os.path.exists(name)), None)


def load_array(path: Path) -> np.ndarray:
    """The array of a .npy file (memory-mapped), or the only one of a .npz file."""
    import numpy as np

    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            if len(found.files) != 1:
                raise ValueError(f"it holds {len(found.files)} arrays, not one")
            return found[found.files[0]]
    except Exception as error:  # damaged zip and npy headers raise many kinds
        raise InputError(
            f"{path}: is not an array that can be read ({error}). Save it again with numpy.save."
        ) from error
