"""What label maps say about visual tokens, as training targets. Not in the paper.

A tiny model that starts from nothing learns to see from these; where label maps exist, they can
also teach saliency where the evidence lies (docs/decisions.md).

Shape suffixes: V visual tokens of a volume, C label ids, J (question, visual token) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from photon.questions.batch import VolumeBatch
from photon.questions.dataset import Collate, Item

N_LABELS = 32  # label ids of the phantoms lie below


@dataclass(frozen=True)
class TokenStatistics:
    """Of an item: share (V, C) of each token that a label covers, mean (V, C) intensity there.

    Tokens in grid order, volume after volume; zero where a label is absent.
    """

    share: Tensor
    mean: Tensor


def token_statistics(
    labels: np.ndarray, volume: np.ndarray, n_labels: int, token: tuple[int, int, int]
) -> TokenStatistics:
    """Statistics of labels (D, H, W), integers below n_labels, over a volume (D, H, W).

    token: voxels of a token along depth, height, width.
    """
    d, h, w = (n // t for n, t in zip(labels.shape, token, strict=True))
    place = np.arange(d * h * w).reshape(d, 1, h, 1, w, 1)
    blocks = labels.reshape(d, token[0], h, token[1], w, token[2]).astype(np.int64)
    cell = (place * n_labels + blocks).ravel()
    size = d * h * w * n_labels
    count = np.bincount(cell, minlength=size).reshape(-1, n_labels)
    total = np.bincount(cell, volume.reshape(blocks.shape).ravel(), size).reshape(-1, n_labels)
    share = count / float(token[0] * token[1] * token[2])
    mean = total / np.maximum(count, 1)
    return TokenStatistics(
        torch.from_numpy(share.astype(np.float32)), torch.from_numpy(mean.astype(np.float32))
    )


def item_statistics(item: Item, n_labels: int, token: tuple[int, int, int]) -> TokenStatistics:
    """Token statistics of all volumes of an item."""
    pairs = zip(item.labels, item.volumes, strict=True)
    parts = [token_statistics(labels, v.numpy(), n_labels, token) for labels, v in pairs]
    return TokenStatistics(torch.cat([p.share for p in parts]), torch.cat([p.mean for p in parts]))


class SupervisedCollate(Collate):
    """A batch whose `labels` are the token statistics of its items in place of label maps."""

    needs_labels = True

    def __call__(self, items: Sequence[Item]) -> VolumeBatch:
        token = self.builder.token
        statistics = [item_statistics(item, N_LABELS, token) for item in items]
        return replace(super().__call__(items), labels=statistics)


def evidence_shares(batch: VolumeBatch) -> Tensor:
    """(J,) share of every pair's token that the question's evidence labels cover."""
    rows = []
    for v, record in zip(batch.volume_of, batch.records, strict=True):
        share = batch.labels[v].share
        rows.append(share[:, list(record.evidence)].sum(1))
    return torch.cat(rows)
