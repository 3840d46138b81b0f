"""Frames sampled from a video: a file, a folder or list of pictures, a GIF, or an array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from photon.errors import InputError
from photon.volume.images.preparation import ImagePreparation
from photon.volume.images.reading import read_image
from photon.volume.sources import ARRAY_SUFFIXES, Located, frame_files, load_array, names

_GIF_SECONDS = 0.1  # of a frame that does not say, as browsers do


@dataclass(frozen=True)
class Clip:
    """A video that can be sampled: `frames` of them, `fps` a second; `take(indices)`, rising."""

    frames: int
    fps: float
    take: Callable[[Sequence[int]], list[np.ndarray]]


def read_video(source: Located, images: ImagePreparation) -> tuple[list[np.ndarray], float]:
    """Sampled frames, uint8 [H, W, 3] each of one size, and the seconds between two of them.

    Raises:
        InputError: missing, damaged or empty; frames of different sizes; no decoder is installed.
    """
    clip = _open(source, images.fps)
    if clip.frames < 1:
        raise InputError(f"{names(source)[0]}: holds no frame. Fetch the video again.")
    indices = sample_indices(clip.frames, clip.fps, images)
    frames = clip.take(indices)
    if len({frame.shape for frame in frames}) > 1:
        shapes = sorted({f"{f.shape[1]} x {f.shape[0]}" for f in frames})
        raise InputError(
            f"{names(source)[0]}: frames of different sizes ({', '.join(shapes)}). A video's "
            "frames have one size; name different pictures as images."
        )
    return frames, clip.frames / clip.fps / len(indices)


def sample_indices(frames: int, fps: float, images: ImagePreparation) -> list[int]:
    """Frames to take: `images.fps` a second, at most `images.frames`, evenly over the length.

    Source: `sample_frames` of the stock Qwen2-VL video processor; an odd count is allowed here, as
    patches repeat the last frame.
    """
    wanted = round(frames / fps * images.fps)
    count = min(max(wanted, 1), images.frames, frames)
    return [i * frames // count for i in range(count)]


def _open(source: Located, fps: float) -> Clip:
    path = Path(names(source)[0])
    if not isinstance(source, tuple) and path.is_dir():
        source = frame_files(path)
    if isinstance(source, tuple):
        files = source
        return Clip(len(files), fps, lambda indices: [read_image(files[i]) for i in indices])
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path and the data root.")
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return _array(path, fps)
    return _gif(path) if path.suffix.lower() == ".gif" else _encoded(path)


def _array(path: Path, fps: float) -> Clip:
    array = load_array(path)
    fractions = array.dtype.kind == "f"
    if array.dtype != np.uint8 and not (fractions and 0 <= array.min() and array.max() <= 1):
        raise InputError(
            f"{path}: frames of {array.dtype} are not read. Save uint8, or fractions in 0..1."
        )

    def take(indices: Sequence[int]) -> list[np.ndarray]:
        chosen = array[list(indices)]
        pixels = np.rint(chosen * 255.0).astype(np.uint8) if fractions else np.array(chosen)
        return list(np.broadcast_to(pixels, (*pixels.shape[:3], 3)))

    return Clip(len(array), fps, take)


def _gif(path: Path) -> Clip:
    try:
        with Image.open(path) as image:
            seconds, frames = [], []
            for frame in ImageSequence.Iterator(image):
                seconds.append(frame.info.get("duration", 0) / 1000 or _GIF_SECONDS)
                frames.append(np.array(frame.convert("RGB")))
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise InputError(f"{path}: is not a GIF that can be read ({error}).") from error
    return Clip(len(frames), len(frames) / sum(seconds), lambda at: [frames[i] for i in at])


def _encoded(path: Path) -> Clip:
    """An encoded video through PyAV, which is optional."""
    try:
        import av
    except ImportError as error:
        raise InputError(
            f"{path}: reading {path.suffix} files needs PyAV (pip install av). Or give the video "
            "as a folder of frames, a GIF or a .npy array."
        ) from error
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            fps = float(stream.average_rate or stream.guessed_rate)
            # The header's own count is often absent or wrong.
            frames = sum(packet.size > 0 for packet in container.demux(stream))
    except (OSError, ValueError, IndexError, TypeError) as error:  # av's errors derive from these
        raise _damaged(path, error) from error

    def take(indices: Sequence[int]) -> list[np.ndarray]:
        wanted, found = set(indices), []
        try:
            with av.open(str(path)) as container:
                for index, frame in enumerate(container.decode(video=0)):
                    if index in wanted:
                        found.append(frame.to_ndarray(format="rgb24"))
                    if len(found) == len(wanted):
                        return found
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error
        raise _damaged(path, f"{len(found)} of {len(wanted)} sampled frames are there")

    return Clip(frames, fps, take)


def _damaged(path: Path, error: object) -> InputError:
    return InputError(f"{path}: is not a video that can be read ({error}). Fetch it again.")
