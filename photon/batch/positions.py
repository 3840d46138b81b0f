"""Three-axis rotary positions (M-RoPE), as the released weights were trained with them.

Built here and not by the stock class: since Transformers 5.3 it resumes the text after a volume at
start + max(height, width), below the volume's own depth positions, while the released weights were
trained with text from max + 1 (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from photon.batch.patches import Grid

Resume = Literal["trained", "stock"]


def check_resume(name: str) -> None:
    """Raise ValueError when `name` is no place to resume at."""
    legal = get_args(Resume)
    if name not in legal:
        raise ValueError(f"model.positions={name!r}: legal values are {', '.join(legal)}")


def prefix_positions(
    parts: Sequence[int | Grid], depth_strides: Sequence[float], resume: Resume = "trained"
) -> tuple[Tensor, int]:
    """Positions (3, rows) of a prefix, and the next free position.

    `parts` follow each other: a number of text rows, or the visual token grid (depth, height,
    width) of a volume or an image, whose tokens run in that order. Depth indices of each grid in
    turn advance by its stride, rounded down (stock: second_per_grid * tokens_per_second). What
    follows a grid starts, when `trained`, at its largest position + 1 (Qwen2.5-VL's own code;
    Transformers before 5.3); `stock` is Transformers since 5.3: its start + max(height, width).
    They differ where a grid is deeper than wide, times the stride; for images they are the same.
    """
    free, positions, strides = 0, [], iter(depth_strides)
    for part in parts:
        rows = text_positions(0, part) if isinstance(part, int) else _grid(part, next(strides))
        positions.append(rows + free)
        if isinstance(part, tuple) and resume == "stock":
            free += max(part[1:])
        elif rows.numel():
            free = int(positions[-1].max()) + 1
    return torch.cat(positions, 1), free


def _grid(grid: Grid, depth_stride: float) -> Tensor:
    d, h, w = grid
    depth = (torch.arange(d) * depth_stride).floor().long()[:, None, None].expand(d, h, w)
    height = torch.arange(h)[None, :, None].expand(d, h, w)
    width = torch.arange(w)[None, None, :].expand(d, h, w)
    return torch.stack([depth, height, width]).flatten(1)


def text_positions(start: int, length: int) -> Tensor:
    """Positions (3, length) of text: the same index on all three axes."""
    return (torch.arange(length) + start).expand(3, -1)
