"""DeepSpeed's folders under faults: whatever breaks, a whole one remains, and no code runs."""

import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from photon.errors import InputError
from tasks import zero
from tasks.checkpointing import newest_whole, previous_of, sha256_of


class Killed(BaseException):
    """Stands for SIGKILL."""


def written(path: Path, step: int) -> tuple[Path, dict]:
    """A finished folder that waits for its name, and what its two writers say of their parts."""
    folder = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "latest").write_text("checkpoint")
    (folder / "zero_to_fp32.py").write_text("# DeepSpeed leaves it there")
    parts = {}
    for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        file = folder / "checkpoint" / name
        torch.save({"step": step, "w": torch.full((8,), float(step))}, file)
        parts[name] = (sha256_of(file), file.stat().st_size)
    return folder, parts


def publish(path: Path, step: int) -> None:
    temporary, parts = written(path, step)
    zero._publish(temporary, path, parts, {"global_step": step})


def step_of(path: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (part,) = newest_whole(path).rglob("mp_rank*.pt")
    return torch.load(part, weights_only=True)["step"]


@pytest.mark.parametrize("nth", range(4))
def test_a_kill_between_any_two_steps_of_publishing(tmp_path, monkeypatch, nth) -> None:
    path = tmp_path / "last.ckpt"
    for step in (1, 2):
        publish(path, step)
    calls = 0

    def cut(real):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == nth + 1:
                raise Killed
            return real(*arguments, **options)

        return call

    temporary, parts = written(path, 3)
    for module, name in ((os, "replace"), (zero.shutil, "rmtree")):
        monkeypatch.setattr(module, name, cut(getattr(module, name)))
    with pytest.raises(Killed):
        zero._publish(temporary, path, parts, {"global_step": 3})
    monkeypatch.undo()
    assert step_of(path) == 2
    publish(path, 4)
    assert step_of(path) == 4 and previous_of(path).is_dir()


def test_a_changed_byte_in_any_part_is_found(tmp_path) -> None:
    path = tmp_path / "last.ckpt"
    for step in (1, 2):
        publish(path, step)
    parts = [file for file in path.rglob("*") if file.is_file() and file.suffix != ".py"]
    assert len(parts) == 3
    for part in parts:
        content = part.read_bytes()
        part.write_bytes(content[:-1])
        assert step_of(path) == 1
        part.write_bytes(content)
        assert step_of(path) == 2


def test_no_code_runs_from_a_part(tmp_path) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: `make` said why")

    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"optimizer_state_dict": Payload()}, tmp_path / "part.pt")
    with pytest.raises(InputError, match="could run code"):
        zero._load_part(str(tmp_path / "part.pt"))
    assert not (tmp_path / "ran").exists()
