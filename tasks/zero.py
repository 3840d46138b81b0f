"""DeepSpeed's ZeRO-2: gradients, moments and float32 weights divided between the processes.

Its checkpoint is a folder that every process writes into, where Lightning overwrites the last one
in place and DeepSpeed reads it back with pickle. Here it appears whole or not at all, as other
checkpoints do, and is read with `weights_only=True`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy

from photon.errors import InputError
from photon.files import WriteError, sync
from tasks.checkpointing import (
    HashingFile,
    announce,
    assert_plain,
    digest_of_parts,
    newest_whole,
    previous_of,
    read_plain,
    sha256_of,
)


class DeepSpeedZero(DeepSpeedStrategy):
    """Lightning's strategy with safe checkpoints; `trainer=zero2`. Options are its parent's."""

    def setup(self, trainer: Any) -> None:
        super().setup(trainer)
        self._written: dict[str, tuple[str, int]] = {}  # by this process: digest and bytes
        files = self.deepspeed_engine.checkpoint_engine
        files.save, files.load = self._save_part, _load_part

    @property
    def skipped(self) -> bool:
        """Whether DeepSpeed left the weights as they were, for gradients that are not finite."""
        return not self.deepspeed_engine.was_step_applied()

    def teardown(self) -> None:
        """Hooks and float32 weights of this phase would otherwise live on in the next."""
        if hasattr(self.model, "destroy"):
            self.model.destroy()
        super().teardown()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Raises WriteError (previous folder untouched) and TypeError (contents not plain)."""
        path = Path(self.broadcast(filepath))
        rest = ("state_dict", "optimizer_states")  # DeepSpeed writes these itself
        assert_plain({key: value for key, value in checkpoint.items() if key not in rest})
        temporary = path.with_name(f".{path.name}.tmp")
        if self.is_global_zero:
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed run
        self.barrier()
        self._written.clear()
        super().save_checkpoint(checkpoint, temporary, storage_options)
        parts: list = [None] * self.world_size
        torch.distributed.all_gather_object(parts, self._written)
        if self.is_global_zero:
            _publish(temporary, path, {k: v for part in parts for k, v in part.items()}, checkpoint)
        self.barrier()

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """From the newest whole folder. Raises InputError where other processes wrote it."""
        found: Path | InputError = Path()
        if self.is_global_zero:
            try:
                found = newest_whole(checkpoint_path)
            except InputError as error:
                found = error
        found = self.broadcast(found)
        if isinstance(found, InputError):
            raise found
        wrote = len(list(found.rglob("*_optim_states.pt")))
        if wrote != self.world_size:
            raise InputError(
                f"{found} was written by {wrote} processes and cannot be read by "
                f"{self.world_size}: DeepSpeed divides it between as many"
            )
        return super().load_checkpoint(found, weights_only)

    def _save_part(self, state_dict: Any, path: str) -> None:
        with open(path, "wb") as file:
            hashing = HashingFile(file)
            torch.save(state_dict, hashing)
        sync(Path(path))
        self._written[os.path.basename(path)] = hashing.hexdigest(), hashing.size


def _load_part(path: str, map_location: Any = None) -> Any:
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
        return read_plain(path, map_location)


def _publish(temporary: Path, path: Path, parts: dict, checkpoint: dict[str, Any]) -> None:
    """Give the finished folder its name. After every single step one whole folder is known."""
    try:
        sync(temporary / "latest")
        digests = {name: digest for name, (digest, _) in parts.items()}
        digest = digest_of_parts(digests | {"latest": sha256_of(temporary / "latest")})
        size = sum(size for _, size in parts.values())
        announce(path, digest, {"bytes": size, "step": checkpoint.get("global_step")})
        if path.exists():
            shutil.rmtree(previous_of(path), ignore_errors=True)
            os.replace(path, previous_of(path))
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({error.strerror or error}).") from error
