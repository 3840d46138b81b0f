"""Prepared volumes on disk: content-addressed, verified, safe between processes.

Layout under the store's root:

    <fingerprint[:12]>/<key>.npy    int16 [D, H, W] HU (volumes) or uint8/uint16 (label maps)
    <fingerprint[:12]>/<key>.json   sidecar, written last: an entry without one does not exist
    <fingerprint[:12]>/locks/       one empty file per entry, locked while it is being made
    images-<fingerprint[:12]>/      the same for images and videos: uint8 [T, H, W, 3]
    index/                          (path, size, mtime) -> SHA-256, so that scans are hashed once
    declared/                       path -> header from a data set's metadata (see `ScanHeader`)

The key is a hash of the source's bytes, of the preparation with its code version, and of the
declared header where there is one. Files appear
under their name only when complete (temporary name, fsync, rename), and each is checked against
its CRC on the first read in a process; a damaged one is deleted and made again.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from photon.errors import InputError
from photon.files import write_json
from photon.volume.content_store import ContentStore, Entry, read_json
from photon.volume.geometry import Preparation, check_grid, prepare_labels, prepare_volume
from photon.volume.images.store import ImageStore
from photon.volume.reader import implausible, read_labels, read_volume
from photon.volume.sources import Located, kind_of
from photon.volume.types import Frames, ScanHeader, Volume


class VolumeStore(ContentStore):
    """Prepared volumes of one `Preparation` under `root`, and the images and videos beside them.

    check_hu: refuse to prepare a scan whose values cannot be HU; a scan with a declared header is
    always checked.
    """

    def __init__(self, root: str | Path, preparation: Preparation, check_hu: bool = False) -> None:
        fingerprint = preparation.store_fingerprint()
        super().__init__(root, fingerprint[:12], fingerprint)
        self.preparation = preparation
        self.check_hu = check_hu
        self.images = ImageStore(root, preparation.images)

    def read(self, source: Located) -> Tensor | Frames:
        """What the model is shown of a source: a volume as `load` gives it, or frames."""
        if kind_of(source) != "volume":
            return self.images.load(source)
        return torch.from_numpy(self.load(source))

    def prepare(self, source: Located, labels: str | Path | None = None) -> str:
        """Prepare a scan (and its label map), image or video unless that is done; returns its key.

        Raises:
            InputError: it cannot be read or the disk is full; nothing half-done is left.
        """
        if kind_of(source) != "volume":
            if labels is not None:
                raise InputError(f"{labels}: label maps go with volumes, and {source} is none.")
            return self.images.prepare(source)
        key = self._volume_key(source)
        self._entry(key, lambda: self._make_volume(source))
        if labels is not None:
            self.load_labels(labels, like=source)
        return key

    def declare(self, source: str | Path, header: ScanHeader | None) -> None:
        """Say what a data set's metadata knows of a scan with a blank header; None takes it back.

        All further reading of that path through this store uses it.
        """
        file = self._path_file("declared", source)
        if header is None:
            file.unlink(missing_ok=True)
        elif header != self.declared(source):
            write_json(file, {"path": os.path.abspath(source), "header": header.to_dict()})

    def declared(self, source: str | Path) -> ScanHeader | None:
        """The header declared for a scan, if any."""
        known = read_json(self._path_file("declared", source)).get("header")
        return None if known is None else ScanHeader(**known)

    def has(self, source: Located) -> bool:
        """Whether the source is prepared (its checksum is looked at when it is read)."""
        if kind_of(source) != "volume":
            return self.images.has(source)
        return self._exists(self._volume_key(source))

    def has_labels(self, labels: str | Path, like: str | Path) -> bool:
        """Whether the label map of a scan is prepared."""
        return self._exists(self._labels_key(labels, like))

    def is_known(self, source: Located, labels: str | Path | None = None) -> bool:
        """`has` (and `has_labels`) for files seen before; False, without hashing, for new ones."""
        if labels is None:
            return super().is_known(source)
        known = self._hashed(source) and self._hashed(labels)
        return known and self.has(source) and self.has_labels(labels, source)

    def load_hu(self, source: str | Path) -> np.ndarray:
        """Prepared scan, int16 HU [D, H, W], memory-mapped and read-only; prepares it if absent."""
        return self._volume(source).array

    def load(self, source: str | Path) -> np.ndarray:
        """Prepared scan as float32 [D, H, W] in [0, 1], mirrored if the preparation says so.

        With `windows` [C, D, H, W], a channel for each.
        """
        preparation = self.preparation
        entry = self._volume(source)
        if preparation.windows is not None:
            return scaled(entry.array, preparation.windows, preparation.flip_x)
        whole = preparation.hu if preparation.intensity == "window" else entry.sidecar["range"]
        return scaled(entry.array, [whole], preparation.flip_x)[0]

    def load_labels(self, labels: str | Path, like: str | Path) -> np.ndarray:
        """Label map on the prepared grid of the scan `like`, [D, H, W], not mirrored.

        Mirror it with `[..., ::-1]` where the preparation has `flip_x`, as `load` does.

        Raises:
            InputError: the label map lies on another grid than the scan.
        """
        return self._entry(
            self._labels_key(labels, like), lambda: self._make_labels(labels, like)
        ).array

    def info(self, source: str | Path) -> dict[str, Any]:
        """Sidecar of a prepared scan: source, affine (of the prepared grid, RAS+ mm), shape, ..."""
        return self._volume(source).sidecar

    def _volume(self, source: str | Path) -> Entry:
        return self._entry(self._volume_key(source), lambda: self._make_volume(source))

    def _volume_key(self, source: str | Path) -> str:
        return self._key("volume", *self._content(source))

    def _labels_key(self, labels: str | Path, like: str | Path) -> str:
        return self._key("labels", self._sha256(labels), *self._content(like))

    def _content(self, source: str | Path) -> list[str]:
        """What decides the voxels of a scan: its bytes, and its header where one is declared."""
        header = self.declared(source)
        return [self._sha256(source), *([str(header)] if header else [])]

    def _make_volume(self, source: str | Path) -> tuple[np.ndarray, dict[str, Any]]:
        preparation = self.preparation
        header = self.declared(source)
        volume = read_volume(source, preparation.nan, preparation.assume_orientation, header=header)
        _check_whole_numbers(volume)
        known = header is None or header.spacing is not None
        if (header or self.check_hu) and known and (problem := implausible(volume.array)):
            raise InputError(f"{source}: {problem}")
        self._check_unchanged(source, volume)
        if not known:  # nothing to measure millimetres by
            preparation = replace(preparation, spacing=None, crop=None)
        prepared = prepare_volume(volume, preparation)
        return prepared.array, self._sidecar("volume", volume, prepared)

    def _make_labels(self, labels: str | Path, like: str | Path) -> tuple[np.ndarray, dict]:
        info = self.info(like)
        ids = read_labels(labels, self.preparation.assume_orientation)
        grid = (tuple(info["source_shape"]), np.array(info["source_affine"]))
        check_grid(ids, grid, like)
        self._check_unchanged(labels, ids)
        prepared = prepare_labels(ids, self.preparation)
        return prepared.array, self._sidecar("labels", ids, prepared)

    def _check_unchanged(self, source: str | Path, volume: Volume) -> None:
        if volume.sha256 != self._sha256(source):
            raise InputError(f"{source}: changed while it was being read. Run again when it rests.")

    def _sidecar(self, kind: str, read: Volume, prepared: Volume) -> dict[str, Any]:
        return {
            "kind": kind,
            "source": os.path.abspath(read.source),
            "source_sha256": read.sha256,
            "source_shape": list(read.array.shape),
            "source_affine": read.affine.tolist(),
            "shape": list(prepared.array.shape),
            "dtype": str(prepared.array.dtype),
            "range": [int(prepared.array.min()), int(prepared.array.max())],
            "affine": prepared.affine.tolist(),
            "preparation": self.preparation.to_dict(),
        }


def scaled(hu: np.ndarray, ranges: Sequence[tuple[int, int]], flip_x: bool = False) -> np.ndarray:
    """HU [D, H, W], clipped to each of C ranges (low, high), to float32 [C, D, H, W] in [0, 1].

    A channel is zero where low == high.
    """
    out = np.empty((len(ranges), *hu.shape), dtype=np.float32)
    plane = np.empty(hu.shape[1:], dtype=np.float32)
    for (low, high), channel in zip(ranges, out, strict=True):
        if high <= low:
            channel.fill(0)
            continue
        factor = np.float32(1 / (high - low))
        for stored, result in zip(hu, channel, strict=True):  # slice by slice: it stays in cache
            np.copyto(plane, stored)
            plane -= np.float32(low)
            plane *= factor
            np.clip(plane, 0, 1, out=result[:, ::-1] if flip_x else result)
    return out


def _check_whole_numbers(volume: Volume) -> None:
    """The store keeps whole HU; a scan scaled to [0, 1] would silently lose everything."""
    low, high = float(volume.array.min()), float(volume.array.max())
    if 0 < high - low < 16 and (low % 1 or high % 1 or np.any(volume.array % 1)):
        raise InputError(
            f"{volume.source}: its values span only {low:g} to {high:g}, with fractions, so they "
            "are not HU. Prepare from the original scan, or multiply it to whole numbers."
        )
