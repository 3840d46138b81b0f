"""From volumes, images, videos and prompts to a batch.

Shape suffixes: as in batch.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from photon.batch.batch import IGNORE, VolumeBatch
from photon.batch.patches import Grid, holds_something, patch_grid, patchify
from photon.batch.positions import Resume, prefix_positions, text_positions
from photon.errors import InputError
from photon.packing import Segments
from photon.questions.prompts import Prompt
from photon.questions.record import Record
from photon.volume.sources import label
from photon.volume.types import Frames

Visual = Tensor | Frames  # a volume, or an image or video


@dataclass(frozen=True)
class BatchBuilder:
    """Turns volumes and prompts into a `VolumeBatch`.

    Args:
        patch: voxels of a patch along depth, height and width.
        channels: input channels of the patch embedding; a volume of one is repeated to fill them.
        merge: patches merged in plane, per axis.
        depth_stride: step of the depth positions, see `prefix_positions`.
        visual_id, image_id: token ids that stand for a visual token of a volume or video, and of an
            image.
        positions: where text resumes after a volume, see `prefix_positions`.
        slab: voxels averaged along depth before cutting patches (stock 2-frame patches see thick
            slices of the same volume).
        tokens_per_second: step of a video's depth positions for a second.
        timestamps: token ids of "<1.5 seconds>" for 1.5, for a model that was trained with each
            temporal patch of a video between vision start and end of its own, after its time
            (Qwen3-VL); a volume's slices are a second apart. None keeps them together (Qwen2.5-VL).
        air: value in [0, 1]; tokens of a volume in which no voxel lies above it are left out,
            before the encoder and everywhere after it. None computes every token.
        context: rows and positions that a sequence may have, or None for any number.
        leading_space: of the prompts that go with it, see `build_prompt`.
    """

    patch: Grid
    channels: int
    merge: int
    depth_stride: int
    visual_id: int
    slab: int = 1
    positions: Resume = "trained"
    image_id: int | None = None
    tokens_per_second: float = 2.0
    timestamps: Callable[[float], list[int]] | None = None
    context: int | None = None
    air: float | None = None
    leading_space: bool = False

    def __call__(
        self,
        volumes: Sequence[Sequence[Visual]],
        prompts: Sequence[Sequence[Prompt]],
        records: Sequence[Sequence[Record]] | None = None,
        labels: Sequence | None = None,
    ) -> VolumeBatch:
        """The volumes (images, videos) of each item, with prompts; () asks without any.

        A volume is (D, H, W) in [0, 1], or (C, D, H, W) with a channel for each of its windows.
        The questions of one item must share the text before it (system prompt). Raises InputError
        where an image or video meets patches that see volumes only, and for a question that is
        longer than the context.
        """
        for v, group in enumerate(volumes):
            for place, visual in enumerate(group):
                if isinstance(visual, Frames):
                    self.require_images(records[v][0] if records else None, place)
        grids = [tuple(self.grid(volume) for volume in group) for group in volumes]
        cut = [self._cut(group) for group in volumes]
        prefix, suffix, visual, positions, instruction, targets = [], [], [], [], [], []
        suffix_positions, volume_of = [], []
        for v, questions in enumerate(prompts):
            head, after = questions[0].head, questions[0].after
            assert all(p.head == head and p.after == after for p in questions), "mixed prefixes"
            ids, is_visual, where, resume = self._prefix(head, after, volumes[v], cut[v][1])
            prefix.append(ids)
            visual.append(is_visual)
            positions.append(where)
            for prompt in questions:
                length = max(resume, len(prefix[-1])) + len(prompt.suffix)
                self._check_length(length, records, len(volume_of))
                ids = torch.tensor(prompt.suffix)
                suffix.append(ids)
                suffix_positions.append(text_positions(resume, len(ids)))
                row = torch.arange(len(ids))
                instruction.append((row >= prompt.instruction[0]) & (row < prompt.instruction[1]))
                target = torch.full_like(ids, IGNORE)
                target[prompt.answer_start - 1 : -1] = ids[prompt.answer_start :]
                targets.append(target)
                volume_of.append(v)
        batch = VolumeBatch(
            patches=torch.cat([patches for patches, _ in cut]),
            grids=grids,
            prefix_ids=torch.cat(prefix),
            prefix_positions=torch.cat(positions, 1),
            visual=torch.cat(visual),
            visual_lengths=[int(present.sum()) for _, present in cut],
            present=[present for _, present in cut],
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
        return batch.to("cpu")

    def _check_length(
        self, length: int, records: Sequence[Sequence[Record]] | None, question: int
    ) -> None:
        if self.context is not None and length > self.context:
            flat = [record.id for group in records or () for record in group]
            named = f"record {flat[question]!r}" if flat else f"question {question}"
            raise InputError(
                f"{named} takes {length} positions with its visual tokens, and the model was "
                f"trained for {self.context} (max_position_embeddings): shorten the question or "
                "answer, or use fewer visual tokens"
            )

    def _prefix(
        self, head: list[int], after: list[int], visuals: Sequence[Visual], present: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Ids, which rows are visual, positions, and the next free position of an item's prefix."""
        *text, start = head
        ids, is_visual, parts, strides = [], [], [], []

        def add(part: int | Grid, tokens: list[int], visual: bool) -> None:
            parts.append(part)
            ids.extend(tokens)
            is_visual.extend([visual] * len(tokens))

        for visual in visuals:
            token = self.image_id if _is_image(visual) else self.visual_id
            for lead, grid in self._blocks(visual):
                text = [*text, *lead, start]
                add(len(text), text, False)
                add(grid, [token] * (grid[0] * grid[1] * grid[2]), True)
                strides.append(self._stride(visual))
                text = after
        text = text if visuals else [*head, *after]
        add(len(text), text, False)
        where, resume = prefix_positions(parts, strides, self.positions)
        ids, is_visual = torch.tensor(ids), torch.tensor(is_visual)
        runs = torch.ones_like(is_visual).masked_scatter(is_visual, present)
        return ids[runs], is_visual[runs], where[:, runs], resume

    def _blocks(self, visual: Visual) -> list[tuple[list[int], Grid]]:
        """Text ids before, and grid in tokens, of what stands between vision start and end."""
        depth, height, width = self.grid(visual)
        plane = (height // self.merge, width // self.merge)
        if self.timestamps is None or _is_image(visual):
            return [([], (depth, *plane))]
        if isinstance(visual, Frames):
            last, seconds = len(visual.pixels) - 1, visual.seconds  # the last is repeated
        else:
            last, seconds = depth * self.patch[0] - 1, self.slab
        step = self.patch[0]
        ends = [(min(k * step, last), min((k + 1) * step - 1, last)) for k in range(depth)]
        return [(self.timestamps((a + b) / 2 * seconds), (1, *plane)) for a, b in ends]

    def _stride(self, visual: Visual) -> float:
        """Step of the depth positions; a video's goes with its time, rounded down at each step."""
        if isinstance(visual, Tensor) or visual.is_image:
            return self.depth_stride
        return self.tokens_per_second * self.patch[0] * visual.seconds

    @property
    def takes_images(self) -> bool:
        """Whether the patches are those of colour images, as the stock ones: 2 frames of RGB."""
        return (self.patch[0], self.channels) == (2, 3)

    def require_images(self, record: Record | None, place: int = 0) -> None:
        """Raise InputError, naming the record and its image or video, unless `takes_images`."""
        if not self.takes_images:
            sources = record.volumes if record else ()
            named = "what is asked about"  # in a dialogue, whose records name no file
            if place < len(sources) and sources[place]:
                named = f"record {record.id!r}: {label(sources[place])}"
            raise InputError(
                f"{named} is a 2D image or video, and patches of {self.patch} voxels with "
                f"{self.channels} channels see volumes only. Choose a model with the stock patches "
                f"{(2, *self.patch[1:])} of 3 channels, such as model=photon_max, or leave such "
                "records out"
            )

    @property
    def token(self) -> Grid:
        """Voxels of the stored volume behind one visual token, along depth, height and width."""
        depth, height, width = self.patch
        return (depth * self.slab, height * self.merge, width * self.merge)

    def grid(self, visual: Visual) -> Grid:
        """Patch grid of a (D, H, W) or (C, D, H, W) volume, an image or a video."""
        if isinstance(visual, Frames):
            frames, height, width, _ = visual.pixels.shape
            side = self.patch[1] * self.merge
            if height % side or width % side:
                raise InputError(
                    f"an image of {width} x {height} pixels does not divide into tokens of {side}: "
                    f"set preparation.images.factor={side}"
                )
            depth = -(-frames // self.patch[0])
            return depth, height // self.patch[1], width // self.patch[2]
        d, h, w = visual.shape[-3:]
        return patch_grid((d // self.slab, h, w), self.patch)

    def _patches(self, visual: Visual) -> Tensor:
        if isinstance(visual, Frames):
            pixels = visual.pixels.permute(3, 0, 1, 2).float() / 255
            missing = -pixels.shape[1] % self.patch[0]
            pixels = torch.cat([pixels, pixels[:, -1:].expand(-1, missing, -1, -1)], 1)
            return patchify(pixels, self.patch, self.merge)
        if self.slab > 1:
            visual = visual.unflatten(-3, (-1, self.slab)).mean(-3)
        return patchify(visual.expand(self.channels, -1, -1, -1), self.patch, self.merge)

    def _cut(self, group: Sequence[Visual]) -> tuple[Tensor, Tensor]:
        """Patch rows (P, voxels) of an item that are computed, and (V,) true at their tokens."""
        depth, height, width = self.patch
        rows = [torch.zeros(0, self.channels * depth * height * width)]
        present = [torch.ones(0, dtype=torch.bool)]
        for visual in group:
            patches = self._patches(visual)
            tokens = torch.ones(len(patches) // self.merge**2, dtype=torch.bool)
            if self.air is not None and not isinstance(visual, Frames):
                tokens = holds_something(patches, self.air, self.merge)
                patches = patches[tokens.repeat_interleave(self.merge**2)]
            rows.append(patches)
            present.append(tokens)
        return torch.cat(rows[1:] or rows), torch.cat(present)


def _is_image(visual: Visual) -> bool:
    return isinstance(visual, Frames) and visual.is_image


@dataclass(frozen=True)
class Timestamps:
    """Token ids of a time before a frame. Source: Qwen3-VL's processor, `replace_video_token`."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, seconds: float) -> list[int]:
        return self.tokenizer.encode(f"<{seconds:.1f} seconds>", add_special_tokens=False)
