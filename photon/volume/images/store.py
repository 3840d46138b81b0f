"""Prepared images and videos on disk, beside the volumes of the same store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from photon.volume.content_store import ContentStore
from photon.volume.images.preparation import ImagePreparation, resized
from photon.volume.images.reading import read_image
from photon.volume.images.video import read_video
from photon.volume.sources import Located, kind_of, names
from photon.volume.types import Frames


class ImageStore(ContentStore):
    """Images and videos of one `ImagePreparation` under `root`: uint8 [T, H, W, 3] each.

    A video is decoded once; an epoch then reads its sampled frames like a volume.
    """

    def __init__(self, root: str | Path, images: ImagePreparation) -> None:
        fingerprint = images.fingerprint()
        super().__init__(root, f"images-{fingerprint[:12]}", fingerprint)
        self.images = images

    def prepare(self, source: Located) -> str:
        """Prepare an image or video unless that is done; returns its key.

        Raises:
            InputError: it cannot be read or the disk is full; nothing half-done is left.
        """
        key = self._image_key(source)
        self._entry(key, lambda: self._make(source))
        return key

    def has(self, source: Located) -> bool:
        """Whether an image or video is prepared."""
        return self._exists(self._image_key(source))

    def load(self, source: Located) -> Frames:
        """The prepared image or video; prepares it if absent."""
        entry = self._entry(self._image_key(source), lambda: self._make(source))
        # A copy: the entry is memory-mapped and read-only.
        return Frames(torch.from_numpy(np.array(entry.array)), entry.sidecar["seconds"])

    def _image_key(self, source: Located) -> str:
        return self._key(kind_of(source), self._sha256(source))

    def _make(self, source: Located) -> tuple[np.ndarray, dict[str, Any]]:
        kind = kind_of(source)
        if kind == "image":
            frames, seconds, most = [read_image(source)], None, self.images.max_pixels
        else:
            frames, seconds = read_video(source, self.images)
            most = self.images.frame_pixels
        array = np.stack([resized(frame, self.images, most) for frame in frames])
        return array, {
            "kind": kind,
            "source": [os.path.abspath(name) for name in names(source)],
            "source_sha256": self._sha256(source),
            "source_shape": list(frames[0].shape),
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "seconds": seconds,
            "preparation": self.images.to_dict(),
        }
