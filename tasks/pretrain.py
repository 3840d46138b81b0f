"""Pretraining of a small backbone on phantoms, so that Phase 1 and 2 have something to start from.

Not in the paper, whose backbone comes pretrained. From nothing, the answer alone leaves a small
model at chance for very long (docs/decisions.md), so label maps teach it to see, and where to look.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from photon.annotations import Fraction, NonNegative, Share
from photon.batch.batch import VolumeBatch
from photon.batch.supervision import (
    N_LABELS,
    HintedCollate,
    Pointers,
    SupervisedCollate,
    TokenStatistics,
    evidence_shares,
)
from photon.losses import pointing_loss
from photon.model.encoder import rotate
from photon.model.photon import Output, PhotonModel
from photon.packing import Segments
from photon.phantoms.layout import LESION_OFFSET, ORGANS
from photon.pruning.its import PhotonPruner
from tasks.base import Optimizer, PhotonTask
from tasks.datamodule import Kind

LESIONS = [organ.id + LESION_OFFSET for organ in ORGANS]
COVERED = 0.08  # share of a token from which an organ counts as present in it
LESION_COVERED = 0.02  # lesions are small: a ball of 4 voxels' radius is a fortieth of a token


class RunningScore(nn.Module):
    """Standard score of a value within its label, by running mean and variance."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(N_LABELS))
        self.register_buffer("variance", torch.ones(N_LABELS))
        self.register_buffer("count", torch.zeros(N_LABELS))

    def forward(self, value: Tensor, label: Tensor) -> Tensor:
        """value (V,) and label (V,) to scores (V,)."""
        if self.training:
            self._update(value, label)
        return (value - self.mean[label]) / (self.variance[label].sqrt() + 1e-3)

    @torch.no_grad()
    def _update(self, value: Tensor, label: Tensor) -> None:
        n = torch.bincount(label, minlength=N_LABELS).to(value.dtype)
        centre = torch.bincount(label, value, N_LABELS) / n.clamp_min(1)
        square = torch.bincount(label, value.square(), N_LABELS) / n.clamp_min(1)
        # The mean over all batches at first, over about the last 50 later.
        rate = torch.where(n > 0, 1 / (self.count + 1).clamp_max(50), 0.0)
        second = self.variance + self.mean.square()
        self.mean.lerp_(centre, rate)
        self.variance.copy_((second.lerp(square, rate) - self.mean.square()).clamp_min(1e-6))
        self.count += n > 0


class DenseHead(nn.Module):
    """Linear read-out of a visual token (V, D) that label maps supervise.

    Which labels cover the token; and, read in one direction whatever the organ, whether it holds a
    lesion and how bright and how large its organ is for that organ. Shared directions are what an
    answer can use: read out organ by organ, the same facts left answers at chance.
    """

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, N_LABELS + 3)
        self.brightness, self.size = RunningScore(), RunningScore()
        organ = torch.ones(N_LABELS, dtype=torch.bool)
        organ[0] = False
        organ[LESIONS] = False
        self.register_buffer("organ", organ)
        self.register_buffer("least", torch.where(organ, COVERED, LESION_COVERED))

    def forward(self, tokens: Tensor, labels: list[TokenStatistics]) -> dict[str, Tensor]:
        """Losses of coverage, lesion (binary cross-entropies), brightness and size (Huber)."""
        read = self.linear(tokens.float())
        share, mean, extent = (
            torch.cat([getattr(one, name)[:, :N_LABELS] for one in labels]).to(read.device)
            for name in ("share", "mean", "extent")
        )
        present = (share > self.least).float()
        coverage = F.binary_cross_entropy_with_logits(read[:, :N_LABELS], present, reduction="none")
        lesion = F.binary_cross_entropy_with_logits(
            read[:, N_LABELS], present[:, LESIONS].amax(1), reduction="mean"
        )
        most, label = (share * self.organ).max(1)
        inside = most > COVERED
        label, at = label[inside], label[inside, None]
        bright = self.brightness(mean[inside].gather(1, at).squeeze(1), label)
        size = self.size(extent[inside].gather(1, at).squeeze(1).log1p(), label)
        return {
            "coverage": coverage[:, 1:].mean(0).sum(),  # label 0 is background
            "lesion": 4 * lesion,
            "brightness": 3 * F.smooth_l1_loss(read[inside, N_LABELS + 1], bright),
            "size": 3 * F.smooth_l1_loss(read[inside, N_LABELS + 2], size),
        }


class Attention:
    """Attention logits from chosen suffix rows to the visual tokens, at one layer.

    Reads the layer's own projections through forward hooks, on top of a pass with pruning off.
    """

    def __init__(self, model: PhotonModel, layer: int):
        self.layers = model.decoder.layers
        attention = self.layers.model.layers[layer].self_attn
        for name in "qk":  # behind their norms, where the layer has them (Qwen3-VL)
            projected = getattr(attention, f"{name}_norm", getattr(attention, f"{name}_proj"))
            projected.register_forward_hook(self._keep(name))
        self.seen: dict[str, Tensor] = {}

    def _keep(self, name: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            if module.training:
                self.seen[name] = output

        return hook

    def logits(self, batch: VolumeBatch, pointers: Pointers) -> tuple[Tensor, Segments]:
        """<q, k> / sqrt(H), mean over heads, of every (row, visual token of its item) pair."""
        n_prefix, size = batch.prefixes.total, self.layers.head_size
        rows = pointers.rows.to(batch.suffix_ids.device)
        visual = batch.visual.nonzero().squeeze(1)
        q = self.seen["q"][n_prefix + rows].float().reshape(len(rows), -1, size)
        k = self.seen["k"][visual].float().reshape(len(visual), -1, size)
        q = rotate(q, self.layers.rope(batch.suffix_positions[:, rows]))
        k = rotate(k, self.layers.rope(batch.prefix_positions[:, visual]))
        self.seen.clear()
        q = q.unflatten(1, (k.shape[1], -1)).sum(2).flatten(1) / q.shape[1] * size**-0.5
        lengths = batch.visual_lengths
        keys = k.flatten(1).split(lengths)
        counts = [pointers.owner.count(v) for v in range(len(lengths))]  # owners ascend
        blocks = zip(q.split(counts), keys, strict=True)
        logits = torch.cat([(q_v @ k_v.T).flatten() for q_v, k_v in blocks])
        return logits, Segments([lengths[v] for v in pointers.owner], logits.device)


class Pretrain(PhotonTask):
    """Captions or answers, plus dense vision supervision and pointing, with pruning off.

    Two things learn to point at the evidence: the saliency of layer l, from the question's tokens,
    and the attention of the second layer after it, from the rows that say what the volume tells.

    Args:
        model: with a `PhotonPruner`, whose saliency at layer l is taught to point.
        optimizer, warmup: see `PhotonTask`.
        reads: what is learned: reports, questions.
        see_first: share of the steps that train vision alone.
        dense: weight of the dense vision losses once answers train too.
        pointing: weight of each of the two pointing losses.
        hints: ask half of the choice questions after their answer was given in words, so that only
            its letter is left to find (see `HintedCollate`).
    """

    def __init__(
        self,
        model: PhotonModel,
        optimizer: Optimizer,
        warmup: Fraction = 0.05,
        reads: Sequence[Kind] = ("reports", "questions"),
        see_first: Share = 0.0,
        dense: NonNegative = 0.5,
        pointing: NonNegative = 0.5,
        hints: bool = False,
    ):
        super().__init__(model, optimizer, warmup)
        if not isinstance(model.pruner, PhotonPruner):
            raise ValueError("task.pretrain needs pruner=photon: its saliency learns to point")
        self.reads = tuple(reads)
        self.collate = HintedCollate if hints else SupervisedCollate
        self.see_first, self.dense_weight, self.pointing_weight = see_first, dense, pointing
        self.attention = Attention(model, min(model.cut + 1, model.n_layers - 1))
        # The read-outs outlive a phase, like the model: new ones would spoil what it has learned to
        # see. They are no part of it, so they stand beside its modules.
        width = model.backbone.config.text_config.hidden_size
        self.head = model.__dict__.setdefault("read_outs", DenseHead(width))
        # Pruning is off, and nothing reads the threshold.
        model.pruner.predictor.requires_grad_(False)

    def training_step(self, batch: VolumeBatch, batch_index: int) -> Tensor:
        if self.trainer.global_step < self.see_first * self.trainer.max_steps:
            dense = self.head(self.model.encode(batch).tokens, batch.labels.items)
            loss = sum(dense.values())
        else:
            output = self.model(batch, stage="off")
            dense = self.head(output.visual_tokens, batch.labels.items)
            terms = self.answer_terms(batch, output)
            loss = terms["answer"] + self.dense_weight * sum(dense.values())
            loss = loss + self.pointing_weight * (terms["pointing"] + terms["attention"])
            self.count(batch, output)
            self.log_dict({f"loss/{k}": v.detach() for k, v in terms.items()}, prog_bar=True)
        self.log("loss", loss)
        self.log_dict({f"loss/{k}": v.detach() for k, v in dense.items()})
        return loss

    def answer_terms(self, batch: VolumeBatch, output: Output) -> dict[str, Tensor]:
        """Cross-entropy of every token, and how far saliency and attention are from the evidence.

        The answer's mean is over tokens, not questions: in a caption each of them tells something.
        """
        pointers = batch.labels.pointers
        with torch.autocast(self.device.type, enabled=False):
            saliency = self.model.pruner.saliency(output.context)
            attention, rows = self.attention.logits(batch, pointers)
        evidence = evidence_shares(batch).to(self.device)
        answers = output.answers
        return {
            "answer": F.cross_entropy(answers.logits.float(), answers.targets),
            "pointing": pointing_loss(saliency, evidence, output.context.pairs),
            "attention": pointing_loss(attention, pointers.share.to(self.device), rows),
        }
