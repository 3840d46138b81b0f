"""Answers a set of questions under any number of conditions, each volume read once.

Conditions with the same view (the volume itself, another patient's, none) share the encoder and the
layers up to l; each has its own predictions file and continues where it stopped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from photon.batch.batch import VolumeBatch
from photon.batch.dataset import Collate
from photon.evaluation.conditions import Condition, parse_condition
from photon.evaluation.coverage import evidence_recall, token_coverage
from photon.evaluation.predictions import PredictionWriter, prediction_row
from photon.evaluation.shards import Shard, merge_parts, read_parts
from photon.evaluation.views import REDUCED, ViewItems
from photon.model.decoding import Sampling
from photon.model.generate import Generation, Reading, answer, read
from photon.model.photon import PhotonModel
from photon.packing import Segments
from photon.pruning.base import Keep, Pruner, blocks_of, selection_layer
from photon.pruning.baselines.given import GivenPruner
from photon.pruning.baselines.oracle import oracle_mask
from photon.pruning.named import new_pruner, pruners
from photon.pruning.retention import budget_counts
from photon.questions.record import Record
from photon.volume.store import VolumeStore

Progress = Callable[[str, int, int], None]
Rows = list[dict[str, Any]]
IMITATE = ("photon", "random", "oracle")  # act where the model's own pruner does


@dataclass(frozen=True)
class Evaluator:
    """Runs conditions of one model over one set of questions.

    Args:
        model: in evaluation mode, on the device to run on.
        records: questions; root: folder that their paths are relative to.
        store: of the model's preparation.
        run_dir: predictions.jsonl and controls/NAME.jsonl go here.
        fingerprint: of weights, data and settings; a file of another one is refused.
        volumes_per_batch, questions: volumes and questions answered at once, at most; None: all
            questions of the volumes. Neither changes an answer beyond rounding.
        workers: processes that read volumes while the model answers.
        sampling: how tokens are drawn; None takes the likeliest.
        keep: a budget in place of the learned threshold.
        layer: where pruners at a budget cut a model that does not prune by itself, as a share of
            its layers; None before the first.
        seed: of the random masks and of the shuffled and noise volumes.
        shard: part of the questions that this process answers.
        progress: called with (view, questions done, questions in all).
    """

    model: PhotonModel
    records: Sequence[Record]
    store: VolumeStore
    run_dir: Path
    root: Path = Path(".")
    fingerprint: Any = None
    volumes_per_batch: int = 4
    questions: int | None = None
    workers: int = 0
    max_new_tokens: int = 16
    keep: Keep = None
    layer: float | None = 0.25
    seed: int = 0
    shard: Shard = Shard()
    progress: Progress | None = None
    sampling: Sampling | None = None

    def run(self, names: Sequence[str]) -> dict[str, Rows]:
        """Rows of each condition, in the order of the records; `random_keep` needs `photon`.

        Raises ValueError for an unknown name.
        """
        conditions = [parse_condition(name, self.keep) for name in dict.fromkeys(names)]
        views: dict[str, list[Condition]] = {}
        for condition in conditions:
            views.setdefault(condition.view, []).append(condition)
        rows: dict[str, Rows] = {}
        for view, group in views.items():
            rows |= self._run_view(view, group)
        return {condition.name: rows[condition.name] for condition in conditions}

    def path(self, condition: str) -> Path:
        """Where a condition's predictions are."""
        if condition == "photon":
            return self.run_dir / "predictions.jsonl"
        return self.run_dir / "controls" / f"{condition}.jsonl"

    def merge(self, names: Sequence[str]) -> dict[str, Rows] | None:
        """Rows of each condition out of all processes' files; None while any answer is missing."""
        rows: dict[str, Rows] = {}
        for name in names:
            merged = merge_parts(self.path(name), self.records, self.fingerprint)
            if merged is None:
                return None
            rows[name] = merged
        return rows

    def _writer(self, name: str) -> PredictionWriter:
        whole = self.path(name)
        path = self.shard.path(whole)
        known = read_parts(whole, self.fingerprint, but=path)
        return PredictionWriter(path, self.fingerprint, known)

    def _run_view(self, view: str, group: Sequence[Condition]) -> dict[str, Rows]:
        order = {record.id: i for i, record in enumerate(self.records)}
        with ExitStack() as stack:
            writers = {c.name: stack.enter_context(self._writer(c.name)) for c in group}
            mine = self.shard.mine(self.records)
            pending = [r for r in mine if not all(w.has(r.id) for w in writers.values())]
            model, done = self.model, 0
            shown = pending, self.records, self.store, self.root, self.seed, model.builder.token
            items = ViewItems(view, *shown)
            collate = Collate(model.builder, model.tokenizer, False, blind=view == "question_only")
            for batch in items.batches(
                collate, self.volumes_per_batch, self.questions, self.workers
            ):
                self._answer_batch(batch, group, writers)
                done += len(batch.records)
                if self.progress:
                    self.progress(view, done, len(pending))
            return {
                name: sorted((r for r in w.rows if r["id"] in order), key=lambda r: order[r["id"]])
                for name, w in writers.items()
            }

    def _answer_batch(
        self,
        batch: VolumeBatch,
        group: Sequence[Condition],
        writers: Mapping[str, PredictionWriter],
    ) -> None:
        """Read a batch once, and write what each condition has not answered yet."""
        device = next(self.model.parameters()).device
        evidence = Evidence(batch, self.model.builder.token)
        batch, readings = batch.to(device), {}
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            for cut, condition in self._by_cut(group):
                writer = writers[condition.name]
                if all(writer.has(record.id) for record in batch.records):
                    continue
                if cut not in readings:
                    readings[cut] = read(self.model, batch, cut, self._blocks(group))
                pruner = self._pruner(condition, evidence, writers)
                generation = self._answer(condition, readings[cut], pruner)
                for row in self._rows(condition, evidence, generation):
                    if not writer.has(row["id"]):
                        writer.write(row)

    def _answer(self, condition: Condition, reading: Reading, pruner: Pruner | None) -> Generation:
        return answer(
            self.model,
            reading,
            self.model.end_id,
            self.max_new_tokens,
            "off" if pruner is None else "hard",
            None if isinstance(pruner, GivenPruner) else condition.keep,
            pruner,
            torch.Generator().manual_seed(self.seed),
            self.sampling,
        )

    def _by_cut(self, group: Sequence[Condition]) -> list[tuple[int | None, Condition]]:
        """Layers that each condition shares with the others of its cut; None: nothing is dropped.

        Conditions that drop nothing share the deepest reading of the others.
        """
        found = {c.name: self._cut(c) for c in group}
        deepest = max((cut for cut in found.values() if cut is not None), default=None)
        cuts = {name: deepest if cut is None else cut for name, cut in found.items()}
        return [(cuts[c.name], c) for c in group]

    def _cut(self, condition: Condition) -> int | None:
        """Layers below a condition's selection; None where it drops nothing."""
        own = self.model.pruner
        if condition.pruner is None or own is None and condition.keep is None:
            return None
        layer = self._layer(condition)
        if condition.pruner not in IMITATE:
            layer = new_pruner(condition.pruner, layer).layer
        return selection_layer(self.model.n_layers, layer)

    def _layer(self, condition: Condition) -> float | None:
        """Where a condition drops, unless its pruner has places of its own."""
        own = self.model.pruner
        imitates = condition.pruner in IMITATE
        if condition.before:
            return None
        return own.layer if own and (imitates or own.layer is not None) else self.layer

    def _blocks(self, group: Sequence[Condition]) -> tuple[float, ...]:
        """Encoder blocks whose attention the pruners of the conditions read."""
        named = (new_pruner(c.pruner) for c in group if c.pruner in pruners())
        return blocks_of(self.model.pruner, *named)

    def _pruner(
        self, condition: Condition, evidence: Evidence, writers: Mapping[str, PredictionWriter]
    ) -> Pruner | None:
        """The condition's pruner; None keeps every token, as does a model without a pruner."""
        own, layer = self.model.pruner, self._layer(condition)
        tail = "question" if own is None else own.tail
        if own is None and condition.keep is None or condition.pruner is None:
            return None
        if condition.pruner in ("random", "oracle"):
            counts = self._counts(condition, evidence, writers)
            masks = [self._mask(condition, evidence, i, n) for i, n in counts]
            return GivenPruner(layer, masks, tail)
        if condition.pruner == "photon" and own is not None:
            return own
        device = next(self.model.parameters()).device
        made = new_pruner(condition.pruner, layer).to(device).eval()
        if made.layer is not None:
            made.tail = tail
        return made

    def _counts(
        self, condition: Condition, evidence: Evidence, writers: Mapping[str, PredictionWriter]
    ) -> list[tuple[int, int]]:
        """(question, tokens it may keep) of a batch."""
        if condition.keep is not None:
            return list(enumerate(budget_counts(condition.keep, evidence.pairs).tolist()))
        if "photon" not in writers:
            raise ValueError(f"{condition.name} keeps as many tokens as photon did: run it as well")
        kept = {row["id"]: row["kept_tokens"] for row in writers["photon"].rows}
        return [(i, kept[record.id]) for i, record in enumerate(evidence.batch.records)]

    def _mask(self, condition: Condition, evidence: Evidence, i: int, count: int) -> np.ndarray:
        total = evidence.pairs.lengths[i]
        if condition.pruner == "random":
            return random_keep_mask(evidence.batch.records[i].id, count, total, self.seed)
        share = evidence.pair_shares[i]
        return oracle_mask(np.zeros(total) if share is None else share, count)

    def _rows(self, condition: Condition, evidence: Evidence, generation: Generation) -> Rows:
        selection = generation.selection
        theta = None if selection is None else selection.theta
        scores = None if selection is None else selection.scores
        scores = None if scores is None else generation.on_grids(scores)
        visual = generation.visual_tokens
        if condition.view.partition("@")[0] in REDUCED:  # of the volume as it was
            size, token = self.model.preparation.size, self.model.builder.token
            whole = math.prod(n // t for n, t in zip(size, token, strict=True))
            visual = [whole * len(record.volumes) for record in evidence.batch.records]
        rows = []
        for i, record in enumerate(evidence.batch.records):
            text = self.model.tokenizer.decode(generation.tokens[i], skip_special_tokens=True)
            keep, share = generation.keep_masks[i].numpy(), evidence.shares[i]
            rows.append(
                prediction_row(
                    record,
                    text.strip(),
                    condition.name,
                    kept_tokens=generation.kept_tokens[i],
                    visual_tokens=visual[i],
                    coverage=None if share is None else evidence_recall(share, keep),
                    theta=None if theta is None else round(float(theta[i]), 6),
                    stratum=record.extra.get("stratum"),
                    kind=record.extra.get("kind"),
                    organ_tokens=None if share is None else int(np.count_nonzero(share)),
                    kept_mask=None if selection is None else np.packbits(keep).tobytes().hex(),
                    token_scores=None if scores is None else score_bytes(scores[i]).hex(),
                )
            )
        return rows


def score_bytes(scores: torch.Tensor) -> bytes:
    """Saliencies (V,) in [0, 1] as a byte a token, for pictures."""
    return (255 * scores.detach().float().clamp(0, 1)).round().to(torch.uint8).numpy().tobytes()


@dataclass(frozen=True)
class Evidence:
    """A batch with what its label maps say about its questions."""

    batch: VolumeBatch
    token: tuple[int, int, int]  # voxels behind a visual token

    @cached_property
    def pairs(self) -> Segments:
        """Q segments: the visual tokens of each question."""
        lengths = self.batch.visual_lengths
        return Segments([lengths[v] for v in self.batch.volume_of])

    @cached_property
    def pair_shares(self) -> list[np.ndarray | None]:
        """`shares` of the question's pairs alone: of the tokens that are computed."""
        present = (self.batch.present[v].numpy() for v in self.batch.volume_of)
        pairs = zip(self.shares, present, strict=True)
        return [None if share is None else share[mask] for share, mask in pairs]

    @cached_property
    def shares(self) -> list[np.ndarray | None]:
        """(Q) share of each token of the grids that the evidence covers; None without any."""
        known: dict[tuple, np.ndarray] = {}
        out: list[np.ndarray | None] = []
        for v, record in zip(self.batch.volume_of, self.batch.records, strict=True):
            maps, key = self.batch.labels[v], (v, record.evidence)
            if maps is not None and record.evidence and key not in known:
                parts = [token_coverage(m, record.evidence, self.token).ravel() for m in maps]
                known[key] = np.concatenate(parts)
            out.append(known.get(key))
        return out


def random_keep_mask(question_id: str, count: int, total: int, seed: int = 0) -> np.ndarray:
    """Bool [total] with `count` tokens kept, uniform; depends on the id and the seed only."""
    if not 0 <= count <= total:
        raise ValueError(f"count={count} must be within 0..{total}")
    digest = hashlib.sha256(f"{seed}:{question_id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    mask = np.zeros(total, dtype=bool)
    mask[rng.permutation(total)[:count]] = True
    return mask
