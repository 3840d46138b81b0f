"""Loss terms of Phase 2 beside those of the paper: one file each here, and one in conf/task."""

from __future__ import annotations

from torch import Tensor

from photon.annotations import NonNegative
from photon.batch.batch import VolumeBatch
from photon.batch.dataset import Collate
from photon.model.photon import Output, PhotonModel


class Term:
    """A term of the loss, `weight` times what a call returns; its name is its key in `terms`.

    Args:
        weight: factor on the term.
    """

    collate = Collate  # what turns items into a batch; `SupervisedCollate` adds the label maps

    def __init__(self, weight: NonNegative = 1.0):
        self.weight = weight

    def check(self, model: PhotonModel) -> None:
        """Raise ValueError where `model` cannot have this term: before training begins."""

    def __call__(
        self, model: PhotonModel, batch: VolumeBatch, output: Output, use: Tensor
    ) -> Tensor | None:
        """The term of a batch, a scalar; None in a step that has nothing for it.

        use (Q,): true at the questions that train on their answers. A perturbed volume's questions
        (Eq. 19) have no other loss.
        """
        raise NotImplementedError
