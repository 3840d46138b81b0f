"""Checkpoints under faults: whatever breaks, one whole checkpoint remains and is found."""

import errno
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from photon.errors import InputError
from tasks import checkpointing
from tasks.checkpointing import (
    AtomicCheckpointIO,
    has_checkpoint,
    manifest_of,
    previous_of,
    read_manifest,
    sha256_of,
)


def content(step: int) -> dict:
    weights = torch.full((64, 64), float(step))
    return {"global_step": step, "state_dict": {"w": weights}, "loops": {"a": [1, None, "x"]}}


@pytest.fixture
def io() -> AtomicCheckpointIO:
    return AtomicCheckpointIO()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "last.ckpt"


def step_of(io: AtomicCheckpointIO, path: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return io.load_checkpoint(path)["global_step"]


def test_round_trip_and_manifest(io, path) -> None:
    for step in (1, 2, 3):
        io.save_checkpoint(content(step), path)
    loaded = io.load_checkpoint(path)
    assert loaded["global_step"] == 3
    assert torch.equal(loaded["state_dict"]["w"], content(3)["state_dict"]["w"])
    manifest = read_manifest(path)
    first, second = list(manifest)[:2]
    assert first == sha256_of(path) and second == sha256_of(previous_of(path))
    assert manifest[first] == {"bytes": path.stat().st_size, "step": 3}
    assert len(manifest) <= 3
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "last.ckpt",
        "last.ckpt.json",
        "last.ckpt.previous",
    ]


@pytest.mark.parametrize("after", [0, 100, 5000])
@pytest.mark.parametrize("kind", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()])
def test_a_fault_while_writing_leaves_the_last_one(io, path, monkeypatch, after, kind) -> None:
    io.save_checkpoint(content(1), path)
    before = path.read_bytes()
    real = checkpointing.HashingFile.write

    def write(self, block):
        if self.size + len(block) > after:
            raise kind
        return real(self, block)

    monkeypatch.setattr(checkpointing.HashingFile, "write", write)
    with pytest.raises((OSError, RuntimeError, KeyboardInterrupt)):
        io.save_checkpoint(content(2), path)
    monkeypatch.undo()
    assert path.read_bytes() == before and step_of(io, path) == 1
    assert not list(path.parent.glob(".*tmp"))
    io.save_checkpoint(content(3), path)
    assert step_of(io, path) == 3


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs but what a new process would."""


@pytest.mark.parametrize("nth", range(8))
def test_a_kill_between_any_two_steps_of_publishing(io, path, monkeypatch, nth) -> None:
    """Each rename and sync after writing is cut off in turn; a whole checkpoint is found."""
    io.save_checkpoint(content(1), path)
    io.save_checkpoint(content(2), path)
    calls = 0
    real = {name: getattr(os, name) for name in ("replace", "fsync")}

    def cut(name):
        def call(*arguments):
            nonlocal calls
            calls += 1
            if calls == nth + 1:
                raise Killed
            return real[name](*arguments)

        return call

    for name in real:
        monkeypatch.setattr(os, name, cut(name))
    monkeypatch.setattr(Path, "unlink", lambda *a, **k: None)
    with pytest.raises(Killed):
        io.save_checkpoint(content(3), path)
    monkeypatch.undo()
    assert has_checkpoint(path)
    assert step_of(io, path) in (2, 3)
    io.save_checkpoint(content(4), path)
    assert step_of(io, path) == 4
    assert not list(path.parent.glob(".last.ckpt.*.tmp"))


def test_publishing_has_exactly_the_steps_that_are_cut_above(io, path, monkeypatch) -> None:
    io.save_checkpoint(content(1), path)
    calls = []
    for name in ("replace", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, _real=real, _name=name: (calls.append(_name), _real(*a))[1]
        )
    io.save_checkpoint(content(2), path)
    assert len(calls) == 8, calls


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_newest_gives_way_to_the_previous_with_a_warning(io, path, damage) -> None:
    io.save_checkpoint(content(1), path)
    io.save_checkpoint(content(2), path)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"truncate": data[: len(data) // 2], "flip": data, "empty": b""}[damage])
    with pytest.warns(UserWarning, match="damaged"):
        assert io.load_checkpoint(path)["global_step"] == 1


def test_both_damaged_is_one_clear_error(io, path) -> None:
    io.save_checkpoint(content(1), path)
    io.save_checkpoint(content(2), path)
    for file in (path, previous_of(path)):
        file.write_bytes(b"x")
    with pytest.raises(InputError, match="Delete"), pytest.warns(UserWarning):
        io.load_checkpoint(path)


def test_missing_file(io, path) -> None:
    assert not has_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        io.load_checkpoint(path)


def test_a_foreign_checkpoint_without_manifest_loads(io, path) -> None:
    path.parent.mkdir(parents=True)
    torch.save(content(7), path)
    assert io.load_checkpoint(path)["global_step"] == 7


def test_code_in_a_checkpoint_is_never_run(io, path, tmp_path) -> None:
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    path.parent.mkdir(parents=True)
    torch.save({"x": Evil()}, path)
    with pytest.raises(InputError, match="could run code"):
        io.load_checkpoint(path, weights_only=False)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": {"b": [1, np.float64(2.0)]}}, r"checkpoint\['a'\]\['b'\]\[1\]"),
        ({"rng": np.zeros(3)}, r"checkpoint\['rng'\]"),
        ({"path": Path("x")}, r"checkpoint\['path'\]"),
        ({"f": len}, r"checkpoint\['f'\]"),
    ],
)
def test_contents_that_could_not_be_read_back_are_refused_at_once(io, path, value, where) -> None:
    with pytest.raises(TypeError, match=where):
        io.save_checkpoint(value, path)
    assert not has_checkpoint(path)


def test_remove(io, path) -> None:
    io.save_checkpoint(content(1), path)
    io.save_checkpoint(content(2), path)
    io.remove_checkpoint(path)
    assert not list(path.parent.iterdir()) and not manifest_of(path).exists()
