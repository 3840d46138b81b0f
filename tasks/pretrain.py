"""Pretraining of a small backbone on phantoms, so that Phase 1 and 2 have something to start from.

Not in the paper, whose backbone comes pretrained. From nothing, the answer alone leaves a small
model at chance for very long (docs/decisions.md), so label maps teach it to see, and where to look.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from photon.model.encoder import rotate
from photon.model.photon import PhotonModel
from photon.packing import Segments
from photon.pruning.its import PhotonPruner
from photon.questions.batch import IGNORE, VolumeBatch
from photon.questions.supervision import N_LABELS, SupervisedCollate, evidence_shares
from tasks.base import Optimizer, PhotonTask

COVERED = 0.08  # share of a token from which a label counts as present in it


class DenseHead(nn.Module):
    """Linear read-out of a visual token (V, D): which labels cover it, and how bright they are."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, 2 * N_LABELS)
        # Running mean and variance of each label's intensity, so that attenuations compare.
        self.register_buffer("mean", torch.zeros(N_LABELS))
        self.register_buffer("variance", torch.full((N_LABELS,), 0.01))

    def forward(self, tokens: Tensor, share: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of coverage (binary cross-entropy) and of the standardised intensity (Huber).

        tokens (V, D); share and mean (V, C), see `TokenStatistics`.
        """
        covers, brightness = self.linear(tokens.float()).split(N_LABELS, 1)
        present = (share > COVERED).float()
        # Label 0 is background.
        coverage = F.binary_cross_entropy_with_logits(covers, present, reduction="none")
        coverage = coverage[:, 1:].mean(0).sum()
        if self.training:
            self._update(present, mean)
        target = (mean - self.mean) / (self.variance.sqrt() + 0.02)
        error = F.smooth_l1_loss(brightness, target, reduction="none") * present
        return coverage, error[:, 1:].sum() / present[:, 1:].sum().clamp_min(1)

    @torch.no_grad()
    def _update(self, present: Tensor, mean: Tensor, momentum: float = 0.05) -> None:
        count = present.sum(0)
        seen = count > 0
        centre = (mean * present).sum(0) / count.clamp_min(1)
        spread = ((mean - centre).square() * present).sum(0) / count.clamp_min(1)
        between = (centre - self.mean).square()
        self.mean[seen] = torch.lerp(self.mean, centre, momentum)[seen]
        self.variance[seen] = torch.lerp(self.variance, spread + between, momentum)[seen]


def pointing_loss(u: Tensor, share: Tensor, pairs: Segments) -> Tensor:
    """KL from the evidence's place to softmax(u), averaged over the questions with evidence.

    u (J,) raw saliency (Eq. 5) and share (J,) evidence coverage of every pair.
    """
    target = pairs.pad(share)
    total = target.sum(1, keepdim=True)
    known = total.squeeze(1) > COVERED / 2
    target = target / total.clamp_min(1e-6)
    log_p = pairs.pad(u, float("-inf")).log_softmax(1)
    log_p = torch.where(target > 0, log_p, 0.0)
    gap = (target * (target.clamp_min(1e-9).log() - log_p)).sum(1)
    return (gap * known).sum() / known.sum().clamp_min(1)


class AnswerAttention:
    """Attention logits of the rows that begin an answer to the visual tokens, at one layer.

    Reads the layer's own projections through forward hooks, on top of a pass with pruning off.
    """

    def __init__(self, model: PhotonModel, layer: int):
        self.layers = model.decoder.layers
        attention = self.layers.model.layers[layer].self_attn
        attention.q_proj.register_forward_hook(self._keep("q"))
        attention.k_proj.register_forward_hook(self._keep("k"))
        self.seen: dict[str, Tensor] = {}

    def _keep(self, name: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            self.seen[name] = output

        return hook

    def logits(self, batch: VolumeBatch) -> Tensor:
        """(J,) mean over heads of <q, k> / sqrt(H) from the first answer row of every question."""
        n_prefix, size = batch.prefixes.total, self.layers.head_size
        supervised = (batch.targets != IGNORE).long()
        rows = torch.stack([part.start + supervised[part].argmax() for part in batch.suffixes])
        visual = batch.visual.nonzero().squeeze(1)
        q = self.seen["q"][n_prefix + rows].float().unflatten(-1, (-1, size))
        k = self.seen["k"][visual].float().unflatten(-1, (-1, size))
        q = rotate(q, self.layers.rope(batch.suffix_positions[:, rows]))
        k = rotate(k, self.layers.rope(batch.prefix_positions[:, visual]))
        q = q.unflatten(1, (k.shape[1], -1)).sum(2).flatten(1) / q.shape[1] * size**-0.5
        keys = k.flatten(1).split(batch.visual_lengths)
        return torch.cat([keys[v] @ q[i] for i, v in enumerate(batch.volume_of)])


class Pretrain(PhotonTask):
    """Answers, plus dense vision supervision and pointing, with pruning off.

    Two things learn to point at the evidence: the saliency of layer l, from the question's tokens,
    and the attention of the layer after it, from the row where the answer begins.

    Args:
        model: with a `PhotonPruner`, whose saliency at layer l is taught to point.
        optimizer, warmup: see `PhotonTask`.
        see_first: share of the steps that train vision alone.
        dense: weight of the dense vision losses once answers train too.
        pointing: weight of each of the two pointing losses.
    """

    collate = SupervisedCollate

    def __init__(
        self,
        model: PhotonModel,
        optimizer: Optimizer,
        warmup: float = 0.05,
        see_first: float = 0.15,
        dense: float = 0.5,
        pointing: float = 0.5,
    ):
        super().__init__(model, optimizer, warmup)
        if not isinstance(model.pruner, PhotonPruner):
            raise ValueError("task.pretrain needs pruner=photon: its saliency learns to point")
        self.see_first, self.dense_weight, self.pointing_weight = see_first, dense, pointing
        self.attention = AnswerAttention(model, model.cut)
        self.head = DenseHead(model.backbone.config.text_config.hidden_size)
        # Pruning is off, and nothing reads the threshold.
        model.pruner.predictor.requires_grad_(False)

    def training_step(self, batch: VolumeBatch, batch_index: int) -> Tensor:
        share = torch.cat([one.share for one in batch.labels]).to(self.device)
        mean = torch.cat([one.mean for one in batch.labels]).to(self.device)
        seeing = self.trainer.global_step < self.see_first * self.trainer.max_steps
        if seeing:
            coverage, brightness = self.head(self.model.encode(batch), share, mean)
            loss = coverage + brightness
        else:
            output = self.model(batch, stage="off")
            coverage, brightness = self.head(output.visual_tokens, share, mean)
            answer = self.answer_term(output)
            with torch.autocast(self.device.type, enabled=False):
                u = self.model.pruner.saliency(output.context)
                attention = self.attention.logits(batch)
            evidence = evidence_shares(batch).to(self.device)
            point = pointing_loss(u, evidence, output.context.pairs)
            attend = pointing_loss(attention, evidence, output.context.pairs)
            loss = answer + self.dense_weight * (coverage + brightness)
            loss = loss + self.pointing_weight * (point + attend)
            self.count(batch, output)
            self.log("loss/answer", answer, prog_bar=True)
            self.log("loss/pointing", point, prog_bar=True)
            self.log("loss/attention", attend, prog_bar=True)
        self.log("loss", loss)
        self.log("loss/coverage", coverage, prog_bar=True)
        self.log("loss/brightness", brightness)
        return loss
