"""Label maps teach the saliency where to look. Not in the paper."""

from __future__ import annotations

import torch
from torch import Tensor

from photon.batch.batch import VolumeBatch
from photon.batch.supervision import SupervisedCollate, evidence_shares
from photon.losses import pointing_loss
from photon.model.photon import Output, PhotonModel
from photon.pruning.its import PhotonPruner
from tasks.terms import Term


class Pointing(Term):
    """How far the saliency of layer l is from the evidence of each question; every volume needs a
    label map.

    Args:
        weight: factor on `photon.losses.pointing_loss`.
    """

    collate = SupervisedCollate

    def check(self, model: PhotonModel) -> None:
        if not isinstance(model.pruner, PhotonPruner):
            raise ValueError("the term pointing needs pruner=photon: its saliency is taught")

    def __call__(
        self, model: PhotonModel, batch: VolumeBatch, output: Output, use: Tensor
    ) -> Tensor | None:
        if output.context is None:
            return None
        pairs = output.context.pairs
        with torch.autocast(use.device.type, enabled=False):
            u = model.pruner.saliency(output.context)
        share = evidence_shares(batch).to(u.device) * pairs.expand(use)
        return pointing_loss(u, share, pairs)
