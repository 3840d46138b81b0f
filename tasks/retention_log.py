"""retention.parquet: how many visual tokens each subtask kept, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from photon.annotations import Count
from photon.files import replacing

KEYS = ["step", "stage", "subtask"]
MEANS = ["soft_keep", "hard_keep", "theta", "band_hit", "kept_tokens", "visual_tokens"]
COLUMNS = [*KEYS, "n", *MEANS]
FILE = "retention.parquet"


class RetentionLog(Callback):
    """Collects `pl_module.retention_rows` and writes them every `every` steps and at checkpoints.

    Rows of one step and subtask (accumulated batches, other ranks) are averaged with their counts
    as weights. The file is complete up to each checkpoint, and a resumed run cuts off what a
    crashed one had written beyond its checkpoint.
    """

    def __init__(self, every: Count = 50):
        if every < 1:
            raise ValueError(f"every={every}: the number of steps between writes is at least 1")
        self.every = every
        self._written = pd.DataFrame(columns=COLUMNS)
        self._pending: list[dict[str, Any]] = []
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pending = []
        path = Path(trainer.default_root_dir) / FILE
        self._written = pd.DataFrame(columns=COLUMNS)
        if path.is_file() and trainer.global_step > 0:
            before = pd.read_parquet(path)
            self._written = before[before["step"] < trainer.global_step].reset_index(drop=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        rows, pl_module.retention_rows = pl_module.retention_rows, []
        self._pending += [{"step": self._step, "stage": pl_module.stage, **row} for row in rows]
        stepped = trainer.global_step > self._step
        if stepped and trainer.global_step % self.every == 0:
            self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        # With several ranks the others may be gone: gathering would wait for ever.
        if trainer.world_size == 1:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        rows = _gather(self._pending, trainer.world_size)
        self._pending = []
        if rows and trainer.is_global_zero:
            frames = [self._written, merge_rows(rows)]
            self._written = pd.concat([f for f in frames if len(f)], ignore_index=True)
            with replacing(Path(trainer.default_root_dir) / FILE) as new:
                self._written.to_parquet(new, index=False)


def merge_rows(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per (step, stage, subtask): counts added, everything else averaged by count."""
    frame = pd.DataFrame(rows, columns=COLUMNS)
    weighted = frame[MEANS].astype(float).mul(frame["n"].astype(float), axis=0)
    keyed = pd.concat([frame[[*KEYS, "n"]], weighted], axis=1)
    merged = keyed.groupby(KEYS, sort=True, as_index=False).sum(min_count=1)
    merged[MEANS] = merged[MEANS].div(merged["n"], axis=0)
    return merged[COLUMNS].astype({"step": "int64", "n": "int64"})


def _gather(rows: list[dict[str, Any]], world_size: int) -> list[dict[str, Any]]:
    if world_size == 1:
        return rows
    everyone: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(everyone, rows)
    return [row for one in everyone for row in one]
