"""Answers and what they cost, from the same pass: every condition by itself.

A pass of one condition over one batch reads the volumes, selects, and decodes, as it would if there
were no other condition; its seconds, memory and operations stand in every row that it answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from photon.batch.batch import VolumeBatch
from photon.evaluation.conditions import Condition
from photon.evaluation.evaluator import Evaluator, Evidence
from photon.evaluation.predictions import PredictionWriter
from photon.model.generate import Generation, read
from photon.model.photon import PhotonModel
from photon.peak import PeakMemory
from photon.pruning.base import Pruner, blocks_of

PREFILL = ("encoder", "layers up to l", "selection", "layers above l")


@dataclass(frozen=True)
class TimedEvaluator(Evaluator):
    """An `Evaluator` in which conditions share nothing, and whose rows say what they cost.

    Each row has `read_tokens`, the visual tokens that its question reads, averaged over the layers,
    and `cost`, of its pass: batch (which one), volumes, questions, seconds of each part, steps of
    decoding, cache_bytes (keys and values of the prompts), peak_bytes (above what was held before;
    None where that cannot be told) and, in the first pass of a condition, flops until the first
    token. That first pass runs twice, so that what is timed is warm.
    """

    def _answer_batch(
        self,
        batch: VolumeBatch,
        group: Sequence[Condition],
        writers: Mapping[str, PredictionWriter],
    ) -> None:
        device = next(self.model.parameters()).device
        evidence, batch = Evidence(batch, self.model.builder.token), batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            for condition in group:
                writer = writers[condition.name]
                if all(writer.has(record.id) for record in batch.records):
                    continue
                pruner = self._pruner(condition, evidence, writers)
                flops = None if writer.rows else self._flops(condition, batch, pruner)
                with PeakMemory(device) as peak:
                    generation = self._pass(condition, batch, pruner)
                cost = pass_cost(self.model, batch, generation, peak.nbytes, flops)
                rows = self._rows(condition, evidence, generation)
                for row, tokens in zip(rows, generation.read_tokens, strict=True):
                    if not writer.has(row["id"]):
                        writer.write({**row, "read_tokens": round(tokens, 2), "cost": cost})

    def _pass(self, condition: Condition, batch: VolumeBatch, pruner: Pruner | None) -> Generation:
        blocks = () if pruner is None else blocks_of(pruner)
        reading = read(self.model, batch, self._cut(condition), blocks)
        return self._answer(condition, reading, pruner)

    def _flops(self, condition: Condition, batch: VolumeBatch, pruner: Pruner | None) -> int:
        """Operations of matrix products and attention until the first token."""
        short = TimedEvaluator(**{**vars(self), "max_new_tokens": 1})
        with FlopCounterMode(display=False) as counter:
            short._pass(condition, batch, pruner)
        return counter.get_total_flops()


def pass_cost(
    model: PhotonModel,
    batch: VolumeBatch,
    generation: Generation,
    peak_bytes: int | None,
    flops: int | None,
) -> dict[str, Any]:
    """What `TimedEvaluator` writes of a pass."""
    longest = max(map(len, generation.tokens), default=0)
    return {
        "batch": batch.records[0].id,
        "volumes": len(batch.grids),
        "questions": len(batch.records),
        "seconds": {name: round(s, 6) for name, s in generation.seconds.items()},
        "steps": longest,
        "cache_bytes": generation.cache_bytes,
        "peak_bytes": peak_bytes,
        "flops": flops,
    }


def prefill_seconds(cost: Mapping[str, Any]) -> float:
    """Until the first token of every question of a pass is known."""
    return sum(cost["seconds"].get(name, 0.0) for name in PREFILL)
