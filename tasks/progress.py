"""What a reader of the terminal follows: one bar while a phase runs, one line when it is over."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

COLUMNS = ("{task.description:<16}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
LINES = 10  # printed in the course of a phase where there is no terminal


def bars(console: Console | None = None) -> Progress:
    """A progress display of one line a task: name, bar, done of all, elapsed, left, figures."""
    columns = [TextColumn(c) if isinstance(c, str) else c for c in COLUMNS]
    figures = TextColumn("{task.fields[figures]}", style="cyan")
    return Progress(
        *columns, TimeRemainingColumn(), figures, console=console or Console(stderr=True)
    )


def say(what: str, text: str, started: float | None = None) -> None:
    """One line about a finished phase, with the seconds since `started` (time.perf_counter)."""
    spent = "" if started is None else f", {time.perf_counter() - started:.0f} s"
    print(f"{what}: {text}{spent}", flush=True)


class StepProgress(ProgressBar):
    """Optimiser steps of a whole phase, with what the module logs for the bar.

    Lightning's own bars count batches and begin again with every epoch. Without a terminal, a line
    is printed after every tenth of the steps.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self._bars: Progress | None = None
        self._disabled = False
        self._started = 0.0
        self._first = 0

    def disable(self) -> None:
        """Lightning calls this on all ranks but the first."""
        self._disabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._first = time.perf_counter(), trainer.global_step
        if self._disabled:
            return
        self._bars = bars()
        total, done = trainer.max_steps, trainer.global_step
        self._task = self._bars.add_task(self.name, total=total, completed=done, figures="")
        if self._bars.console.is_terminal:
            self._bars.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._bars is None:
            return
        step, total = trainer.global_step, trainer.max_steps
        figures = self.figures(trainer, pl_module)
        moved = step > self._bars.tasks[self._task].completed
        self._bars.update(self._task, completed=step, figures=figures)
        due = step * LINES // total > (step - 1) * LINES // total
        if moved and due and step < total and not self._bars.console.is_terminal:
            say(self.name, f"step {step} of {total}, {figures}", self._started)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()
        if not self._disabled:
            steps = trainer.global_step - self._first
            resumed = f" after the {self._first} of an earlier call" if self._first else ""
            text = f"{steps} step{'s' * (steps != 1)}{resumed}"
            say(
                self.name,
                ", ".join(filter(None, [text, self.figures(trainer, pl_module)])),
                self._started,
            )

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()

    def figures(self, trainer: Trainer, pl_module: LightningModule) -> str:
        """Stage, and what was logged with prog_bar=True, rounded."""
        values = {k: float(v) for k, v in trainer.progress_bar_metrics.items()}
        stage = [pl_module.stage] if getattr(pl_module, "stage", "off") != "off" else []
        return "  ".join([*stage, *(f"{name} {value:.3g}" for name, value in values.items())])

    def _stop(self) -> None:
        if self._bars is not None:
            if self._bars.live.is_started:
                self._bars.stop()
            self._bars = None
