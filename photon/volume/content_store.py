"""What a store of prepared inputs is made of: keys by content, locked writing, known hashes."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from photon.errors import InputError
from photon.files import WriteError, locked, replacing, write_json
from photon.volume.reader import hash_source
from photon.volume.sources import Located, frame_files, names

_verified: set[Path] = set()  # entries whose checksum this process has seen to be right
_unwritten: dict[Path, dict[str, str]] = {}  # index entries of this process that have no file


@dataclass(frozen=True)
class Entry:
    """One entry of a store: a read-only memory-mapped array and what is known about it."""

    array: np.ndarray
    sidecar: dict[str, Any]


def read_json(path: Path) -> dict[str, Any]:
    """Contents of a small JSON file; empty where it is absent or damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _open_entry(folder: Path, key: str) -> Entry | None:
    """The entry, or None where it is absent; a damaged one is deleted with a warning."""
    path, side = folder / f"{key}.npy", folder / f"{key}.json"
    if not side.is_file():
        return None
    sidecar = read_json(side)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        sound = list(array.shape) == sidecar["shape"] and str(array.dtype) == sidecar["dtype"]
        if sound and path not in _verified:
            sound = _checksum(array) == sidecar["crc32"]
    except (OSError, ValueError, KeyError, EOFError):
        sound = False
    if sound:
        _verified.add(path)
        return Entry(array, sidecar)
    warnings.warn(f"{path}: damaged store entry, deleted and made again.", stacklevel=4)
    _verified.discard(path)
    side.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    return None


def _write_entry(folder: Path, key: str, array: np.ndarray, sidecar: dict[str, Any]) -> None:
    """Write array and sidecar; the sidecar comes last and makes the entry exist."""
    array = np.ascontiguousarray(array)
    with replacing(folder / f"{key}.npy") as temporary, open(temporary, "xb") as stream:
        np.save(stream, array)
    write_json(folder / f"{key}.json", sidecar | {"crc32": _checksum(array)})


def _checksum(array: np.ndarray) -> int:
    return isal_zlib.crc32(array.reshape(-1).view(np.uint8))


class ContentStore:
    """Entries in `root/folder`, keyed by the sources' bytes and by `settings`, a fingerprint.

    Cheap to make and to pickle.
    """

    def __init__(self, root: str | Path, folder: str, settings: str) -> None:
        self.root = Path(root)
        self.folder = self.root / folder
        self._settings = settings

    def has(self, source: Located) -> bool:
        """Whether a source is prepared (its checksum is looked at when it is read)."""
        raise NotImplementedError

    def is_known(self, source: Located) -> bool:
        """`has` for files seen before; False, without hashing, for new ones."""
        return self._hashed(source) and self.has(source)

    def _hashed(self, source: Located) -> bool:
        try:
            return self._indexed(source)[1] is not None
        except InputError:
            return False

    def _exists(self, key: str) -> bool:
        return (self.folder / f"{key}.json").is_file()

    def _key(self, *parts: str) -> str:
        return hashlib.sha256(":".join([*parts, self._settings]).encode()).hexdigest()[:40]

    def _entry(self, key: str, make: Callable[[], tuple[np.ndarray, dict[str, Any]]]) -> Entry:
        """The entry; made first, under its lock, where it is absent or damaged."""
        if (entry := _open_entry(self.folder, key)) is not None:
            return entry
        with locked(self.folder / "locks" / key):
            # Another process may have made it while this one waited.
            if (entry := _open_entry(self.folder, key)) is not None:
                return entry
            for leftover in self.folder.glob(f".{key}.*.tmp"):  # of a writer that was killed
                leftover.unlink(missing_ok=True)
            array, sidecar = make()
            _write_entry(self.folder, key, array, sidecar | {"key": key})
        entry = _open_entry(self.folder, key)
        if entry is None:
            raise WriteError(f"{self.folder}: does not give back what was written. Check the disk.")
        return entry

    def _sha256(self, source: Located) -> str:
        """SHA-256 of a source, from the index where path, size and time of change are the same."""
        record, sha256 = self._indexed(source)
        if sha256 is None:
            sha256 = _hash(source)
            file = self._path_file("index", source)
            try:
                write_json(file, record | {"sha256": sha256})
            except WriteError as error:  # a store that others filled may be read-only
                warnings.warn(f"{error} Each process hashes its scans again.", stacklevel=2)
                _unwritten[file] = record | {"sha256": sha256}
        return sha256

    def _indexed(self, source: Located) -> tuple[dict[str, str], str | None]:
        """Path and state of a source now, and its SHA-256 if the index holds that state."""
        record = {"path": _path(source), "state": _state(source)}
        file = self._path_file("index", source)
        known = dict(_unwritten.get(file) or read_json(file))
        sha256 = known.pop("sha256", None)
        return record, sha256 if known == record else None

    def _path_file(self, folder: str, source: Located) -> Path:
        path = _path(source).encode("utf-8", "surrogateescape")
        return self.root / folder / f"{hashlib.sha256(path).hexdigest()[:40]}.json"


def _path(source: Located) -> str:
    """Absolute path of a source; of a video's frames one a line."""
    return "\n".join(os.path.abspath(name) for name in names(source))


def _hash(source: Located) -> str:
    """SHA-256 of a file or series, or of a video's frames in their order."""
    files = source
    if not isinstance(source, tuple) and Path(source).is_dir():
        files = frame_files(Path(source)) or source
    if not isinstance(files, tuple):
        return hash_source(files)
    return hashlib.sha256("".join(map(hash_source, files)).encode()).hexdigest()


def _state(source: Located) -> str:
    """Size and time of change of a source's files; of a folder, of all in it."""
    facts = []
    for path in map(Path, names(source)):
        try:
            files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
            facts += [(p.name, (s := p.stat()).st_size, s.st_mtime_ns) for p in files]
        except OSError as error:
            raise InputError(
                f"{path}: no such file or folder ({error.strerror}). Check the path and the data "
                "root."
            ) from error
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()
