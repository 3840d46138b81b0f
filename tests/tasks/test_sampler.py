"""Batches of an epoch: complete, split between ranks, and the same again after a resume."""

from collections import Counter

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from tasks.callbacks import LastCheckpoint, checkpoint_path
from tasks.checkpointing import AtomicCheckpointIO
from tasks.sampler import EpochBatches


def indices(batches: EpochBatches) -> list[int]:
    return [index for batch in batches for _, index in batch]


@pytest.mark.parametrize(("n", "batch", "world"), [(12, 2, 1), (12, 2, 2), (13, 4, 3), (1, 2, 2)])
def test_an_epoch_holds_every_item(n: int, batch: int, world: int) -> None:
    ranks = [EpochBatches(n, batch, 1, rank, world) for rank in range(world)]
    assert len({len(r) for r in ranks}) == 1
    assert all(len(b) == batch for r in ranks for b in r)
    counts = Counter(index for r in ranks for index in indices(r))
    assert set(counts) == set(range(n))
    assert max(counts.values()) - min(counts.values()) <= 1
    if n % (batch * world) == 0:
        assert set(counts.values()) == {1}


def test_epochs_and_seeds_differ_and_repeat() -> None:
    batches = EpochBatches(50, 5, 1)
    first = indices(batches)
    assert indices(batches) == first == indices(EpochBatches(50, 5, 1))
    batches.set_epoch(1)
    assert indices(batches) != first and sorted(indices(batches)) == sorted(first)
    assert indices(EpochBatches(50, 5, 2)) != first


def test_no_volumes_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EpochBatches(0, 2, 1)


class Pairs(Dataset):
    def __getitem__(self, item: tuple[int, int]) -> torch.Tensor:
        return torch.tensor(item)


class Recorder(LightningModule):
    """Records which items every step sees."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list]] = []

    def train_dataloader(self):
        batches = EpochBatches.resumed(self.trainer, n=10, batch=2, seed=3)
        return DataLoader(Pairs(), batch_sampler=batches)

    def training_step(self, batch, batch_idx):
        self.seen.append((self.global_step, batch.tolist()))
        return self.w * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class CutAt(Callback):
    def __init__(self, step: int | None):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise SystemExit


def run(folder, cut=None, every=1, accumulate=1) -> Recorder:
    module, path = Recorder(), checkpoint_path(folder)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=13 if accumulate == 1 else 6,
        accumulate_grad_batches=accumulate,
        default_root_dir=folder,
        callbacks=[LastCheckpoint(every), CutAt(cut)],
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ckpt_path=path if path.is_file() else None)
    return module


@pytest.mark.parametrize(("every", "accumulate"), [(1, 1), (2, 1), (1, 2)])
def test_a_resumed_run_sees_what_the_uninterrupted_one_sees(tmp_path, every, accumulate) -> None:
    """Cut at every step in turn, epoch ends (5 batches) among them."""
    whole = run(tmp_path / "whole", accumulate=accumulate).seen
    assert [s for s, _ in whole] == sorted(s for s, _ in whole)
    steps = whole[-1][0] + 1
    for cut in range(every, steps):
        folder = tmp_path / f"cut{cut}"
        with pytest.raises(SystemExit):
            run(folder, cut, every, accumulate)
        saved = cut - cut % every
        expected = [entry for entry in whole if entry[0] >= saved]
        assert run(folder, None, every, accumulate).seen == expected, f"cut at step {cut}"
