"""Validation while it trains: the answers to a small fixed part of the split `val`, every n steps.

A forward pass with the answers in place is enough: greedy decoding says the reference, word for
word, exactly where the likeliest token is the next one at each of its positions (a test).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torchmetrics as tm
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryCalibrationError,
    BinaryF1Score,
    BinaryRecall,
    BinarySpecificity,
)

from photon.annotations import Count
from photon.batch.batch import VolumeBatch
from photon.batch.dataset import Collate
from photon.errors import InputError
from photon.evaluation.coverage import evidence_recall
from photon.evaluation.evaluator import Evidence
from photon.evaluation.metrics import normalize_text
from photon.losses import answer_loss
from photon.model.generate import Generation
from photon.model.photon import Output
from photon.questions.record import Record
from tasks.checkpointing import newest_whole, read_plain
from tasks.progress import say

# Of questions whose truth is yes or no, by the probability of yes among the two.
YES_NO = {
    "auroc": BinaryAUROC,
    "f1": BinaryF1Score,
    "sensitivity": BinaryRecall,
    "specificity": BinarySpecificity,
    "calibration_error": BinaryCalibrationError,
}


class Validation(Callback):
    """Logs val/* every `every` optimiser steps and after the last one.

    val/loss, val/accuracy (greedy answer equals the reference) and val/accuracy/SUBTASK, val/keep
    and val/evidence_kept (shares of tokens), val/no_pruning/* (the same weights with all tokens),
    and val/yes_no/* (see YES_NO). Tokens are dropped once the schedule has begun to prune. Nothing
    of it changes what is trained: neither the order of batches nor what is drawn (tests). Other
    callbacks' `on_validation_end` follows, for ModelCheckpoint and EarlyStopping.

    Args:
        every: optimiser steps from one validation to the next.
        volumes: the first so many of the split; of several processes each takes an equal part.
        questions: of a volume, at most.
        volumes_per_batch: of a pass.
    """

    def __init__(
        self,
        every: Count = 100,
        volumes: Count = 8,
        questions: Count = 32,
        volumes_per_batch: Count = 2,
    ):
        self.every, self.volumes, self.questions = every, volumes, questions
        self.volumes_per_batch = volumes_per_batch
        self._batches: list[VolumeBatch] | None = None
        self._done = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the volumes once; without questions in the phase or in `val` there is nothing."""
        self._batches = None
        data = trainer.datamodule
        if stage != "fit" or data is None or "questions" not in pl_module.reads:
            return
        if not data.has_validation:
            if trainer.is_global_zero:
                say("validation", "none: the data set has no questions in its split val")
            return
        items = data.validation_items(self.volumes, self.questions)
        rank, world = trainer.global_rank, trainer.world_size
        if len(items) < world:
            raise InputError(
                f"callbacks.validation: {len(items)} volumes in the split val for {world} "
                "processes: give more of them, or set callbacks.validation=null"
            )
        mine = list(range(rank, len(items) - len(items) % world, world))
        model = pl_module.model
        collate = Collate(model.builder, model.tokenizer, with_answer=True)
        n = self.volumes_per_batch
        parts = [mine[i : i + n] for i in range(0, len(mine), n)]
        self._batches = [collate([items[i] for i in part]) for part in parts]
        records = [record for batch in self._batches for record in batch.records]
        self.subtasks = sorted({r.subtask or "all" for r in _everywhere(records, world)})
        self._yes = {r.id: yes_and_no(r, collate) for r in records}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._done = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step, last = trainer.global_step, trainer.max_steps
        if self._batches is None or step == self._done or step % self.every and step != last:
            return
        self._done, started = step, time.perf_counter()
        values = self.validate(trainer, pl_module)
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics(values, step - 1)  # as Lightning counts what it logs of a step
        if trainer.is_global_zero:
            kept = (
                f", {values['val/keep']:.0%} of the tokens kept" if pl_module.stage != "off" else ""
            )
            say(
                "validation",
                f"step {step} of {last}, {values['val/accuracy']:.1%} right{kept}",
                started,
            )
        for callback in trainer.callbacks:
            if callback is not self:
                callback.on_validation_end(trainer, pl_module)

    @torch.no_grad()
    def validate(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """The values of now, over all processes."""
        device, model = pl_module.device, pl_module.model
        stages = {"": "off" if pl_module.stage == "off" else "hard", "no_pruning/": "off"}
        scores = {name: Scores(self.subtasks).to(device) for name in stages}
        told: list[tuple[float, int]] = []
        training = model.training
        model.eval()
        try:
            for batch in self._batches:
                evidence, batch = Evidence(batch, model.builder.token), batch.to(device)
                for name, stage in stages.items():
                    with trainer.precision_plugin.forward_context():
                        output = model(batch, stage)
                    scores[name].update(batch, evidence, output)
                    told += self._yes_no(batch, output) if name == "" else []
        finally:
            model.train(training)
        values = {f"val/{k}": v for name in stages for k, v in scores[name].compute(name).items()}
        return values | yes_no_values(_everywhere(told, trainer.world_size))

    def _yes_no(self, batch: VolumeBatch, output: Output) -> list[tuple[float, int]]:
        """(probability of yes, truth) of the questions that are answered by yes or no."""
        first = output.answers.logits[output.answers.questions.starts].float().cpu()
        found = []
        for row, record in zip(first, batch.records, strict=True):
            if self._yes[record.id] is not None:
                yes, no, truth = self._yes[record.id]
                found.append((float(row[[yes, no]].softmax(0)[0]), truth))
        return found


class Scores(torch.nn.Module):
    """Means over questions; every process must compute them."""

    def __init__(self, subtasks: Sequence[str]):
        super().__init__()
        self.subtasks = list(subtasks)
        names = ("loss", "accuracy", "keep", "evidence_kept")
        self.means = torch.nn.ModuleDict({name: tm.MeanMetric() for name in names})
        self.by_subtask = torch.nn.ModuleList(tm.MeanMetric() for _ in subtasks)

    def update(self, batch: VolumeBatch, evidence: Evidence, output: Output) -> None:
        """Add the questions of a batch."""
        answers = output.answers
        loss = answer_loss(answers.logits, answers.targets, answers.questions)
        said = (answers.logits.argmax(-1) == answers.targets).long()
        right = (answers.questions.sum(said) == answers.questions.counts.to(said.device)).float()
        self.means["loss"].update(loss)
        self.means["accuracy"].update(right)
        for name, metric in zip(self.subtasks, self.by_subtask, strict=True):
            mine = [i for i, r in enumerate(batch.records) if (r.subtask or "all") == name]
            if mine:
                metric.update(right[mine])
        present = [batch.present[v] for v in batch.volume_of]
        kept = Generation([], present, output.selection).keep_masks
        self.means["keep"].update(torch.tensor([float(mask.float().mean()) for mask in kept]))
        covered = [
            evidence_recall(share, mask.numpy())
            for share, mask in zip(evidence.shares, kept, strict=True)
            if share is not None
        ]
        if covered:
            self.means["evidence_kept"].update(torch.tensor(covered))

    def compute(self, prefix: str) -> dict[str, float]:
        """Name to mean over all processes; what no question told is left out."""
        named = {
            **self.means,
            **{f"accuracy/{n}": m for n, m in zip(self.subtasks, self.by_subtask)},
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # this process may have had no question of a kind
            values = {f"{prefix}{name}": float(metric.compute()) for name, metric in named.items()}
        if prefix:  # everything is kept there
            values.pop(f"{prefix}keep"), values.pop(f"{prefix}evidence_kept")
        return {name: value for name, value in values.items() if value == value}


def yes_no_values(told: Sequence[tuple[float, int]]) -> dict[str, float]:
    """val/yes_no/* of (probability of yes, truth); nothing unless both truths occur."""
    if len({truth for _, truth in told}) < 2:
        return {}
    prob, truth = torch.tensor([p for p, _ in told]), torch.tensor([t for _, t in told])
    # All values are here already: nothing is left to reduce over processes.
    made = {name: metric(sync_on_compute=False) for name, metric in YES_NO.items()}
    return {f"val/yes_no/{name}": float(metric(prob, truth)) for name, metric in made.items()}


def yes_and_no(record: Record, collate: Collate) -> tuple[int, int, int] | None:
    """First tokens of the answers yes and no, and which is true (1: yes); None for other questions.

    A choice question's are the letters of these options.
    """
    if record.choices:
        letters = {normalize_text(text): letter for letter, text in record.choices.items()}
        words = {word: letters.get(word) for word in ("yes", "no")}
        truth = (record.answer_letter or "").upper()
    else:
        style = str.capitalize if record.answer[:1].isupper() else str
        words = {word: style(word) for word in ("yes", "no")}
        truth = style(normalize_text(record.answer))
    if None in words.values() or truth not in words.values():
        return None
    first = []
    for word in words.values():
        prompt = collate.prompt(replace(record, answer=word))
        first.append(prompt.suffix[prompt.answer_start])
    return None if first[0] == first[1] else (*first, int(truth == words["yes"]))


def _everywhere(values: list[Any], world: int) -> list[Any]:
    """The values of all processes, in their order."""
    if world == 1:
        return values
    gathered: list[Any] = [None] * world
    torch.distributed.all_gather_object(gathered, values)
    return [value for one in gathered for value in one]


class BestCheckpoint(ModelCheckpoint):
    """checkpoints/best.ckpt: the weights with the best validation so far.

    Args:
        monitor: a value of `Validation`. mode: whether more or less of it is better.
        take: export and evaluate these weights in place of the last ones.
    """

    def __init__(
        self, monitor: str = "val/accuracy", mode: Literal["max", "min"] = "max", take: bool = False
    ):
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            save_weights_only=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self.take = take

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        if self.take and not _plain(trainer):
            raise InputError(
                "callbacks.best.take=true: best.ckpt of trainer=fsdp and trainer=zero2 is not read "
                "back; leave it out, or train with trainer=ddp or gpu"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the folder is not empty where a run is resumed
            super().setup(trainer, pl_module, stage)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor in trainer.callback_metrics or self._validates(trainer):
            super().on_validation_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = Path(self.dirpath) / "best.ckpt"
        if not self.take or not self._validates(trainer):
            return
        checkpoint: Mapping[str, Any] = read_plain(newest_whole(path), "cpu")
        pl_module.load_state_dict(checkpoint["state_dict"])
        if trainer.is_global_zero:
            say("best", f"weights of step {checkpoint['global_step']} (callbacks.best.take)")

    def _validates(self, trainer: Trainer) -> bool:
        return any(isinstance(c, Validation) and c._batches for c in trainer.callbacks)


def _plain(trainer: Trainer) -> bool:
    from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

    from tasks.zero import DeepSpeedZero

    plain = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
    return plain and not isinstance(trainer.strategy, DeepSpeedZero)
