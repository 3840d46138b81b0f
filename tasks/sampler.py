"""Which volumes make up each batch, as a function of seed, epoch and place: it can be resumed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from lightning.pytorch import Trainer
from torch.utils.data import Sampler


class EpochBatches(Sampler):
    """Batches of (epoch, index) for `DataLoader(batch_sampler=...)`, split between ranks.

    Every epoch is a new permutation of `n` items. All ranks get the same number of batches, all
    full: the first items of the permutation come again where they do not divide.

    Args:
        n: items of the data set.
        batch: items a batch and rank.
        seed: of the permutations.
        rank, world: this process and how many there are.
        epoch, skip: where to begin: `skip` batches of `epoch` have been trained on already.
    """

    def __init__(
        self,
        n: int,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        epoch: int = 0,
        skip: int = 0,
    ):
        if n < 1 or batch < 1:
            raise ValueError(f"{n} volumes in batches of {batch}: both must be at least 1")
        self.n, self.batch, self.seed = n, batch, seed
        self.rank, self.world = rank, world
        self.epoch = epoch + skip // len(self)
        self._begin = (self.epoch, skip % len(self))

    @classmethod
    def resumed(cls, trainer: Trainer, n: int, batch: int, seed: int) -> EpochBatches:
        """For `train_dataloader`: where the trainer, fresh or restored, stands.

        Lightning restores the count of batches and reads a plain loader from its start again.
        """
        # It then warns that a plain loader begins again; this one does not.
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before")
        return cls(
            n,
            batch,
            seed,
            trainer.global_rank,
            trainer.world_size,
            epoch=trainer.current_epoch,
            skip=trainer.fit_loop.epoch_loop.batch_progress.current.ready,
        )

    @property
    def sampler(self) -> EpochBatches:
        """Lightning calls `set_epoch` on a batch sampler's `sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n // (self.batch * self.world))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, (first, skip) = self.epoch, self._begin
        order = np.random.default_rng((self.seed, epoch)).permutation(self.n)
        order = np.resize(order, len(self) * self.world * self.batch)
        mine = order.reshape(len(self), self.world, self.batch)[:, self.rank]
        for row in mine[skip if epoch == first else 0 :]:
            yield [(epoch, int(index)) for index in row]
