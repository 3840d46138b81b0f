"""Files of the store: an array and its sidecar, checked, atomic, locked while being made."""

import errno
import fcntl
import json
import os
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from photon.errors import InputError

_verified: set[Path] = set()  # entries whose checksum this process has seen to be right


class StoreError(InputError):
    """The store's folder cannot be used; every further volume would fail alike."""


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


def open_entry(folder: Path, key: str) -> Entry | None:
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


def write_entry(folder: Path, key: str, array: np.ndarray, sidecar: dict[str, Any]) -> None:
    """Write array and sidecar; the sidecar comes last and makes the entry exist."""
    array = np.ascontiguousarray(array)
    text = json.dumps(sidecar | {"crc32": _checksum(array)}, indent=1)
    write_atomically(folder / f"{key}.npy", lambda stream: np.save(stream, array))
    write_atomically(folder / f"{key}.json", lambda stream: stream.write(text.encode()))


def _checksum(array: np.ndarray) -> int:
    return isal_zlib.crc32(array.reshape(-1).view(np.uint8))


def write_atomically(path: Path, write: Callable[[Any], Any]) -> None:
    """Write under a temporary name, flush to disk, then give the file its name."""
    temporary = path.parent / f".{path.stem}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(
                f"{path.parent}: cannot be written ({error.strerror or error}). "
                "Free disk space, or choose another store."
            ) from error
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system releases when the process ends, however it ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise StoreError(
            f"{path.parent}: cannot be written ({error.strerror}). Choose another store."
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:  # network file systems without locks: work may be done twice
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            warnings.warn(f"{path.parent}: the file system has no locks.", stacklevel=3)
        yield
    finally:
        os.close(handle)
