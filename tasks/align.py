"""Phase 1: align the 3D patch embedding on volume-report pairs (A.1.1)."""

from __future__ import annotations

from torch import Tensor

from photon.batch.batch import VolumeBatch
from photon.model.photon import PhotonModel
from tasks.base import Optimizer, PhotonTask


class Align(PhotonTask):
    """Trains the patch embedding only; ViT, merger and language model stay as they are.

    No pruning: every visual token reaches every layer, and the loss is cross-entropy on the report.
    """

    reads = ("reports",)
    trained = "patch"

    def __init__(self, model: PhotonModel, optimizer: Optimizer, warmup: float = 0.05):
        super().__init__(model, optimizer, warmup)
        model.requires_grad_(False)
        model.backbone.model.visual.patch_embed.requires_grad_(True)

    def training_step(self, batch: VolumeBatch, batch_index: int) -> Tensor:
        output = self.model(batch, stage="off")
        loss = self.answer_term(output)
        self.count(batch, output)
        self.log("loss", loss, prog_bar=True)
        return loss
