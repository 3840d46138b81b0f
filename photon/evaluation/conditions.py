"""Answers a set of questions under the model's own pruning and under the controls.

Every condition has its own predictions file and continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from photon.evaluation.controls import random_keep_mask, shuffled_volumes
from photon.evaluation.coverage import evidence_recall, token_coverage
from photon.evaluation.predictions import PredictionWriter, prediction_row
from photon.model.generate import Generation, generate
from photon.model.photon import PhotonModel
from photon.pruning.base import Keep
from photon.pruning.baselines.given import GivenPruner
from photon.questions.batch import VolumeBatch
from photon.questions.dataset import Collate, Item, VolumeQuestions
from photon.questions.record import Record
from photon.volume.store import VolumeStore

CONTROLS = ("no_pruning", "random_keep", "shuffled_volume", "question_only")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluator:
    """Runs conditions of one model over one set of questions.

    Args:
        model: in evaluation mode, on the device to run on.
        records: questions; root: folder that their paths are relative to.
        store: of the model's preparation.
        run_dir: predictions.jsonl and controls/NAME.jsonl go here.
        fingerprint: of weights, data and settings; a file of another one is refused.
        volumes_per_batch: volumes answered at once, with all of their questions.
        keep: a budget in place of the learned threshold.
        seed: of the random-keep and shuffled-volume controls.
        progress: called with (condition, volumes done, volumes in all).
    """

    model: PhotonModel
    records: Sequence[Record]
    store: VolumeStore
    run_dir: Path
    root: Path = Path(".")
    fingerprint: Any = None
    volumes_per_batch: int = 4
    max_new_tokens: int = 16
    keep: Keep = None
    seed: int = 0
    progress: Progress | None = None

    def run(self, condition: str) -> list[dict[str, Any]]:
        """Rows of a condition, `photon` or one of CONTROLS; `random_keep` needs `photon` first."""
        path = self.path(condition)
        path.parent.mkdir(parents=True, exist_ok=True)
        own = {}
        if condition == "random_keep":
            own = {row["id"]: row for row in self.run("photon")}
        with PredictionWriter(path, self.fingerprint) as writer:
            dataset = self._dataset(condition, writer.pending(self.records))
            for start in range(0, len(dataset), self.volumes_per_batch):
                stop = min(start + self.volumes_per_batch, len(dataset))
                items = [dataset[i] for i in range(start, stop)]
                for row in self._answer(condition, items, own):
                    writer.write(row)
                if self.progress:
                    self.progress(condition, stop, len(dataset))
            order = {record.id: i for i, record in enumerate(self.records)}
            return sorted(
                (row for row in writer.rows if row["id"] in order), key=lambda r: order[r["id"]]
            )

    def path(self, condition: str) -> Path:
        """Where a condition's predictions are."""
        if condition == "photon":
            return self.run_dir / "predictions.jsonl"
        return self.run_dir / "controls" / f"{condition}.jsonl"

    def _dataset(self, condition: str, records: Sequence[Record]) -> VolumeQuestions:
        substitute = None
        if condition == "shuffled_volume":
            substitute = shuffled_volumes(self.records, self.seed)
        labels = condition in ("photon", "random_keep")
        return VolumeQuestions(
            records, self.store, self.root, with_labels=labels, substitute=substitute
        )

    def _answer(self, condition: str, items: list[Item], own: dict) -> list[dict[str, Any]]:
        model, tokenizer = self.model, self.model.tokenizer
        collate = Collate(model.builder, tokenizer, False, blind=condition == "question_only")
        device = next(model.parameters()).device
        batch = collate(items).to(device)
        pruner, keep, stage = None, self.keep, "hard"
        if condition in ("no_pruning", "question_only"):
            keep, stage = None, "off"
        elif condition == "random_keep" and model.pruner is not None:
            keep, pruner = None, self._random(batch, own)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            generation = generate(
                model,
                batch,
                tokenizer.convert_tokens_to_ids("<|im_end|>"),
                self.max_new_tokens,
                stage,
                keep,
                pruner,
                torch.Generator().manual_seed(self.seed),
            )
        return self._rows(condition, batch, generation)

    def _random(self, batch: VolumeBatch, own: dict) -> GivenPruner:
        masks = [
            random_keep_mask(
                record.id, own[record.id]["kept_tokens"], own[record.id]["visual_tokens"], self.seed
            )
            for record in batch.records
        ]
        return GivenPruner(self.model.pruner.layer, masks)

    def _rows(
        self, condition: str, batch: VolumeBatch, generation: Generation
    ) -> list[dict[str, Any]]:
        theta = None if generation.selection is None else generation.selection.theta
        rows = []
        for i, record in enumerate(batch.records):
            text = self.model.tokenizer.decode(generation.tokens[i], skip_special_tokens=True)
            labels = batch.labels[batch.volume_of[i]]
            coverage = None
            if labels is not None and record.evidence:
                share = token_coverage(labels, record.evidence, self.model.builder.token)
                coverage = evidence_recall(share, generation.keep_masks[i].numpy())
            rows.append(
                prediction_row(
                    record,
                    text.strip(),
                    condition,
                    kept_tokens=generation.kept_tokens[i],
                    visual_tokens=generation.visual_tokens[i],
                    coverage=coverage,
                    theta=None if theta is None else round(float(theta[i]), 6),
                )
            )
        return rows
