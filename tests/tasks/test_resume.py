"""A run that is cut and resumed writes, bit for bit, what the uninterrupted one writes."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from tasks.callbacks import LastCheckpoint, PruningSchedule, StepSeed, checkpoint_path
from tasks.checkpointing import AtomicCheckpointIO, previous_of
from tasks.logging import CsvLog
from tasks.retention_log import RetentionLog, merge_rows

STEPS = 12


class Toy(LightningModule):
    """Dropout, momentum, a schedule and stages: everything that a resume could get wrong."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
        )
        self.stage, self.flip, self.retention_rows = "hard", False, []

    def training_step(self, batch, batch_idx):
        scale = {"off": 1.0, "soft": 0.5, "hard": 0.25}[self.stage] + self.flip
        loss = self.net(batch[0]).square().mean() * scale
        keep = loss.item()
        for subtask, n in (("size", 3), ("side", 1)):
            row = {"subtask": subtask, "n": n, "soft_keep": keep, "hard_keep": keep / 2}
            more = {"theta": 0.5, "band_hit": 0.0, "kept_tokens": 40.0, "visual_tokens": 128.0}
            self.retention_rows.append(row | more)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class CutAt(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise SystemExit("cut")


def run(folder: Path, cut: int | None = None) -> Toy:
    module = Toy()
    path = checkpoint_path(folder)
    resume = path if path.is_file() or previous_of(path).is_file() else None
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        default_root_dir=folder,
        callbacks=[
            StepSeed(5),
            PruningSchedule(0.3, 0.5, 0.6),
            RetentionLog(every=2),
            LastCheckpoint(every=5),
            *([CutAt(cut)] if cut is not None else []),
        ],
        plugins=[AtomicCheckpointIO()],
        logger=CsvLog(folder),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # One sample a batch and one epoch a batch: the order of data is not what is tested here.
    data = DataLoader(TensorDataset(torch.arange(4.0)[None]), batch_size=1)
    trainer.fit(module, data, ckpt_path=resume)
    return module


@pytest.mark.parametrize("cut", [5, 7, 11])
def test_resumed_equals_uninterrupted(tmp_path, cut) -> None:
    """Cuts before, after and across the stage boundaries at steps 4, 6 and 8."""
    whole = run(tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(tmp_path / "cut", cut)
    resumed = run(tmp_path / "cut")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    frames = [pd.read_parquet(tmp_path / k / "retention.parquet") for k in ("whole", "cut")]
    pd.testing.assert_frame_equal(*frames)
    assert list(frames[0]["step"].unique()) == list(range(STEPS))
    stages = frames[0].drop_duplicates("step")["stage"].value_counts().to_dict()
    assert stages == {"off": 4, "soft": 2, "hard": 6}
    logs = [(tmp_path / k / "metrics.csv").read_text() for k in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_rows_beyond_the_checkpoint_are_cut_off(tmp_path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, cut=9)
    before = pd.read_parquet(tmp_path / "retention.parquet")
    assert before["step"].max() == 8
    marked = before.assign(theta=-1.0)
    marked.to_parquet(tmp_path / "retention.parquet", index=False)
    run(tmp_path)
    final = pd.read_parquet(tmp_path / "retention.parquet")
    assert not final.duplicated(["step", "subtask"]).any()
    # Steps 0-4 stand before the checkpoint and are kept; 5-8 were written again by the resumed run.
    assert sorted(final[final["theta"] == -1.0]["step"].unique()) == [0, 1, 2, 3, 4]


def test_a_damaged_checkpoint_costs_steps_and_not_the_run(tmp_path) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(tmp_path / "cut", cut=11)
    path = checkpoint_path(tmp_path / "cut")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="damaged"):
        resumed = run(tmp_path / "cut")
    assert torch.equal(whole.net[0].weight, resumed.net[0].weight)


def test_rows_of_one_step_are_averaged_by_count() -> None:
    base = {"stage": "hard", "theta": 0.1, "band_hit": 0.0, "kept_tokens": 1, "visual_tokens": 2}
    rows = [
        {"step": 3, "subtask": "size", "n": 1, "soft_keep": 0.2, "hard_keep": 0.0, **base},
        {"step": 3, "subtask": "size", "n": 3, "soft_keep": 0.6, "hard_keep": 1.0, **base},
        {"step": 3, "subtask": "side", "n": 2, "soft_keep": 0.9, "hard_keep": 0.5, **base},
    ]
    merged = merge_rows(rows).set_index("subtask")
    assert merged.loc["size", "n"] == 4 and merged.loc["side", "n"] == 2
    assert merged.loc["size", "soft_keep"] == pytest.approx(0.5)
    assert merged.loc["size", "hard_keep"] == pytest.approx(0.75)
    assert merged.loc["size", "kept_tokens"] == pytest.approx(1.0)
