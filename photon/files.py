"""Files that appear whole or not at all, and a lock between processes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from photon.errors import InputError


class WriteError(InputError, OSError):
    """A place that cannot be written; every further file there would fail alike."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new name beside `path` to write to; the file takes the name `path` when the block ends.

    A reader sees the old file or the new one, after a power cut too: the file is synced before it
    is renamed and its folder after that. Where the block fails, `path` is as it was.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise WriteError(
            f"{path}: cannot be written ({error.strerror or error}). Free disk space, or choose "
            "another folder."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """`replacing` for bytes at hand."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """`replacing` for text at hand, in UTF-8 with the line ends that it has."""
    write_bytes(path, content.encode())


def write_json(path: str | Path, content: Any) -> None:
    """`replacing` for a value, as JSON of two spaces' indent. Raises ValueError for NaN."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; the system releases it when the process ends, however it ends.

    Raises:
        WriteError: the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise WriteError(
            f"{path.parent}: cannot be written ({error.strerror}). Choose another folder."
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
