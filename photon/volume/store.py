"""Prepared volumes on disk: content-addressed, verified, safe between processes.

Layout under the store's root:

    <fingerprint[:12]>/<key>.npy    int16 [D, H, W] HU (volumes) or uint8/uint16 (label maps)
    <fingerprint[:12]>/<key>.json   sidecar, written last: an entry without one does not exist
    <fingerprint[:12]>/locks/       one empty file per entry, locked while it is being made
    index/                          (path, size, mtime) -> SHA-256, so that scans are hashed once
    declared/                       path -> header from a data set's metadata (see `declared`)

The key is a hash of the source's bytes, of the preparation with its code version, and of the
declared header where there is one. Files appear
under their name only when complete (temporary name, fsync, rename), and each is checked against
its CRC on the first read in a process; a damaged one is deleted and made again.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from photon.errors import InputError
from photon.volume.declared import ScanHeader, read_declared
from photon.volume.entries import (
    Entry,
    StoreError,
    locked,
    open_entry,
    read_json,
    write_atomically,
    write_entry,
)
from photon.volume.geometry import Preparation, prepare_labels, prepare_volume, same_grid
from photon.volume.plausible import implausible
from photon.volume.reader import hash_source, read_labels, read_volume
from photon.volume.types import Volume

Source = str | Path
_unwritten: dict[Path, dict[str, str]] = {}  # index entries of this process that have no file


class VolumeStore:
    """Prepared volumes of one `Preparation` under `root`. Cheap to make and to pickle.

    check_hu: refuse to prepare a scan whose values cannot be HU; a scan with a declared header is
    always checked.
    """

    def __init__(self, root: Source, preparation: Preparation, check_hu: bool = False) -> None:
        self.root = Path(root)
        self.preparation = preparation
        self.check_hu = check_hu
        self.folder = self.root / preparation.store_fingerprint()[:12]

    def prepare(self, source: Source, labels: Source | None = None) -> str:
        """Prepare a scan (and its label map) unless that is done; returns the scan's key.

        Raises:
            InputError: the scan cannot be read or the disk is full; nothing half-done is left.
        """
        key = self._volume_key(source)
        self._entry(key, lambda: self._make_volume(source))
        if labels is not None:
            self.load_labels(labels, like=source)
        return key

    def declare(self, source: Source, header: ScanHeader | None) -> None:
        """Say what a data set's metadata knows of a scan with a blank header; None takes it back.

        All further reading of that path through this store uses it.
        """
        file = self._path_file("declared", source)
        if header is None:
            file.unlink(missing_ok=True)
        elif header != self.declared(source):
            text = json.dumps({"path": os.path.abspath(source), "header": header.to_dict()})
            write_atomically(file, lambda stream: stream.write(text.encode()))

    def declared(self, source: Source) -> ScanHeader | None:
        """The header declared for a scan, if any."""
        known = read_json(self._path_file("declared", source)).get("header")
        return None if known is None else ScanHeader(**known)

    def has(self, source: Source) -> bool:
        """Whether the scan is prepared (its checksum is looked at when it is read)."""
        return self._exists(self._volume_key(source))

    def has_labels(self, labels: Source, like: Source) -> bool:
        """Whether the label map of a scan is prepared."""
        return self._exists(self._labels_key(labels, like))

    def is_known(self, source: Source, labels: Source | None = None) -> bool:
        """`has` (and `has_labels`) for files seen before; False, without hashing, for new ones."""
        try:
            if any(self._indexed(path)[1] is None for path in (source, labels or source)):
                return False
        except InputError:
            return False
        return self.has(source) and (labels is None or self.has_labels(labels, source))

    def _exists(self, key: str) -> bool:
        return (self.folder / f"{key}.json").is_file()

    def load_hu(self, source: Source) -> np.ndarray:
        """Prepared scan, int16 HU [D, H, W], memory-mapped and read-only; prepares it if absent."""
        return self._volume(source).array

    def load(self, source: Source) -> np.ndarray:
        """Prepared scan as float32 [D, H, W] in [0, 1], mirrored if the preparation says so."""
        preparation = self.preparation
        entry = self._volume(source)
        low, high = preparation.hu if preparation.intensity == "window" else entry.sidecar["range"]
        return scaled(entry.array, low, high, preparation.flip_x)

    def load_labels(self, labels: Source, like: Source) -> np.ndarray:
        """Label map on the prepared grid of the scan `like`, [D, H, W], not mirrored.

        Mirror it with `[..., ::-1]` where the preparation has `flip_x`, as `load` does.

        Raises:
            InputError: the label map lies on another grid than the scan.
        """
        return self._entry(
            self._labels_key(labels, like), lambda: self._make_labels(labels, like)
        ).array

    def info(self, source: Source) -> dict[str, Any]:
        """Sidecar of a prepared scan: source, affine (of the prepared grid, RAS+ mm), shape, ..."""
        return self._volume(source).sidecar

    def _volume(self, source: Source) -> Entry:
        return self._entry(self._volume_key(source), lambda: self._make_volume(source))

    def _volume_key(self, source: Source) -> str:
        return self._key("volume", *self._content(source))

    def _labels_key(self, labels: Source, like: Source) -> str:
        return self._key("labels", self._sha256(labels), *self._content(like))

    def _content(self, source: Source) -> list[str]:
        """What decides the voxels of a scan: its bytes, and its header where one is declared."""
        header = self.declared(source)
        return [self._sha256(source), *([str(header)] if header else [])]

    def _key(self, *parts: str) -> str:
        text = ":".join([*parts, self.preparation.store_fingerprint()])
        return hashlib.sha256(text.encode()).hexdigest()[:40]

    def _make_volume(self, source: Source) -> tuple[np.ndarray, dict[str, Any]]:
        preparation = self.preparation
        header = self.declared(source)
        if header is not None:
            volume = read_declared(source, header, preparation.nan)
        else:
            volume = read_volume(source, preparation.nan, preparation.assume_orientation)
        _check_whole_numbers(volume)
        if (header or self.check_hu) and (problem := implausible(volume.array)):
            raise InputError(f"{source}: {problem}")
        self._check_unchanged(source, volume)
        prepared = prepare_volume(volume, preparation)
        return prepared.array, _sidecar("volume", volume, prepared)

    def _make_labels(self, labels: Source, like: Source) -> tuple[np.ndarray, dict[str, Any]]:
        info = self.info(like)
        ids = read_labels(labels, self.preparation.assume_orientation)
        grid = (tuple(info["source_shape"]), np.array(info["source_affine"]))
        if not same_grid((ids.array.shape, ids.affine), grid):
            raise InputError(
                f"{labels}: lies on another voxel grid than {like} (shape or affine differ). "
                "Resample the label map to its scan with nearest neighbour."
            )
        self._check_unchanged(labels, ids)
        prepared = prepare_labels(ids, self.preparation)
        return prepared.array, _sidecar("labels", ids, prepared)

    def _check_unchanged(self, source: Source, volume: Volume) -> None:
        if volume.sha256 != self._sha256(source):
            raise InputError(f"{source}: changed while it was being read. Run again when it rests.")

    def _entry(self, key: str, make: Callable[[], tuple[np.ndarray, dict[str, Any]]]) -> Entry:
        """The entry; made first, under its lock, where it is absent or damaged."""
        if (entry := open_entry(self.folder, key)) is not None:
            return entry
        with locked(self.folder / "locks" / key):
            # Another process may have made it while this one waited.
            if (entry := open_entry(self.folder, key)) is not None:
                return entry
            for leftover in self.folder.glob(f".{key}.*.tmp"):  # of a writer that was killed
                leftover.unlink(missing_ok=True)
            array, sidecar = make()
            sidecar |= {"key": key, "preparation": self.preparation.to_dict()}
            write_entry(self.folder, key, array, sidecar)
        entry = open_entry(self.folder, key)
        if entry is None:
            raise StoreError(f"{self.folder}: does not give back what was written. Check the disk.")
        return entry

    def _sha256(self, source: Source) -> str:
        """SHA-256 of a scan, from the index where path, size and time of change are the same."""
        record, sha256 = self._indexed(source)
        if sha256 is None:
            sha256 = hash_source(source)
            text = json.dumps(record | {"sha256": sha256})
            file = self._index_file(source)
            try:
                write_atomically(file, lambda stream: stream.write(text.encode()))
            except StoreError as error:  # a store that others filled may be read-only
                warnings.warn(f"{error} Each process hashes its scans again.", stacklevel=2)
                _unwritten[file] = record | {"sha256": sha256}
        return sha256

    def _indexed(self, source: Source) -> tuple[dict[str, str], str | None]:
        """Path and state of a file as it is now, and its SHA-256 if the index holds that state."""
        record = {"path": os.path.abspath(source), "state": _state(Path(source))}
        file = self._index_file(source)
        known = dict(_unwritten.get(file) or read_json(file))
        sha256 = known.pop("sha256", None)
        return record, sha256 if known == record else None

    def _index_file(self, source: Source) -> Path:
        return self._path_file("index", source)

    def _path_file(self, folder: str, source: Source) -> Path:
        path = os.path.abspath(source).encode("utf-8", "surrogateescape")
        return self.root / folder / f"{hashlib.sha256(path).hexdigest()[:40]}.json"


def scaled(hu: np.ndarray, low: int, high: int, flip_x: bool = False) -> np.ndarray:
    """HU within low..high, [D, H, W], to float32 in [0, 1]; zeros where low == high."""
    out = np.empty(hu.shape, dtype=np.float32)
    if high <= low:
        out.fill(0)
        return out
    factor = np.float32(1 / (high - low))
    while factor * np.float32(high - low) > 1:
        factor = np.nextafter(factor, np.float32(0))
    plane = np.empty(hu.shape[1:], dtype=np.float32)
    for stored, result in zip(hu, out, strict=True):  # slice by slice: it stays in the cache
        target = plane if flip_x else result
        np.copyto(target, stored)
        target -= np.float32(low)
        target *= factor
        if flip_x:
            result[...] = plane[:, ::-1]
    return out


def _sidecar(kind: str, read: Volume, prepared: Volume) -> dict[str, Any]:
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
    }


def _check_whole_numbers(volume: Volume) -> None:
    """The store keeps whole HU; a scan scaled to [0, 1] would silently lose everything."""
    low, high = float(volume.array.min()), float(volume.array.max())
    if 0 < high - low < 16 and (low % 1 or high % 1 or np.any(volume.array % 1)):
        raise InputError(
            f"{volume.source}: its values span only {low:g} to {high:g}, with fractions, so they "
            "are not HU. Prepare from the original scan, or multiply it to whole numbers."
        )


def _state(path: Path) -> str:
    """Size and time of change of a file, or of all files of a folder."""
    try:
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        facts = [(p.name, (s := p.stat()).st_size, s.st_mtime_ns) for p in files]
    except OSError as error:
        raise InputError(
            f"{path}: no such file or folder ({error.strerror}). Check the path and the data root."
        ) from error
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()
