"""What a model is shown with a question: the volume itself, or something in its place.

A view is a part of the test on which conditions can share one reading of the volumes.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from photon.batch.builder import Visual
from photon.batch.dataset import Collate, Item, VolumeQuestions
from photon.errors import InputError
from photon.evaluation.reduced import coarser, only_slices
from photon.questions.record import Record
from photon.volume.sources import Source
from photon.volume.store import VolumeStore
from photon.volume.types import Frames

OWN = "own"  # the volume that the question is about
VIEWS = (
    *(OWN, "shuffled_volume", "blank_volume", "noise_volume"),
    *("opposite_orientation", "question_only"),
)
REDUCED = ("lower_resolution", "slices")  # with what is left of a volume, as slices@3


def parse_budget(text: str) -> float | int:
    """A budget as written in a condition's name: with a point a share, without one a count."""
    try:
        value = float(text) if "." in text or "e" in text else int(text)
    except ValueError:
        value = 0
    if not (0 < value <= 1 if isinstance(value, float) else value >= 1):
        raise ValueError(f"budget {text!r}: legal are shares in (0, 1], as 0.1, and whole numbers")
    return value


@dataclass(frozen=True)
class ViewItems:
    """Items of `records` under a view.

    shuffled_volume: volumes of another patient, by a permutation over `everything`, all records of
    the split. blank_volume: air. noise_volume: uniform noise, of the volume's name and the seed.
    opposite_orientation: every axis runs the other way, as if `preparation.orientation` named where
    it goes to in place of where it comes from (frames have no patient's axes and stay).
    question_only: the items themselves; leaving the volumes out is up to the collation.
    lower_resolution@BUDGET: resampled to so many tokens. slices@N: N slices of the organ asked
    about (see `photon.evaluation.reduced`), an item for each organ. Label maps are read for the own
    view and for slices, and stay for the own view only: nothing of another volume is evidence.

    token: voxels of a token, for the last two.
    """

    view: str
    records: Sequence[Record]
    everything: Sequence[Record]
    store: VolumeStore
    root: Path
    seed: int = 0
    token: tuple[int, int, int] = (1, 1, 1)

    @cached_property
    def kind(self) -> str:
        """The view without its number."""
        return self.view.partition("@")[0]

    @cached_property
    def number(self) -> float | int:
        return parse_budget(self.view.partition("@")[2])

    def dataset(self) -> VolumeQuestions:
        """The items before anything is put in a volume's place."""
        substitute, records = None, self.records
        if self.kind == "slices":
            records = sorted(records, key=lambda record: tuple(record.evidence))
        if self.view == "shuffled_volume":
            substitute = shuffled_volumes(self.everything, self.seed)
        return VolumeQuestions(
            records,
            self.store,
            self.root,
            with_labels=self.view == OWN or self.kind == "slices",
            substitute=substitute,
        )

    def show(self, item: Item) -> Item:
        """The item as the model sees it."""
        if self.view == "blank_volume":
            return replace(item, volumes=tuple(blank(v) for v in item.volumes))
        if self.view == "noise_volume":
            names = item.records[0].volumes
            pairs = zip(names, item.volumes, strict=True)
            return replace(item, volumes=tuple(noise(n, v, self.seed) for n, v in pairs))
        if self.view == "opposite_orientation":
            return replace(item, volumes=tuple(turned(v) for v in item.volumes))
        if self.kind == "lower_resolution":
            less = tuple(coarser(v, self.number, self.token) for v in item.volumes)
            return replace(item, volumes=less)
        if self.kind == "slices":
            maps = item.labels or [None] * len(item.volumes)
            how = int(self.number), self.token[0]
            evidence = item.records[0].evidence
            pairs = zip(item.volumes, maps, strict=True)
            less = tuple(only_slices(v, *how, labels, evidence) for v, labels in pairs)
            return replace(item, volumes=less, labels=None)
        return item

    def parts(self, group: Sequence[Record], size: int) -> list[tuple[int, int]]:
        """Questions [start, stop) of an item that can be shown together, at most `size`."""
        runs = [len(group)]
        if self.kind == "slices":
            runs = [len(list(same)) for _, same in groupby(group, lambda r: tuple(r.evidence))]
        out, start = [], 0
        for n in runs:
            out += [(k, min(k + size, start + n)) for k in range(start, start + n, size)]
            start += n
        return out

    def batches(
        self, collate: Collate, volumes: int, questions: int | None = None, workers: int = 0
    ) -> DataLoader:
        """Batches of at most `volumes` items and `questions` questions, in the order of the items.

        An item with more questions comes in parts. workers: processes that read and collate the
        next batches while the model answers.
        """
        parts, plan = _Parts(self, self.dataset()), []
        for i, group in enumerate(parts.items.groups):
            plan += [[(i, *part)] for part in self.parts(group, questions or len(group))]
        merged: list[list[tuple[int, int, int]]] = []
        for part in plan:
            asked = sum(stop - start for _, start, stop in (merged[-1] if merged else []) + part)
            if merged and len(merged[-1]) < volumes and asked <= (questions or asked):
                merged[-1] += part
            else:
                merged.append(part)
        return DataLoader(
            parts,
            batch_sampler=merged,
            collate_fn=collate,
            num_workers=min(workers, len(merged)),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the global one is not advanced
        )


@dataclass(frozen=True)
class _Parts(Dataset):
    """Item i as a view shows it, with its questions [start, stop)."""

    view: ViewItems
    items: VolumeQuestions

    def __getitem__(self, part: tuple[int, int, int]) -> Item:
        i, start, stop = part
        item = self.items[i]
        return self.view.show(replace(item, records=item.records[start:stop]))


def blank(like: Visual) -> Visual:
    """Zeros of the shape of `like`: air, or black frames."""
    if isinstance(like, Frames):
        return replace(like, pixels=torch.zeros_like(like.pixels))
    return torch.zeros_like(like)


def turned(volume: Visual) -> Visual:
    """A volume with all of its axes the other way: RAI becomes LPS."""
    return volume if isinstance(volume, Frames) else volume.flip(0, 1, 2)


def noise(name: Source, like: Visual, seed: int = 0) -> Visual:
    """Uniform noise in [0, 1) (0..255 in frames) of the shape of `like`, of name and seed only."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    if isinstance(like, Frames):
        pixels = torch.randint(256, like.pixels.shape, generator=generator, dtype=torch.uint8)
        return replace(like, pixels=pixels)
    return torch.rand(like.shape, generator=generator, dtype=like.dtype)


def shuffled_volumes(records: Sequence[Record], seed: int = 0) -> dict[Source, Source]:
    """For each volume a volume of another patient: {volume: other volume}, seeded.

    All questions of a volume move together, so that the prefix is still shared. It is a permutation
    (each volume is used once), unless one patient has more than half of all volumes: then volumes
    of the others are used several times, with a warning. InputError if there is one patient only.
    Does not depend on the order of the records. A record without a patient counts its volume as
    one.
    """
    patient_of: dict[Source, str] = {}
    for record in records:
        named = record.patient is not None
        owner = f"patient {record.patient}" if named else f"volume {record.volume}"
        for volume in record.volumes:
            if patient_of.setdefault(volume, owner) != owner:
                raise InputError(
                    f"volume {volume} belongs to two patients ({patient_of[volume]} and "
                    f"{owner}). Correct the records."
                )
    groups: dict[str, list[Source]] = {}
    for volume in sorted(patient_of, key=str):  # a path, or those of frames
        groups.setdefault(patient_of[volume], []).append(volume)
    if len(groups) < 2:
        raise InputError(
            "shuffled_volume needs volumes of two patients or more, and the data set has "
            f"{len(groups)}. Leave this control out (controls), or add a patient."
        )
    rng = np.random.default_rng(seed)
    order = [groups[owner] for owner in rng.permutation(sorted(groups)).tolist()]
    order.sort(key=len)  # so that two scans of a patient mostly become two scans of another
    line = [volume for group in order for volume in group]
    largest = max(len(group) for group in order)
    if 2 * largest <= len(line):  # moving on by the largest group leaves every patient's own block
        return dict(zip(line, line[largest:] + line[:largest], strict=True))
    warnings.warn(
        f"one patient has {largest} of {len(line)} volumes: shuffled volumes repeat", stacklevel=2
    )
    out = {}
    for volume in line:
        others = [v for v in line if patient_of[v] != patient_of[volume]]
        out[volume] = others[int(rng.integers(len(others)))]
    return out
