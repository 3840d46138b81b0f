"""Batches of an epoch: complete, split between ranks, and the same again after a resume."""

import random
from collections import Counter
from contextlib import nullcontext, suppress

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from photon.errors import InputError
from tasks.callbacks import LastCheckpoint, checkpoint_path
from tasks.checkpointing import AtomicCheckpointIO
from tasks.sampler import EpochBatches, end_in_steps, recount


def indices(batches: EpochBatches) -> list[int]:
    return [index for batch in batches for _, index in batch]


@pytest.mark.parametrize(
    ("n", "batch", "world", "accumulate"),
    [(12, 2, 1, 1), (12, 2, 2, 1), (12, 2, 1, 3), (13, 4, 3, 1), (13, 2, 3, 2), (1, 2, 2, 4)],
)
def test_an_epoch_holds_every_item(n: int, batch: int, world: int, accumulate: int) -> None:
    ranks = [EpochBatches(n, batch, 1, rank, world, accumulate) for rank in range(world)]
    assert len({len(r) for r in ranks}) == 1 and len(ranks[0]) % accumulate == 0
    assert all(len(b) == batch for r in ranks for b in r)
    counts = Counter(index for r in ranks for index in indices(r))
    assert set(counts) == set(range(n))
    assert max(counts.values()) - min(counts.values()) <= 1
    if n % (batch * world * accumulate) == 0:
        assert set(counts.values()) == {1}


def test_epochs_and_seeds_differ_and_repeat() -> None:
    step = 0
    batches = EpochBatches(50, 5, 1, done=lambda: step)
    first = indices(batches)
    assert indices(batches) == first == indices(EpochBatches(50, 5, 1))
    step = 10
    second = indices(batches)
    assert second != first and sorted(second) == sorted(first)
    assert indices(EpochBatches(50, 5, 2)) != first
    step = 13
    assert indices(batches) == second[15:]


def test_the_items_of_a_step_do_not_depend_on_the_number_of_ranks() -> None:
    def steps(world: int, accumulate: int) -> list[list[tuple[int, int]]]:
        ranks = [list(EpochBatches(23, 1, 1, r, world, accumulate)) for r in range(world)]
        rows = [row for together in zip(*ranks) for batch in together for row in batch]
        return [rows[i : i + 4] for i in range(0, len(rows), 4)]

    assert steps(1, 4) == steps(2, 2) == steps(4, 1)


def test_no_volumes_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EpochBatches(0, 2, 1)


class Pairs(Dataset):
    def __getitem__(self, item: tuple[int, int]) -> torch.Tensor:
        return torch.tensor(item)


class Recorder(LightningModule):
    """Records which items every batch sees."""

    def __init__(self, n: int, batch: int):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))
        self.n, self.batch = n, batch
        self.seen: list[tuple[int, list]] = []

    def setup(self, stage):
        self.batches = EpochBatches.of(self.trainer, self.n, self.batch, seed=3)
        end_in_steps(self.trainer, self.batches)

    def train_dataloader(self):
        recount(self.trainer, self.batches)
        return DataLoader(Pairs(), batch_sampler=self.batches)

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


def run(folder, n=10, batch=2, cut=None, every=1, accumulate=1, **limit) -> list[tuple[int, list]]:
    """Items of the batches from the last checkpoint in `folder` to the cut or the end."""
    module, path = Recorder(n, batch), checkpoint_path(folder)
    trainer = Trainer(
        accelerator="cpu",
        **(limit or {"max_steps": 13}),
        accumulate_grad_batches=accumulate,
        default_root_dir=folder,
        callbacks=[LastCheckpoint(every), CutAt(cut)],
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with suppress(SystemExit) if cut is not None else nullcontext():
        trainer.fit(module, ckpt_path=path if path.is_file() else None)
    return module.seen


@pytest.mark.parametrize(("every", "accumulate"), [(1, 1), (2, 1), (1, 2)])
def test_a_resumed_run_sees_what_the_uninterrupted_one_sees(tmp_path, every, accumulate) -> None:
    """Cut at every step in turn, epoch ends (5 batches, 3 steps of two) among them."""
    whole = run(tmp_path / "whole", accumulate=accumulate)
    assert [s for s, _ in whole] == [i // accumulate for i in range(13 * accumulate)]
    for cut in range(every, 13):
        folder = tmp_path / f"cut{cut}"
        run(folder, cut=cut, every=every, accumulate=accumulate)
        expected = [entry for entry in whole if entry[0] >= cut - cut % every]
        assert run(folder, every=every, accumulate=accumulate) == expected, f"cut at step {cut}"


@pytest.mark.parametrize("limit", [{"max_steps": 13}, {"max_steps": -1, "max_epochs": 4}])
@pytest.mark.parametrize("plan", range(8))
def test_a_run_resumed_many_times_sees_it_too(tmp_path, plan, limit) -> None:
    """Killed at random steps again and again; plan 0 at epoch ends, which once came twice."""
    draw = random.Random(plan)
    n, every, accumulate = draw.choice([2, 5, 6, 10]), draw.choice([1, 2, 3]), draw.choice([1, 2])
    cuts = sorted(draw.choices(range(1, 13), k=draw.choice([2, 3, 5])))
    if plan == 0:
        n, every, accumulate, cuts = 6, 3, 1, [4, 7]
    settings = {"n": n, "every": every, "accumulate": accumulate, **limit}
    whole = run(tmp_path / "whole", **settings)
    at = 0
    for cut in [*cuts, None]:
        expected = [e for e in whole if e[0] >= at and (cut is None or e[0] < cut)]
        assert run(tmp_path / "cut", cut=cut, **settings) == expected, f"{settings}, {cuts}: {cut}"
        at = cut and max(at, cut - cut % every)


@pytest.mark.parametrize("cut", [3, 4, 6, 7])
def test_a_run_goes_on_with_other_batches_of_the_same_steps(tmp_path, cut) -> None:
    """As where half the processes accumulate twice the batches; 3 steps an epoch."""

    def by_step(seen: list[tuple[int, list]]) -> dict[int, list]:
        found: dict[int, list] = {}
        for step, items in seen:
            found.setdefault(step, []).extend(items)
        return found

    whole = by_step(run(tmp_path / "whole", batch=1, accumulate=4))
    before = by_step(run(tmp_path / "cut", batch=1, accumulate=4, cut=cut))
    assert before | by_step(run(tmp_path / "cut", batch=2, accumulate=2)) == whole


def test_a_run_ends_after_its_epochs_and_must_have_an_end(tmp_path) -> None:
    seen = run(tmp_path / "epochs", n=10, accumulate=2, max_steps=-1, max_epochs=2)
    assert len(seen) == 2 * 6 and {item[0] for _, batch in seen for item in batch} == {0, 1}
    with pytest.raises(InputError, match="max_epochs"):
        run(tmp_path / "endless", max_steps=-1, max_epochs=-1)
