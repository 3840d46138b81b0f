"""A batch: volumes, each with its questions, packed without padding.

An item is what a group of questions is about: one volume, or several (two scans of one patient).
Shape suffixes: B items, Q questions, P patch rows, R prefix rows, S suffix rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from photon.model.encoder import Grid, patch_grid, patchify
from photon.model.positions import Resume, prefix_positions, text_positions
from photon.packing import Segments
from photon.questions.prompts import Prompt
from photon.questions.record import Record

IGNORE = -100


@dataclass(frozen=True)
class VolumeBatch:
    """B items with Q questions in all.

    An item's prefix is [system and user header, visual tokens, vision end], with vision end and
    start between its volumes; a question's suffix is [question, assistant header, answer].
    `targets[i]` is the token that row i must predict, or IGNORE where nothing is supervised.
    """

    patches: Tensor  # (P, voxels) rows of all volumes, see `patchify`
    grids: list[tuple[Grid, ...]]  # (B) patch grid of each volume of each item
    prefix_ids: Tensor  # (R,)
    prefix_positions: Tensor  # (3, R)
    visual: Tensor  # (R,) true at visual tokens
    visual_lengths: list[int]  # (B) visual tokens of each item, those of all its volumes
    prefixes: Segments  # B
    suffix_ids: Tensor  # (S,)
    suffix_positions: Tensor  # (3, S)
    instruction: Tensor  # (S,) true at the question's own tokens, the set Q
    targets: Tensor  # (S,)
    suffixes: Segments  # Q
    volume_of: list[int]  # (Q) item of each question, ascending
    records: list[Record] = field(default_factory=list)
    labels: list = field(default_factory=list)  # (B) label maps of each item, or None

    def to(self, device: torch.device | str) -> VolumeBatch:
        """The same batch with its tensors on `device`."""
        moved = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        segments = {
            name: Segments(value.lengths, device)
            for name, value in vars(self).items()
            if isinstance(value, Segments)
        }
        return replace(self, **moved, **segments)

    def prompt_ids(self, pad: int) -> Tensor:
        """Ids (Q, longest) of prefix and suffix of every question, padded on the left."""
        prefixes, suffixes = list(self.prefixes), list(self.suffixes)
        ids = [
            torch.cat([self.prefix_ids[prefixes[v]], self.suffix_ids[rows]])
            for v, rows in zip(self.volume_of, suffixes, strict=True)
        ]
        return pad_sequence(ids, batch_first=True, padding_value=pad, padding_side="left")


@dataclass(frozen=True)
class BatchBuilder:
    """Turns volumes and prompts into a `VolumeBatch`.

    Args:
        patch: voxels of a patch along depth, height and width.
        channels: input channels of the patch embedding; a volume of one is repeated to fill them.
        merge: patches merged in plane, per axis.
        depth_stride: step of the depth positions, see `prefix_positions`.
        visual_id: token id that stands for a visual token.
        positions: where text resumes after a volume, see `prefix_positions`.
        slab: voxels averaged along depth before cutting patches (stock 2-frame patches see thick
            slices of the same volume).
    """

    patch: Grid
    channels: int
    merge: int
    depth_stride: int
    visual_id: int
    slab: int = 1
    positions: Resume = "trained"

    def __call__(
        self,
        volumes: Sequence[Sequence[Tensor]],
        prompts: Sequence[Sequence[Prompt]],
        records: Sequence[Sequence[Record]] | None = None,
        labels: Sequence | None = None,
    ) -> VolumeBatch:
        """The volumes in [0, 1] of each item, with prompts; () asks without a volume.

        A volume is (D, H, W), or (C, D, H, W) with a channel for each of its windows.
        The questions of one item must share the text before it (system prompt).
        """
        grids = [tuple(self.grid(volume) for volume in group) for group in volumes]
        rows = [self._patches(volume) for group in volumes for volume in group]
        voxels = self.channels * self.patch[0] * self.patch[1] * self.patch[2]
        prefix, suffix, visual, positions, instruction, targets = [], [], [], [], [], []
        suffix_positions, volume_of = [], []
        for v, (group, questions) in enumerate(zip(grids, prompts, strict=True)):
            head, after = questions[0].head, questions[0].after
            assert all(p.head == head and p.after == after for p in questions), "mixed prefixes"
            ids, is_visual, where, resume = self._prefix(head, after, group)
            prefix.append(ids)
            visual.append(is_visual)
            positions.append(where)
            for prompt in questions:
                ids = torch.tensor(prompt.suffix)
                suffix.append(ids)
                suffix_positions.append(text_positions(resume, len(ids)))
                row = torch.arange(len(ids))
                instruction.append((row >= prompt.instruction[0]) & (row < prompt.instruction[1]))
                target = torch.full_like(ids, IGNORE)
                target[prompt.answer_start - 1 : -1] = ids[prompt.answer_start :]
                targets.append(target)
                volume_of.append(v)
        return VolumeBatch(
            patches=torch.cat(rows) if rows else torch.zeros(0, voxels),
            grids=grids,
            prefix_ids=torch.cat(prefix),
            prefix_positions=torch.cat(positions, 1),
            visual=torch.cat(visual),
            visual_lengths=[int(rows.sum()) for rows in visual],
            prefixes=Segments([len(p) for p in prefix]),
            suffix_ids=torch.cat(suffix),
            suffix_positions=torch.cat(suffix_positions, 1),
            instruction=torch.cat(instruction),
            targets=torch.cat(targets),
            suffixes=Segments([len(s) for s in suffix]),
            volume_of=volume_of,
            records=[r for group in records for r in group] if records else [],
            labels=list(labels) if labels else [],
        )

    def _prefix(
        self, head: list[int], after: list[int], grids: tuple[Grid, ...]
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Ids, which rows are visual, positions, and the next free position of an item's prefix."""
        between = [*after, head[-1]]  # the end of a volume and the start of the next
        texts = [head, *[between] * (len(grids) - 1), after]
        ids, is_visual, parts = [], [], []
        for text, grid in zip_longest(texts, grids):
            ids += text
            is_visual += [False] * len(text)
            parts.append(len(text))
            if grid is not None:
                tokens = (grid[0], grid[1] // self.merge, grid[2] // self.merge)
                n_visual = tokens[0] * tokens[1] * tokens[2]
                ids += [self.visual_id] * n_visual
                is_visual += [True] * n_visual
                parts.append(tokens)
        where, resume = prefix_positions(parts, self.depth_stride, self.positions)
        return torch.tensor(ids), torch.tensor(is_visual), where, resume

    @property
    def token(self) -> Grid:
        """Voxels of the stored volume behind one visual token, along depth, height and width."""
        depth, height, width = self.patch
        return (depth * self.slab, height * self.merge, width * self.merge)

    def grid(self, volume: Tensor) -> Grid:
        """Patch grid of a (D, H, W) or (C, D, H, W) volume."""
        d, h, w = volume.shape[-3:]
        return patch_grid((d // self.slab, h, w), self.patch)

    def _patches(self, volume: Tensor) -> Tensor:
        if self.slab > 1:
            volume = volume.unflatten(-3, (-1, self.slab)).mean(-3)
        return patchify(volume.expand(self.channels, -1, -1, -1), self.patch, self.merge)
