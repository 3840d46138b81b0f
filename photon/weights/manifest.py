"""What lies in an export and what it must look like: digests of its files, and photon.json.

`manifest.json` is written last: a folder without it was not finished, or was not made here. Who has
changed weights on purpose says so with `python -m photon accept FOLDER`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from photon.annotations import Count, Positive
from photon.errors import InputError
from photon.files import read_json, write_json

MANIFEST = "manifest.json"
FORMAT = 2
_SUFFIXES = (".json", ".jinja", ".safetensors", ".txt")  # what a loader reads
_WAY_OUT = "Copy the export again, or export the model again"


class StoredPruner(TypedDict):
    """The pruner of an export: its name in `photon.pruning.named`, and what builds it again."""

    name: str
    options: Mapping


class _Always(TypedDict):
    format: int
    pruner: StoredPruner | None
    preparation: Mapping
    depth_stride: Count
    slab: Count
    image_mean: float | Sequence[float]
    image_std: Positive | Sequence[Positive]
    kv: Literal["full", "compact"]


class Spec(_Always, total=False):
    """photon.json."""

    positions: Literal["trained", "stock"]
    leading_space: bool
    air: float | None
    provenance: Mapping


class Manifest(TypedDict):
    """manifest.json: SHA-256 by file name."""

    sha256: dict[str, str]


def read_spec(folder: Path) -> dict[str, Any] | None:
    """photon.json of an export, or None where the folder is not one.

    Raises InputError that names file and key.
    """
    path = folder / "photon.json"
    if not path.is_file():
        return None
    found = read_json(path, _WAY_OUT).get("format")
    if found != FORMAT:
        raise InputError(
            f"{path}: format {found} is not {FORMAT}, which this version reads: "
            "export the model again with this version"
        )
    return read_json(path, _WAY_OUT, Spec)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of an export that a loader may read, but for the manifest."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in _SUFFIXES and path.name != MANIFEST and path.is_file():
            with open(path, "rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def write_manifest(folder: Path) -> None:
    """Say that the files of an export are as they are to be."""
    write_json(folder / MANIFEST, {"sha256": digests(folder)})


def changes(folder: Path) -> dict[str, str]:
    """Files of an export that are not those of its manifest, and how; all where there is none.

    Raises InputError where the manifest is damaged.
    """
    path, now = folder / MANIFEST, digests(folder)
    known = read_json(path, _WAY_OUT, Manifest)["sha256"] if path.is_file() else {}
    return {
        name: "missing" if name not in now else "not listed" if name not in known else "changed"
        for name in sorted(now.keys() | known.keys())
        if now.get(name) != known.get(name)
    }


def check_manifest(folder: Path) -> None:
    """Raise InputError unless the files of an export are those that were written.

    Other checkpoints have no manifest, and are not looked at.
    """
    if not (folder / MANIFEST).is_file():
        if not (folder / "photon.json").is_file():
            return
        raise InputError(
            f"{folder}: has no {MANIFEST}: the export was not finished, or is not of this version. "
            f"{_WAY_OUT}, or accept it as it is: python -m photon accept {folder}"
        )
    if wrong := changes(folder):
        told = ", ".join(f"{name} ({how})" for name, how in wrong.items())
        raise InputError(
            f"{folder}: not as it was exported: {told}. {_WAY_OUT}; where you changed it yourself: "
            f"python -m photon accept {folder}"
        )
