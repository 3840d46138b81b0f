"""Callbacks around a toy module: exact stage boundaries, seeds, guards, speed and status."""

import json
import math
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from photon.files import WriteError
from tasks.callbacks import (
    Interruption,
    LastCheckpoint,
    NonFiniteGuard,
    PruningSchedule,
    StatusFile,
    StepSeed,
    Throughput,
    checkpoint_path,
    peak_rss,
    stage_at,
)
from tasks.checkpointing import AtomicCheckpointIO
from tasks.interruption import Terminated
from tasks.logging import CsvLog


class Toy(LightningModule):
    """One weight; records what it saw in each step."""

    def __init__(self, bad_batches: tuple[int, ...] = ()):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(2))
        self.stage, self.flip, self.seen = "hard", False, []
        self.bad_batches = bad_batches
        self.step_counts = {"questions": 4, "visual_tokens": 100, "kept_tokens": 40}

    def training_step(self, batch, batch_idx):
        draws = (random.random(), np.random.rand(), torch.rand(()).item())
        self.seen.append((self.global_step, self.stage, self.flip, draws))
        factor = float("nan") if batch_idx in self.bad_batches else 1.0
        return (self.w * batch[0].mean() * factor).square().sum()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.5)


class Asked(Toy):
    """Is sent SIGTERM in the middle of its fourth step."""

    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().training_step(batch, batch_idx)


def loader(n: int = 64) -> DataLoader:
    return DataLoader(TensorDataset(torch.ones(n, 1)), batch_size=1)


def fit(folder: Path, callbacks: list, module=None, ckpt=None, **options) -> tuple[Toy, Trainer]:
    module = module or Toy()
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[*callbacks, LastCheckpoint(every=10**6)],
        plugins=[AtomicCheckpointIO()],
        logger=options.pop("logger", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_steps": 10, "log_every_n_steps": 2, **options},
    )
    trainer.fit(module, loader(), ckpt_path=ckpt)
    return module, trainer


@pytest.mark.parametrize("total", [10, 100, 1500, 7])
@pytest.mark.parametrize(("soft", "hard"), [(0.2, 0.4), (0.07, 0.29), (0.0, 0.0), (1 / 3, 0.5)])
def test_boundaries_are_exact(total: int, soft: float, hard: float) -> None:
    stages = [stage_at(step, total, soft, hard) for step in range(total)]
    # The first step of a stage is the smallest whole number not below fraction * total, in exact
    # arithmetic of the decimal that the user wrote.
    first_soft, first_hard = (math.ceil(round(f * total, 9)) for f in (soft, hard))
    assert stages.count("off") == first_soft
    assert stages.count("soft") == first_hard - first_soft
    assert stages == sorted(stages, key=["off", "soft", "hard"].index)


def test_schedule_sets_stage_and_flip_before_each_step(tmp_path) -> None:
    module, _ = fit(tmp_path, [PruningSchedule(0.2, 0.4, 0.5)])
    assert [(s, stage, flip) for s, stage, flip, _ in module.seen] == [
        (step, "off" if step < 2 else "soft" if step < 4 else "hard", step >= 5)
        for step in range(10)
    ]


def test_schedule_counts_optimiser_steps_not_batches(tmp_path) -> None:
    schedule = PruningSchedule(0.5, 0.5, 1.0)
    module, _ = fit(tmp_path, [schedule], max_steps=4, accumulate_grad_batches=3)
    assert [stage for _, stage, _, _ in module.seen] == ["off"] * 6 + ["hard"] * 6


@pytest.mark.parametrize("wrong", [(0.5, 0.2, 0.6), (-0.1, 0.2, 0.6), (0.1, 0.2, 1.1)])
def test_schedule_refuses_disorder(wrong) -> None:
    with pytest.raises(ValueError, match="legal"):
        PruningSchedule(*wrong)


def test_seeds_depend_on_seed_and_batch_only(tmp_path) -> None:
    first, _ = fit(tmp_path / "a", [StepSeed(3)])
    random.seed(99)
    torch.manual_seed(99)
    again, _ = fit(tmp_path / "b", [StepSeed(3)])
    other, _ = fit(tmp_path / "c", [StepSeed(4)])
    draws = [[draw for *_, draw in module.seen] for module in (first, again, other)]
    assert draws[0] == draws[1]
    assert all(a != b for a, b in zip(draws[0], draws[2]))
    assert len({d[2] for d in draws[0]}) == 10


def test_guard_skips_a_bad_step_and_leaves_no_trace(tmp_path) -> None:
    with pytest.warns(UserWarning, match="optimiser step skipped"):
        guard = NonFiniteGuard(patience=2)
        module, trainer = fit(tmp_path, [guard], Toy((3, 4, 6)), gradient_clip_val=1.0)
    clean, _ = fit(tmp_path / "c", [NonFiniteGuard()], max_steps=7, gradient_clip_val=1.0)
    assert guard.skipped == 3 and trainer.global_step == 10
    assert torch.equal(module.w, clean.w)


def test_guard_stops_with_the_parameter_and_the_step_named(tmp_path) -> None:
    with (
        pytest.warns(UserWarning),
        pytest.raises(FloatingPointError, match=r"3 times in a row \(step 4, 1 tensors.*'w'"),
    ):
        fit(tmp_path, [NonFiniteGuard(patience=2)], Toy((2, 3, 4, 5)))


def test_a_fault_stops_even_without_patience(tmp_path) -> None:
    with pytest.raises(FloatingPointError):
        fit(tmp_path, [NonFiniteGuard(patience=0)], Toy((5,)))


def test_throughput_logs_rates_and_memory(tmp_path) -> None:
    _, trainer = fit(tmp_path, [Throughput()], logger=CsvLog(tmp_path))
    logged = trainer.callback_metrics
    assert logged["perf/kept_tokens"].item() == pytest.approx(10.0)
    ratio = logged["perf/visual_tokens_per_second"] / logged["perf/questions_per_second"]
    assert ratio.item() == pytest.approx(25.0)
    per_batch = logged["perf/seconds_per_batch"] + logged["perf/data_seconds"]
    assert (logged["perf/questions_per_second"] * per_batch).item() == pytest.approx(4, rel=1e-3)
    assert 0.05 < logged["perf/peak_rss_gib"].item() == pytest.approx(peak_rss() / 2**30, rel=0.2)
    assert "perf/kept_tokens" in (tmp_path / "metrics.csv").read_text().splitlines()[0]


def test_last_checkpoint_cadence_and_end(tmp_path, monkeypatch) -> None:
    saved = []
    real = Trainer.save_checkpoint

    def save(self: Trainer, path: Path) -> None:
        saved.append(self.global_step)
        real(self, path)

    monkeypatch.setattr(Trainer, "save_checkpoint", save)
    _, trainer = fit(tmp_path, [LastCheckpoint(every=4)])
    assert saved[:3] == [4, 8, 10] and checkpoint_path(tmp_path).is_file()
    saved.clear()
    fit(tmp_path, [LastCheckpoint(every=4)], ckpt=checkpoint_path(tmp_path))
    assert saved == []


def test_status_tells_how_a_run_ended(tmp_path) -> None:
    fit(tmp_path, [StatusFile()])
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["step"], status["max_steps"]) == ("trained", 10, 10)
    with pytest.raises(FloatingPointError):
        fit(tmp_path, [StatusFile(), NonFiniteGuard(0)], Toy((5,)))
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["step"]) == ("failed", 5)
    assert "not finite" in status["message"] and status["pid"] > 0


@pytest.mark.parametrize("accumulate", [1, 3])
def test_sigterm_finishes_the_step_saves_and_says_interrupted(tmp_path, accumulate) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as caught:
        fit(
            tmp_path, [Interruption(), StatusFile()], Asked(), max_steps=20,
            accumulate_grad_batches=accumulate,
        )  # fmt: skip
    assert caught.value.code == 143
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["step"]) == ("interrupted", 4 if accumulate == 1 else 2)
    saved = AtomicCheckpointIO().load_checkpoint(checkpoint_path(tmp_path))
    assert saved["global_step"] == status["step"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_disk_without_room_is_said_before_training(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tasks.callbacks.free_space", lambda path: 10)
    module = Toy()
    with pytest.raises(WriteError, match="are free, and checkpoints need"):
        fit(tmp_path, [], module, max_steps=2)
    assert not module.seen
