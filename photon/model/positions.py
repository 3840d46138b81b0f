"""Three-axis rotary positions (M-RoPE), as Qwen2.5-VL was trained with them.

Built here and not by the stock class: since Transformers 5.3 it resumes the text after a volume at
start + max(height, width), below the volume's own depth positions, while the released weights were
trained with text from max + 1 (docs/decisions.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

Grid = tuple[int, int, int]


def prefix_positions(
    n_head: int, grid: Grid, n_after: int, depth_stride: int
) -> tuple[Tensor, int]:
    """Positions (3, n_head + tokens + n_after) of a volume's prefix, and the next free position.

    `grid` is the visual token grid (depth, height, width); tokens run in that order. Depth indices
    advance by `depth_stride` (stock: second_per_grid * tokens_per_second). A (0, 0, 0) grid is a
    prefix without a volume.
    """
    d, h, w = grid
    depth = (torch.arange(d) * depth_stride)[:, None, None].expand(d, h, w)
    height = torch.arange(h)[None, :, None].expand(d, h, w)
    width = torch.arange(w)[None, None, :].expand(d, h, w)
    visual = torch.stack([depth, height, width]).flatten(1) + n_head
    resume = int(visual.max()) + 1 if visual.numel() else n_head
    parts = [text_positions(0, n_head), visual, text_positions(resume, n_after)]
    return torch.cat(parts, 1), resume + n_after


def text_positions(start: int, length: int) -> Tensor:
    """Positions (3, length) of text: the same index on all three axes."""
    return (torch.arange(length) + start).expand(3, -1)
