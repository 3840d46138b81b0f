"""What both phases share: the model, the optimiser with its schedule, and what a step reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from photon.annotations import Fraction, Positive
from photon.batch.batch import VolumeBatch
from photon.batch.dataset import Collate
from photon.cost.flops import Trained
from photon.losses import answer_loss
from photon.model.photon import Output, PhotonModel
from photon.weights.checks import check_trained
from tasks.datamodule import Kind
from tasks.progress import say
from tasks.sharding import FullySharded, shard

Optimizer = Callable[[Iterable], torch.optim.Optimizer]


def warmup_cosine(step: int, total: int, warmup: float) -> float:
    """Factor on the learning rate: linear over the first `warmup` of the steps, then a cosine."""
    rising = max(1, round(total * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def parameter_groups(parts: Iterable[tuple[nn.Module, float | None]], decay: float) -> list[dict]:
    """Optimiser groups of the trainable parameters of (module, learning rate or None) parts.

    Vectors (norms, biases) do not decay. `hidden` marks the weights of the linear layers, but for
    the head's. A parameter belongs to the first part that holds it.
    """
    groups: dict[tuple[float | None, float, bool], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module, lr in parts:
        hidden = {
            id(layer.weight)
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Linear) and not name.endswith("lm_head")
        }
        for parameter in module.parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                key = (lr, decay if parameter.dim() > 1 else 0.0, id(parameter) in hidden)
                groups.setdefault(key, []).append(parameter)
    return [
        {"params": params, "weight_decay": wd, "hidden": hid, **({} if lr is None else {"lr": lr})}
        for (lr, wd, hid), params in groups.items()
    ]


class PhotonTask(LightningModule):
    """A phase of training: one model, one optimiser, warm-up and cosine.

    Args:
        model: the model to train.
        optimizer: partial of a torch optimiser; its weight decay goes to matrices only.
        warmup: share of the steps over which the learning rate rises.
        vision_lr: learning rate of the vision tower; None takes the optimiser's.
    """

    reads: tuple[Kind, ...] = ("questions",)  # which records of the data set
    collate = Collate  # what turns items into a batch
    prunes = False  # whether the phase follows the pruning schedule
    trained: Trained = "all"  # which weights learn, for the plan of a run

    def __init__(
        self,
        model: PhotonModel,
        optimizer: Optimizer,
        warmup: Fraction = 0.05,
        vision_lr: Positive | None = None,
    ):
        super().__init__()
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup={warmup}: legal values are shares of the steps in [0, 1)")
        self.model = model
        self.make_optimizer = optimizer
        self.warmup = warmup
        self.vision_lr = vision_lr
        self.stage, self.flip = "off", False
        self.retention_rows: list[dict] = []
        self.step_counts: dict[str, int] = {}

    def configure_model(self) -> None:
        """Divide the weights where the strategy asks for it (`trainer=fsdp`)."""
        strategy = self.trainer.strategy
        if isinstance(strategy, FullySharded):
            shard(self.model, strategy.device_mesh["data_parallel"], strategy.gather)

    def configure_optimizers(self) -> dict[str, Any]:
        decay = getattr(self.make_optimizer, "keywords", {}).get("weight_decay", 0.0)
        parts = [(self.model.backbone.model.visual, self.vision_lr), (self, None)]
        optimizer = self.make_optimizer(parameter_groups(parts, decay))
        # Beside a fused step, which can undo the scaling of gradients, Lightning refuses to clip
        # them. Nothing is scaled here: there is no fp16.
        optimizer._step_supports_amp_scaling = False
        total = self.trainer.max_steps
        if self.trainer.is_global_zero and self.trainer.datamodule is not None:
            rates = " and ".join(
                f"{rate:g}" for rate in sorted({g["lr"] for g in optimizer.param_groups})
            )
            say(
                "budget",
                f"{total:,} updates {self.trainer.datamodule.budget()}; learning rate {rates}",
            )
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, total, self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.model.preparation is not None:
            checkpoint["preparation"] = self.model.preparation.to_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises InputError where the checkpoint was trained on volumes prepared otherwise."""
        spec = checkpoint if "preparation" in checkpoint else None
        check_trained("the checkpoint to resume from", spec, self.model.preparation)

    def answer_term(self, output: Output, use: Tensor | None = None) -> Tensor:
        """Cross-entropy averaged over the batch's questions; those outside `use` count as zero."""
        answers = output.answers
        loss = answer_loss(answers.logits, answers.targets, answers.questions)
        return loss.mean() if use is None else (loss * use).sum() / len(loss)

    def count(self, batch: VolumeBatch, output: Output) -> None:
        """What the throughput callback reads."""
        lengths = batch.visual_lengths
        visual = sum(lengths[v] for v in batch.volume_of)
        kept = visual if output.selection is None else int(output.selection.counts.sum())
        self.step_counts = {
            "questions": len(batch.suffixes),
            "visual_tokens": visual,
            "kept_tokens": kept,
        }
