"""Checkpoints that a crash cannot destroy.

Lightning's own save streams into the system's temporary folder and then moves: across file systems
that move is a copy, and a kill or a full disk inside it destroys the previous checkpoint too. Here
the new file grows beside the old one, is synced, and takes its name in one step; the one before it
stays as NAME.previous. A manifest (NAME.json) lists the SHA-256 of the last two complete files, so
that a file is whole exactly when its digest stands there, whichever step a crash interrupted.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from photon.errors import InputError
from photon.files import replacing, sync, write_json, writing

# What `torch.load(weights_only=True)` reads back without any code of ours.
# Exact types: numpy.float64, for one, is a float and needs numpy's own code to come back.
PLAIN = (str, bytes, int, float, bool, torch.dtype, torch.device, torch.Size)
READ_BLOCK = 1 << 22


class AtomicCheckpointIO(CheckpointIO):
    """Writes and reads one checkpoint file safely; `Trainer(plugins=[AtomicCheckpointIO()])`.

    Writing needs free space for one more checkpoint. Reading hashes the file once; a damaged newest
    file is passed over, with a warning, for the previous one. Contents must be plain (tensors,
    numbers, text, lists, dicts): checkpoints are only ever read with `weights_only=True`.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Raises WriteError (previous file untouched) and TypeError (contents not plain)."""
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO has no storage options")
        assert_plain(checkpoint)
        path = Path(path)
        with writing(path):
            for left_by_a_killed_process in path.parent.glob(f".{path.name}.*.tmp"):
                left_by_a_killed_process.unlink(missing_ok=True)
        with replacing(path) as new:
            with open(new, "wb") as file:
                hashing = HashingFile(file)
                torch.save(checkpoint, hashing)
            sync(new)
            entry = {"bytes": hashing.size, "step": checkpoint.get("global_step")}
            # After every single step from here on one whole file is known.
            announce(path, hashing.hexdigest(), entry)
            if path.exists():
                os.replace(path, previous_of(path))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | str | torch.device | None = "cpu",
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """The newest whole checkpoint of `path`; always read with `weights_only=True`.

        Raises FileNotFoundError when there is none, InputError when none of them is whole.
        """
        return read_plain(newest_whole(path), map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        path = Path(path)
        for file in (path, previous_of(path), manifest_of(path)):
            file.unlink(missing_ok=True)


class HashingFile:
    """Passes writes on to a file and hashes them, so that the file need not be read again."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.size = 0
        self._sha = hashlib.sha256()

    def write(self, block: bytes | memoryview) -> int:
        self._sha.update(block)
        self.size += len(block)
        return self.file.write(block)

    def flush(self) -> None:
        self.file.flush()

    def hexdigest(self) -> str:
        return self._sha.hexdigest()


def has_checkpoint(path: str | Path) -> bool:
    """Whether there is anything to resume from: a crash may have left the previous file only."""
    path = Path(path)
    # DeepSpeed writes a folder in place of the file.
    return path.exists() or previous_of(path).exists()


def newest_whole(path: str | Path) -> Path:
    """The newest whole checkpoint of `path`: itself, or, with a warning, the one before it.

    Raises FileNotFoundError when there is none, InputError when none of them is whole.
    """
    path = Path(path)
    candidates = [file for file in (path, previous_of(path)) if file.exists()]
    if not candidates:
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    known = read_manifest(path)
    for file in candidates:
        if known and digest_of(file) not in known:
            rank_zero_warn(f"checkpoint {file} is damaged; looking for the one before it")
            continue
        if file != path:
            rank_zero_warn(f"resuming from {file}, the checkpoint before {path.name}")
        return file
    raise InputError(
        f"checkpoint {path} is damaged and so is the one before it. Delete "
        f"{path.parent} to train from the beginning."
    )


def previous_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def manifest_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 to {bytes, step}, newest first; empty where there is no readable manifest."""
    try:
        return json.loads(manifest_of(path).read_text())["sha256"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError):
        rank_zero_warn(f"manifest {manifest_of(path)} is unreadable; files go unverified")
        return {}


def announce(path: Path, digest: str, entry: dict[str, Any]) -> None:
    """Put a file that is about to take its name at the top of the manifest."""
    known = read_manifest(path)
    write_json(manifest_of(path), {"sha256": {digest: entry} | dict(list(known.items())[:2])})


def digest_of(path: Path) -> str:
    """SHA-256 of a checkpoint: of the file, or of the parts of the folder that DeepSpeed writes."""
    if path.is_file():
        return sha256_of(path)
    parts = (file for file in path.rglob("*") if file.is_file() and file.suffix != ".py")
    return digest_of_parts({file.name: sha256_of(file) for file in parts})


def digest_of_parts(digests: Mapping[str, str]) -> str:
    """SHA-256 over the names and digests of a folder's files."""
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(READ_BLOCK):
            sha.update(block)
    return sha.hexdigest()


def read_plain(file: str | Path, map_location: Any = None) -> Any:
    """Read what `torch.save` wrote, without running code that a stranger may have put there.

    Raises InputError where there is more than plain data.
    """
    try:
        return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"checkpoint {file} holds more than tensors, numbers and text, or is damaged, and is "
            "not read: reading the rest could run code. Train from an export of it instead."
        ) from error


def assert_plain(value: Any, key: str = "checkpoint") -> None:
    """Raise TypeError naming the first entry that `weights_only=True` would refuse to read."""
    if value is None or type(value) in PLAIN or isinstance(value, Tensor):
        return
    if isinstance(value, Mapping) and type(value).__module__ in ("builtins", "collections"):
        for name, child in value.items():
            assert_plain(name, f"a key of {key}")
            assert_plain(child, f"{key}[{name!r}]")
    elif type(value) in (list, tuple, set):
        for index, child in enumerate(value):
            assert_plain(child, f"{key}[{index}]")
    else:
        raise TypeError(
            f"{key} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be read "
            "back safely: store tensors, numbers, text, lists and dicts"
        )
