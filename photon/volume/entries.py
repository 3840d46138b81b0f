"""Files of the store: an array and its sidecar, checked, atomic, locked while being made."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from photon.files import replacing, write_json

_verified: set[Path] = set()  # entries whose checksum this process has seen to be right


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
    with replacing(folder / f"{key}.npy") as temporary, open(temporary, "xb") as stream:
        np.save(stream, array)
    write_json(folder / f"{key}.json", sidecar | {"crc32": _checksum(array)})


def _checksum(array: np.ndarray) -> int:
    return isal_zlib.crc32(array.reshape(-1).view(np.uint8))
