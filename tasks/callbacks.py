"""What happens around the training steps: when to prune, what to record, when to stop.

Callbacks write into `trainer.default_root_dir`, the run directory. They read three attributes of
the module, each set by its `training_step`:
  stage           "off" | "soft" | "hard" (PruningSchedule sets it, and `flip`)
  retention_rows  list of dicts: subtask, n and the retention columns of one batch
  step_counts     dict: questions, visual_tokens, kept_tokens of one batch
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn

from photon.annotations import Count, NonNegative, Seed, Share, Whole
from photon.files import WriteError, free_space
from tasks.interruption import Terminated, end_on_sigterm
from tasks.rundir import write_status
from tasks.zero import DeepSpeedZero

Stage = Literal["off", "soft", "hard"]
GIB = 1024**3


def stage_at(step: int, total: int, soft: float, hard: float) -> Stage:
    """Stage of optimiser step `step` (from 0) out of `total`: a boundary step is already new."""
    progress = step / total
    if progress < soft:
        return "off"
    return "soft" if progress < hard else "hard"


class PruningSchedule(Callback):
    """Decides when to prune, from the global step alone, so that a resumed run needs no state.

    `soft`, `hard` and `flip` are fractions of all optimiser steps: full length before `soft`,
    weighted tokens up to `hard`, dropped tokens from there; the flip loss from `flip` (A.2.4 gives
    the order; the released code uses 4,000, 8,000 and 9,000 forward passes).
    """

    def __init__(self, soft: Share = 0.2, hard: Share = 0.4, flip: Share = 0.45):
        if not 0 <= soft <= hard <= flip <= 1:
            raise ValueError(
                f"soft={soft}, hard={hard}, flip={flip}: legal is 0 <= soft <= hard <= flip <= 1"
            )
        self.soft, self.hard, self.flip = soft, hard, flip
        self.total: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.total = trainer.max_steps

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert self.total is not None
        step = trainer.global_step
        if getattr(pl_module, "prunes", True):
            pl_module.stage = stage_at(step, self.total, self.soft, self.hard)
            pl_module.flip = step / self.total >= self.flip


class StepSeed(Callback):
    """Seeds every generator from the seed and the number of the batch, before each batch.

    Then no state of a generator outlives a batch, and a resumed run draws what the uninterrupted
    one drew, whatever validation, logging or worker start-up consumed in between. Batches are
    counted over all ranks, as `EpochBatches` deals them out: two ranks draw what one draws that
    accumulates twice as many batches.
    """

    def __init__(self, seed: Seed):
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        batch = trainer.fit_loop.epoch_loop.total_batch_idx
        batch = batch * trainer.world_size + trainer.global_rank
        sequence = np.random.SeedSequence((self.seed, batch, 0))
        words = sequence.generate_state(4)
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        torch.manual_seed((int(words[2]) << 32) | int(words[3]))


class Interruption(Callback):
    """Ends training behind the step in which one of its processes received SIGTERM.

    `LastCheckpoint` then saves, and `StatusFile` says so. Lightning's own handler talks to other
    processes from within the signal, in the middle of whatever they are sending each other.
    """

    def __init__(self) -> None:
        self._asked = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._asked = False
        signal.signal(signal.SIGTERM, self._note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # what is accumulated is in no checkpoint
        if trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            raise Terminated

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        end_on_sigterm()
        if self._asked:
            raise Terminated

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._asked = True


class LastCheckpoint(Checkpoint):
    """checkpoints/last.ckpt every `every` optimiser steps, at the end, and before an early one.

    Raises WriteError at the start where the disk has no room for a checkpoint beside an older one.
    """

    def __init__(self, every: Count = 500):
        if every < 1:
            raise ValueError(f"every={every}: steps between checkpoints, at least 1")
        self.every = every
        self._saved_at = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = trainer.global_step
        if trainer.is_global_zero:
            check_space(checkpoint_path(trainer.default_root_dir), pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self._save(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, Terminated):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step != self._saved_at:
            self._saved_at = trainer.global_step
            trainer.save_checkpoint(checkpoint_path(trainer.default_root_dir))


def check_space(path: Path, module: LightningModule) -> None:
    """Raise WriteError unless the disk can take the checkpoints that a phase will have at once.

    Weights and two moments of each that is trained; a new file beside the last one and, where there
    is none yet, another: the one before stays.
    """
    size = sum(
        p.numel() * p.element_size() * (3 if p.requires_grad else 1) for p in module.parameters()
    )
    needed, free = size * (1 if path.exists() else 2), free_space(path)
    if free < needed:
        raise WriteError(
            f"{path.parent}: {free / GIB:.2f} GiB are free, and checkpoints need "
            f"{needed / GIB:.2f} GiB. Nothing was lost. Free disk space, or choose another folder."
        )


def checkpoint_path(run_dir: str | Path) -> Path:
    return Path(run_dir) / "checkpoints" / "last.ckpt"


class NonFiniteGuard(Callback):
    """Skips an optimiser step whose gradient is not finite; stops after `patience` in a row.

    A skipped step leaves weights and optimiser state untouched. Gradients are equal on all ranks
    here, so all ranks decide alike; where DeepSpeed divides them it looks and skips by itself, on
    all ranks, and is asked afterwards.
    """

    def __init__(self, patience: Whole = 5):
        if patience < 0:
            raise ValueError(f"patience={patience}: the number of steps to skip is at least 0")
        self.patience = patience
        self.skipped = 0
        self._in_a_row = 0
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norms = torch._foreach_norm(gradients) if gradients else []
        if not norms:
            return
        if bool(torch.isfinite(torch.stack([n.float() for n in norms])).all()):
            self._in_a_row = 0
            return
        broken = [n for n, p in pl_module.named_parameters() if not _finite(p.grad)]
        self._skip(f"step {trainer.global_step}, {len(broken)} tensors, the first {broken[0]!r}")
        for parameter in pl_module.parameters():
            parameter.grad = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step, self._step = self._step, trainer.global_step
        if step == trainer.global_step or not isinstance(trainer.strategy, DeepSpeedZero):
            return
        if trainer.strategy.skipped:
            self._skip(f"step {step}")
        else:
            self._in_a_row = 0

    def _skip(self, where: str) -> None:
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row > self.patience:
            raise FloatingPointError(
                f"the gradient was not finite {self._in_a_row} times in a row ({where}). The "
                "weights are still finite. Lower task.*.lr, or resume after looking at the data."
            )
        rank_zero_warn(f"gradient not finite ({where}): optimiser step skipped")


def _finite(gradient: torch.Tensor | None) -> bool:
    return gradient is None or bool(torch.isfinite(gradient).all())


class Throughput(Callback):
    """Logs speed and memory over the steps since the last log: perf/* every `log_every_n_steps`.

    seconds_per_batch (computing), data_seconds (waiting for the batch), questions_per_second and
    visual_tokens_per_second (of both together), kept_tokens (a question, mean), peak_rss_gib.
    Validation is not counted.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._compute = self._wait = 0.0
        self._started = self._ended = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._started = time.perf_counter()
        self._wait += self._started - self._ended

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._ended = time.perf_counter()
        self._compute += self._ended - self._started
        self._counts.update(batches=1, **getattr(pl_module, "step_counts", {}))
        if trainer.global_step % trainer.log_every_n_steps == 0:
            pl_module.log_dict(self._window(), batch_size=1)
            self._counts.clear()
            self._compute = self._wait = 0.0

    def _window(self) -> dict[str, float]:
        counts, seconds = self._counts, self._compute + self._wait
        window = {
            "perf/seconds_per_batch": self._compute / counts["batches"],
            "perf/data_seconds": self._wait / counts["batches"],
            "perf/peak_rss_gib": peak_rss() / GIB,
        }
        if counts["questions"]:
            window["perf/questions_per_second"] = counts["questions"] / seconds
            window["perf/visual_tokens_per_second"] = counts["visual_tokens"] / seconds
            window["perf/kept_tokens"] = counts["kept_tokens"] / counts["questions"]
        if torch.cuda.is_available():
            window["perf/peak_gpu_gib"] = torch.cuda.max_memory_allocated() / GIB
        return window


def peak_rss() -> int:
    """Largest resident size of this process so far, in bytes."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class StatusFile(Callback):
    """status.json: state (running, failed, interrupted), step of total, pid, message."""

    def __init__(self, seconds: NonNegative = 10.0):
        self.seconds = seconds
        self._written = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, "running")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if time.monotonic() - self._written >= self.seconds:
            self._write(trainer, "running")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, "trained")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        interrupted = isinstance(exception, KeyboardInterrupt | Terminated)
        self._write(trainer, "interrupted" if interrupted else "failed", repr(exception))

    def _write(self, trainer: Trainer, state: str, message: str = "") -> None:
        if not trainer.is_global_zero:
            return
        self._written = time.monotonic()
        write_status(
            trainer.default_root_dir,
            state=state,
            step=trainer.global_step,
            max_steps=trainer.max_steps,
            pid=os.getpid(),
            message=message,
        )
