"""Records grouped by what they are about: the unit of a batch is an item with its questions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from photon.batch.batch import VolumeBatch
from photon.batch.builder import BatchBuilder, Visual
from photon.questions.prompts import Prompt, build_prompt
from photon.questions.record import Record
from photon.volume.sources import Source, locate
from photon.volume.store import VolumeStore


@dataclass(frozen=True)
class Item:
    """Prepared volumes (images, videos), questions about them, and a label map of each volume."""

    volumes: tuple[Visual, ...]
    records: list[Record]
    labels: tuple[np.ndarray, ...] | None = None


def group_records(records: Sequence[Record]) -> list[list[Record]]:
    """Questions of the same volumes and one system prompt, together."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault((record.volumes, record.system), []).append(record)
    return list(groups.values())


def count_items(records: Sequence[Record], per_volume: int | None, every: bool) -> int:
    """Items of an epoch, see `VolumeQuestions`."""
    groups = group_records(records)
    return sum(_parts(group, per_volume, every) for group in groups)


def _parts(group: Sequence[Record], per_volume: int | None, every: bool) -> int:
    return -(-len(group) // per_volume) if every and per_volume else 1


class VolumeQuestions(Dataset):
    """Items with all of their questions, or with some of them, dealt anew every epoch.

    Args:
        records: questions; those of the same volumes and one system prompt form an item.
        store: where prepared volumes are read, and made when absent.
        root: folder that the records' paths are relative to.
        per_volume: the most questions of an item; None takes all.
        every: an epoch holds every question once, a volume with many of them in several items of
            equal size, give or take one; else every volume once, with a draw of its questions.
        with_labels: read the label maps too (for coverage and for mask supervision).
        seed: of the dealing, which depends on nothing but seed, epoch and volume.
        substitute: volume to read in place of another (the shuffled-volume control); then no label
            map is read. A volume here is a `Source`: an image or a video too.
    """

    def __init__(
        self,
        records: Sequence[Record],
        store: VolumeStore,
        root: str | Path = ".",
        per_volume: int | None = None,
        with_labels: bool = False,
        seed: int = 0,
        substitute: Mapping[Source, Source] | None = None,
        every: bool = False,
    ):
        self.groups = group_records(records)
        self.items = [  # (group, which part of its questions)
            (index, part)
            for index, group in enumerate(self.groups)
            for part in range(_parts(group, per_volume, every))
        ]
        self.every = every
        self.store = store
        self.root = Path(root)
        self.per_volume = per_volume
        self.with_labels = with_labels
        self.seed = seed
        self.substitute = dict(substitute or {})

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int | tuple[int, int]) -> Item:
        """Item `index`, or (epoch, index) for that epoch's questions."""
        epoch, index = index if isinstance(index, tuple) else (0, index)
        records = self.draw(epoch, index)
        shown = [self.substitute.get(name, name) for name in records[0].volumes]
        sources = [locate(self.root, name) for name in shown]
        volumes = tuple(self.store.read(source) for source in sources)
        maps = records[0].label_maps
        if not self.with_labels or self.substitute or None in maps:
            return Item(volumes, records)
        pairs = zip(maps, sources, strict=True)
        return Item(volumes, records, tuple(self._labels(path, source) for path, source in pairs))

    def _labels(self, path: str, source: str) -> np.ndarray:
        labels = self.store.load_labels(self.root / path, like=source)
        return labels[..., ::-1].copy() if self.store.preparation.flip_x else labels

    def draw(self, epoch: int, index: int) -> list[Record]:
        """The questions of an item in an epoch, in their order in the file."""
        number, part = self.items[index]
        group = self.groups[number]
        if self.per_volume is None or len(group) <= self.per_volume:
            return group
        key = f"{self.seed}/{epoch}/{number}".encode()
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:8]))
        if self.every:
            parts = _parts(group, self.per_volume, True)
            chosen = np.array_split(rng.permutation(len(group)), parts)[part]
        else:
            chosen = rng.choice(len(group), self.per_volume, replace=False)
        return [group[i] for i in sorted(chosen)]


class Collate:
    """Items to a `VolumeBatch`; prompts are tokenized once and remembered.

    with_answer: append and supervise the answers (training); otherwise the prompts end where the
    answer begins. blind: leave the volumes out (the question-only control).
    """

    needs_labels = False

    def __init__(
        self,
        builder: BatchBuilder,
        tokenizer: PreTrainedTokenizerBase,
        with_answer: bool,
        blind: bool = False,
    ):
        self.builder = builder
        self.tokenizer = tokenizer
        self.with_answer = with_answer
        self.blind = blind
        self._prompts: dict[tuple[str, str, str | None], Prompt] = {}

    def __call__(self, items: Sequence[Item]) -> VolumeBatch:
        return self.builder(
            [() if self.blind else item.volumes for item in items],
            [[self.prompt(record) for record in item.records] for item in items],
            [item.records for item in items],
            [item.labels for item in items],
        )

    def prompt(self, record: Record) -> Prompt:
        """The record's prompt. Raises InputError on a record without question or answer."""
        key = (record.id, record.question, record.answer)
        if key not in self._prompts:
            space = self.builder.leading_space
            self._prompts[key] = build_prompt(
                record, self.tokenizer, self.with_answer, leading_space=space
            )
        return self._prompts[key]
