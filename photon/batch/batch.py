"""A batch: volumes, images and videos, each with its questions, packed without padding.

An item is what a group of questions is about: one volume, image or video, or several of any kind
(two scans of one patient, frames of an examination).
Shape suffixes: B items, Q questions, P patch rows, R prefix rows, S suffix rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from photon.batch.layout import Layout, Tail, lay_out
from photon.batch.patches import Grid
from photon.packing import Segments
from photon.questions.record import Record

IGNORE = -100


@dataclass(frozen=True)
class VolumeBatch:
    """B items with Q questions in all.

    An item's prefix is [system and user header, visual tokens, vision end], with vision end and
    start between its volumes (and between frames that stand apart, see `BatchBuilder.timestamps`);
    a question's suffix is [question, assistant header, answer]. Images and videos are volumes too
    in all names here.
    `targets[i]` is the token that row i must predict, or IGNORE where nothing is supervised.
    """

    patches: Tensor  # (P, voxels) rows of all volumes, see `patchify`
    grids: list[tuple[Grid, ...]]  # (B) patch grid of each volume of each item
    prefix_ids: Tensor  # (R,)
    prefix_positions: Tensor  # (3, R)
    visual: Tensor  # (R,) true at visual tokens
    visual_lengths: list[int]  # (B) visual tokens of each item, those of all its volumes
    present: list[Tensor]  # (B) true at the tokens of its grids that are computed, see `air`
    prefixes: Segments  # B
    suffix_ids: Tensor  # (S,)
    suffix_positions: Tensor  # (3, S)
    instruction: Tensor  # (S,) true at the question's own tokens, the set Q
    targets: Tensor  # (S,)
    suffixes: Segments  # Q
    volume_of: list[int]  # (Q) item of each question, ascending
    records: list[Record] = field(default_factory=list)
    labels: list = field(default_factory=list)  # (B) label maps of each item, or None

    # What depends on lengths and masks alone. The builder makes it, so that it is there before the
    # batch goes to a device, from which it then need not be read back.

    @cached_property
    def on_host(self) -> Tensor:
        """(R,) `visual` on the CPU."""
        return self.visual.cpu()

    @cached_property
    def visual_rows(self) -> Tensor:
        """(V,) prefix rows that are visual tokens."""
        return self.visual.nonzero()[:, 0]

    @cached_property
    def instruction_rows(self) -> Tensor:
        """(T,) suffix rows of the questions' own tokens."""
        return self.instruction.nonzero()[:, 0]

    @cached_property
    def supervised_rows(self) -> Tensor:
        """(A,) suffix rows with a target."""
        return (self.targets != IGNORE).nonzero()[:, 0]

    @cached_property
    def last_prompt_rows(self) -> Tensor:
        """(Q,) suffix row of every question from which its answer's first token is predicted."""
        answered = self.suffixes.pad((self.targets != IGNORE).long()).cumsum(1) > 0
        before = (~answered & self.suffixes.valid).sum(1)
        return self.suffixes.starts + torch.minimum(before, self.suffixes.counts - 1)

    @cached_property
    def texts(self) -> Segments:
        """Q segments of `instruction_rows`."""
        return Segments(self.suffixes.sum(self.instruction.long()), self.targets.device)

    @cached_property
    def answers(self) -> Segments:
        """Q segments of `supervised_rows`."""
        return Segments(self.suffixes.sum((self.targets != IGNORE).long()), self.targets.device)

    @cached_property
    def pairs(self) -> Segments:
        """Q segments: the visual tokens of each question's item."""
        return Segments([self.visual_lengths[v] for v in self.volume_of], self.targets.device)

    @cached_property
    def places(self) -> Tensor:
        """(V, 4) of each visual token on the CPU: volume of its item, slab, row and column."""
        parts = [torch.zeros(0, 4, dtype=torch.long)]
        patches = sum(d * h * w for group in self.grids for d, h, w in group)
        merge = math.isqrt(patches // max(sum(map(len, self.present)), 1))
        for group, present in zip(self.grids, self.present, strict=True):
            where = [
                torch.cartesian_prod(*map(torch.arange, (1, d, h // merge, w // merge)))
                + torch.tensor([n, 0, 0, 0])
                for n, (d, h, w) in enumerate(group)
            ]
            parts.append(torch.cat([parts[0], *where])[present.cpu()])
        return torch.cat(parts)

    @cached_property
    def positions(self) -> Tensor:
        """(3, R + S) of prefix rows, then suffix rows."""
        return torch.cat([self.prefix_positions, self.suffix_positions], 1)

    @cached_property
    def layout(self) -> Layout:
        """The unpruned one: every prefix row runs, and every question reads all of its item."""
        return self.lay_out()

    def lay_out(
        self,
        keep: Tensor | None = None,
        tail: Tail = "all",
        questions: Sequence[bool] | None = None,
    ) -> Layout:
        """`layout.lay_out` of this batch; keep (J,) on the CPU."""
        segments = self.prefixes, self.suffixes, self.volume_of
        return lay_out(*segments, self.on_host, keep, tail, questions)

    def to(self, device: torch.device | str) -> VolumeBatch:
        """The same batch with its tensors on `device`, but for `layout` and `on_host`."""
        made = {name: getattr(self, name) for name in DERIVED}
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        moved = VolumeBatch(**{name: _moved(value, device) for name, value in fields.items()})
        for name, value in made.items():
            here = name in ("layout", "on_host")
            moved.__dict__[name] = value if here else _moved(value, device)
        return moved

    @property
    def patch_counts(self) -> list[int]:
        """(B) patch rows of each item."""
        merged = len(self.patches) // max(sum(self.visual_lengths), 1)
        return [n * merged for n in self.visual_lengths]

    def with_patches(self, patches: Tensor) -> VolumeBatch:
        """The same questions about other patches (P, voxels) of the same grids."""
        other = dataclasses.replace(self, patches=patches)
        other.__dict__.update({name: getattr(self, name) for name in DERIVED})
        return other

    def pin_memory(self) -> VolumeBatch:
        """The same batch with its patches in pinned memory; a loader with `pin_memory` asks."""
        return self.with_patches(self.patches.pin_memory())

    def prompt_ids(self, pad: int) -> Tensor:
        """Ids (Q, longest) of prefix and suffix of every question, padded on the left."""
        prefixes, suffixes = list(self.prefixes), list(self.suffixes)
        ids = [
            torch.cat([self.prefix_ids[prefixes[v]], self.suffix_ids[rows]])
            for v, rows in zip(self.volume_of, suffixes, strict=True)
        ]
        return pad_sequence(ids, batch_first=True, padding_value=pad, padding_side="left")


DERIVED = tuple(k for k, v in vars(VolumeBatch).items() if isinstance(v, cached_property))


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Segments):
        return Segments(value.lengths, device)
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
