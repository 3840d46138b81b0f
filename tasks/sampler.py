"""Which volumes make up each batch, as a function of seed and place: it can be resumed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
from lightning.pytorch import Trainer
from torch.utils.data import Sampler

from photon.errors import InputError


class EpochBatches(Sampler):
    """Batches of (epoch, index) for `DataLoader(batch_sampler=...)`, split between ranks.

    Every epoch is a new permutation of `n` items. All ranks get the same number of batches, all
    full, and as many as whole optimiser steps take: the first items of the permutation come again
    where they do not divide. So every step weighs the same, and the items of a step do not depend
    on how many ranks share them.

    Args:
        n: items of the data set.
        batch_size: items a batch and rank.
        seed: of the permutations.
        rank, world: this process and how many there are.
        accumulate: batches an optimiser step and rank.
        done: the optimiser steps so far, asked whenever iteration begins: which epoch that is
            follows from it, and from no count that a resume could shift.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        done: Callable[[], int] = lambda: 0,
    ):
        if n < 1 or batch_size < 1:
            raise ValueError(f"{n} volumes in batches of {batch_size}: both must be at least 1")
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.rank, self.world = rank, world
        self.accumulate, self.done = accumulate, done

    @classmethod
    def of(cls, trainer: Trainer, n: int, batch_size: int, seed: int) -> EpochBatches:
        """The batches of a trainer's rank, from where it stands, fresh or restored."""
        # Lightning then warns that a plain loader begins again; this one does not.
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before")
        return cls(
            n,
            batch_size,
            seed,
            trainer.global_rank,
            trainer.world_size,
            trainer.accumulate_grad_batches,
            lambda: trainer.global_step,
        )

    @property
    def steps(self) -> int:
        """Optimiser steps an epoch."""
        return -(-self.n // (self.batch_size * self.world * self.accumulate))

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, step = divmod(self.done(), self.steps)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.n)
        order = np.resize(order, len(self) * self.world * self.batch_size)
        mine = order.reshape(len(self), self.world, self.batch_size)[:, self.rank]
        return iter([[(epoch, int(i)) for i in row] for row in mine[step * self.accumulate :]])


def end_in_steps(trainer: Trainer, batches: EpochBatches) -> None:
    """Where a run is to end after `max_epochs`, let it end after as many steps as these take.

    Lightning's count of epochs shifts where a run resumes from the last step of one; the count of
    steps does not. Asking Lightning for the steps of a run would open the data, before a checkpoint
    has said where to begin. Raises InputError when the run has no end.
    """
    if trainer.max_steps > 0:
        return
    if trainer.max_epochs is None or trainer.max_epochs < 1:
        raise InputError("the run has no end: set trainer.max_steps or trainer.max_epochs")
    trainer.fit_loop.epoch_loop.max_steps = trainer.max_epochs * batches.steps
    trainer.fit_loop.max_epochs = -1


def recount(trainer: Trainer, batches: EpochBatches) -> None:
    """Let a restored trainer count the batches of its own processes.

    A checkpoint of more or fewer processes counted other batches for the same steps; Lightning
    would close its next steps too early or too late.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    step = trainer.global_step
    inside = (step - 1) % batches.steps + 1 if step else 0  # Lightning closes an epoch after it
    for count, now in ((progress.total, step), (progress.current, inside)):
        shift = now * batches.accumulate - count.ready
        for name in ("ready", "started", "processed", "completed"):
            setattr(count, name, getattr(count, name) + shift)
