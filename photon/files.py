"""Files that appear whole or not at all, and a lock between processes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from photon.annotations import mistakes
from photon.errors import InputError

FULL = 1 << 20  # with fewer bytes than this a disk counts as full
# What writers say that hide the system's error.
_WRITERS = re.compile(r"PytorchStreamWriter|iostream error|unexpected pos|os error", re.I)


class WriteError(InputError, OSError):
    """A place that cannot be written; every further file there would fail alike."""


@contextmanager
def writing(place: str | Path) -> Iterator[None]:
    """Turn what libraries raise when a file cannot be written into WriteError.

    torch's and safetensors' writers say only that they failed; the disk knows why.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        cause = next((e for e in _chain(error) if isinstance(e, OSError)), None)
        full = free_space(place) < FULL
        if cause is None and not full and not _WRITERS.search(str(error)):
            raise
        why = getattr(cause, "strerror", None) or ("the disk is full" if full else error)
        raise WriteError(
            f"{place}: cannot be written ({why}). What was there before is whole. Free disk "
            "space, or choose another folder."
        ) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def free_space(place: str | Path) -> int:
    """Bytes free where `place` is, or will be."""
    place = Path(place)
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


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
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """`replacing` for bytes at hand."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """`replacing` for text at hand, in UTF-8 with the line ends that it has.

    What UTF-8 cannot hold (bytes of a file's name that are not text) is written as \\udcXX.
    """
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, content: Any) -> None:
    """`replacing` for a value, as JSON of two spaces' indent. Raises ValueError for NaN."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path, way_out: str, kind: Any = dict) -> dict[str, Any]:
    """The object of a JSON file. `kind`: what it must look like, such as a TypedDict.

    Raises InputError that names the file, with the line or the key, and ends with `way_out`.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). {way_out}") from error
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{path}{line}: not valid JSON ({error}). {way_out}") from error
    wrong = [f"holds a {type(value).__name__}, not an object"]
    if isinstance(value, dict):
        wrong = [] if kind is dict else [line.lstrip(".") for line in mistakes("", value, kind)]
    if wrong:
        raise InputError(f"{path}: {'; '.join(wrong)}. {way_out}")
    return value


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hold(path: Path) -> int:
    """Take the lock file `path` for as long as this process lives; its handle.

    The file names who has it. The lock is the process's own, not its children's, and goes with it,
    however it ends.

    Raises:
        InputError: another process has it.
        WriteError: the file cannot be made.
    """
    with writing(path):
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    here, owner = socket.gethostname(), os.pread(handle, 200, 0).decode(errors="replace").split()
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = False
    except OSError as error:
        # Without locks (some network file systems) it counts whether the process is still there.
        unsupported = error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
        taken = not unsupported or (owner[1:] == [here] and _alive(owner[0]))
    if taken:
        os.close(handle)
        pid, host = owner if len(owner) == 2 else ("unknown", "unknown host")
        raise InputError(
            f"{path.parent}: process {pid} on {host} is at work there. Wait for it or end it, or "
            "give this run a name of its own (name=...)"
        )
    with writing(path):
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} {here}".encode(), 0)
    return handle


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


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
