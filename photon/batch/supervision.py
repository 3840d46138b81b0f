"""What label maps say about visual tokens, as training targets. Not in the paper.

A tiny model that starts from nothing learns to see from these; where label maps exist, they can
also teach saliency where the evidence lies (docs/decisions.md).

Shape suffixes: V visual tokens of a volume, C label ids, J (question, visual token) pairs.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from photon.batch.batch import VolumeBatch
from photon.batch.dataset import Collate, Item
from photon.questions.record import Record

N_LABELS = 32  # label ids of the phantoms lie below


@dataclass(frozen=True)
class TokenStatistics:
    """Of an item: share (V, C) of each token that a label covers, mean (V, C) intensity there, and
    extent (V, C) of the label in the token's volume, in tokens.

    Tokens in grid order, volume after volume; zero where a label is absent.
    """

    share: Tensor
    mean: Tensor
    extent: Tensor

    def take(self, tokens: Tensor) -> TokenStatistics:
        """Of the tokens (V,) that are true."""
        return TokenStatistics(self.share[tokens], self.mean[tokens], self.extent[tokens])


def token_statistics(
    labels: np.ndarray, volume: np.ndarray, n_labels: int, token: tuple[int, int, int]
) -> TokenStatistics:
    """Statistics of labels (D, H, W), integers below n_labels, over a volume (D, H, W).

    token: voxels of a token along depth, height, width.
    """
    grid = [n // t for n, t in zip(labels.shape, token, strict=True)]
    shape = [side for pair in zip(grid, token, strict=True) for side in pair]

    def tokens(array: np.ndarray) -> np.ndarray:
        """(D, H, W) to (V, voxels of a token)."""
        return array.reshape(shape).transpose(0, 2, 4, 1, 3, 5).reshape(np.prod(grid), -1)

    # One small histogram a token: several times faster than one over all (token, label) pairs.
    rows = list(zip(tokens(labels), tokens(volume), strict=True))
    count = np.stack([np.bincount(row, minlength=n_labels) for row, _ in rows])
    total = np.stack([np.bincount(row, values, n_labels) for row, values in rows])
    share = count / float(np.prod(token))
    mean = total / np.maximum(count, 1)
    extent = np.broadcast_to(share.sum(0), share.shape)
    return TokenStatistics(*(torch.from_numpy(x.astype(np.float32)) for x in (share, mean, extent)))


def item_statistics(item: Item, token: tuple[int, int, int]) -> TokenStatistics:
    """Token statistics of all volumes of an item, of N_LABELS labels or of all its maps hold."""
    n_labels = max(N_LABELS, *(int(labels.max()) + 1 for labels in item.labels))
    pairs = zip(item.labels, item.volumes, strict=True)
    parts = [
        token_statistics(labels, v.reshape(-1, *labels.shape).mean(0).numpy(), n_labels, token)
        for labels, v in pairs  # of several windows, the mean of their intensities
    ]
    return TokenStatistics(
        *(torch.cat([getattr(p, name) for p in parts]) for name in ("share", "mean", "extent"))
    )


@dataclass(frozen=True)
class Pointers:
    """Suffix rows after which something is said that has a place in the volume.

    rows (P,); owner (P,) item of each; share: evidence coverage of the item's visual tokens, all
    rows after one another.
    """

    rows: Tensor
    owner: list[int]
    share: Tensor


@dataclass(frozen=True)
class Supervision:
    """What label maps say of a batch: statistics of every item, and where its answers point."""

    items: list[TokenStatistics]
    pointers: Pointers


class SupervisedCollate(Collate):
    """A batch whose `labels` are its `Supervision` in place of label maps."""

    needs_labels = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._statistics: dict[tuple[str, ...], TokenStatistics] = {}
        self._places: dict[str, list[tuple[int, list[int]]]] = {}

    def __call__(self, items: Sequence[Item]) -> VolumeBatch:
        batch = super().__call__(items)
        pairs = zip(items, batch.present, strict=True)
        statistics = [self._remembered(item).take(present) for item, present in pairs]
        rows, owner, share = [], [], []
        for segment, v, record in zip(batch.suffixes, batch.volume_of, batch.records, strict=True):
            for row, evidence in self._said(record):
                rows.append(segment.start + row)
                owner.append(v)
                share.append(statistics[v].share[:, evidence].sum(1))
        pointers = Pointers(torch.tensor(rows), owner, torch.cat(share))
        return replace(batch, labels=Supervision(statistics, pointers))

    def _remembered(self, item: Item) -> TokenStatistics:
        key = item.records[0].volumes
        if key not in self._statistics:
            self._statistics[key] = item_statistics(item, self.builder.token)
        return self._statistics[key]

    def _said(self, record: Record) -> list[tuple[int, list[int]]]:
        if record.id not in self._places:
            start = self.prompt(record).answer_start
            self._places[record.id] = [
                (start - 1 + token, evidence) for token, evidence in places(record, self.tokenizer)
            ]
        return self._places[record.id]


class HintedCollate(SupervisedCollate):
    """Half of the choice questions follow the same question without options, with its answer.

    Finding the letter of a text that stands in the conversation is the easier half of choosing one,
    and the half that seeing does not teach.
    """

    def __call__(self, items: Sequence[Item]) -> VolumeBatch:
        return super().__call__(
            [replace(item, records=[hinted(record) for record in item.records]) for item in items]
        )


def hinted(record: Record) -> Record:
    """The record, or for half of the choice questions, by id, one whose answer was just given."""
    if record.choices is None or zlib.crc32(record.id.encode()) % 2:
        return record
    told = (record.question.split("\n")[0], record.choices[record.answer_letter])
    return replace(record, id=f"{record.id}-hinted", history=(*record.history, told))


def places(record: Record, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, list[int]]]:
    """Tokens of a record's answer that the volume tells, each with the label ids that tell it.

    Of a caption those of its `spans` (photon/phantoms/captions.py); of an answer the first.
    """
    spans = record.extra.get("spans")
    if spans is None:
        return [(0, list(record.evidence))]
    encoded = tokenizer(record.answer, add_special_tokens=False, return_offsets_mapping=True)
    return [
        (token, evidence)
        for start, stop, evidence in spans
        for token, (_, end) in enumerate(encoded["offset_mapping"])
        if start < end <= stop
    ]


def evidence_shares(batch: VolumeBatch) -> Tensor:
    """(J,) share of every pair's token that the question's evidence labels cover."""
    rows = []
    for v, record in zip(batch.volume_of, batch.records, strict=True):
        share = batch.labels.items[v].share
        rows.append(share[:, list(record.evidence)].sum(1))
    return torch.cat(rows)
