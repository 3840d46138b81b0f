"""Packed variable-length rows: many segments laid end to end in one tensor, none padded to another.

Shape suffixes: G segments, L longest segment, R packed rows (the sum of the lengths).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class Segments:
    """Lengths of the G consecutive segments of a packed tensor, and reductions over each segment.

    Reductions gather rows into a dense (G, L) block only inside the call; where all lengths are
    equal that block is a view.
    """

    def __init__(self, lengths: Sequence[int] | Tensor, device: torch.device | str = "cpu"):
        values = lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
        assert all(n >= 0 for n in values), values
        self.lengths: list[int] = values
        self.device = torch.device(device)
        self.offsets: list[int] = [0]
        for n in values:
            self.offsets.append(self.offsets[-1] + n)

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self):
        return (slice(a, b) for a, b in zip(self.offsets, self.offsets[1:], strict=False))

    @property
    def total(self) -> int:
        return self.offsets[-1]

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @cached_property
    def equal(self) -> bool:
        return len(set(self.lengths)) <= 1

    @cached_property
    def counts(self) -> Tensor:
        """(G,) lengths as a tensor."""
        return torch.tensor(self.lengths, dtype=torch.long, device=self.device)

    @cached_property
    def starts(self) -> Tensor:
        """(G,) first row of every segment."""
        return torch.tensor(self.offsets[:-1], dtype=torch.long, device=self.device)

    @cached_property
    def ids(self) -> Tensor:
        """(R,) segment of every row."""
        index = torch.arange(len(self)).repeat_interleave(torch.tensor(self.lengths))
        return index.to(self.device)

    @cached_property
    def valid(self) -> Tensor:
        """(G, L) true where a padded cell holds a row."""
        return torch.arange(self.longest, device=self.device) < self.counts[:, None]

    @cached_property
    def cells(self) -> Tensor:
        """(G, L) row that each padded cell shows; cells past a segment's end show row 0."""
        index = self.starts[:, None] + torch.arange(self.longest, device=self.device)
        return index.masked_fill(~self.valid, 0)

    @cached_property
    def places(self) -> Tensor:
        """(R,) cell of the flattened (G, L) block that holds each row; made on the CPU."""
        within = [torch.arange(n) + g * self.longest for g, n in enumerate(self.lengths)]
        return torch.cat([torch.arange(0), *within]).to(self.device)

    def pad(self, rows: Tensor, fill: float = 0.0) -> Tensor:
        """(R, ...) packed rows to (G, L, ...), with `fill` past each segment's end."""
        assert rows.shape[0] == self.total, (rows.shape, self.total)
        if self.equal:
            return rows.reshape(len(self), self.longest, *rows.shape[1:])
        valid = self.valid.reshape(*self.valid.shape, *[1] * (rows.dim() - 1))
        return torch.where(valid, rows[self.cells], torch.full((), fill, dtype=rows.dtype))

    def unpad(self, block: Tensor) -> Tensor:
        """(G, L, ...) back to (R, ...): the inverse of `pad`."""
        rows = block.flatten(0, 1)
        return rows if self.equal else rows.index_select(0, self.places)

    def expand(self, values: Tensor) -> Tensor:
        """(G, ...) one value a segment to (R, ...) one a row."""
        return values[self.ids]

    def sum(self, rows: Tensor) -> Tensor:
        """(R, ...) to (G, ...)."""
        return self.pad(rows).sum(1)

    def mean(self, rows: Tensor) -> Tensor:
        """(R, ...) to (G, ...); zero for an empty segment."""
        counts = self.counts.clamp_min(1).reshape(-1, *[1] * (rows.dim() - 1))
        return self.sum(rows) / counts

    def std(self, rows: Tensor) -> Tensor:
        """(R,) to (G,): population standard deviation, with a zero (never NaN) gradient at 0."""
        centred = rows - self.expand(self.mean(rows))
        variance = self.mean(centred.square())
        positive = variance > 0
        return torch.where(positive, variance, 1.0).sqrt() * positive

    def max(self, rows: Tensor) -> Tensor:
        """(R,) to (G,)."""
        return self.pad(rows, float("-inf")).amax(1)

    def min(self, rows: Tensor) -> Tensor:
        """(R,) to (G,)."""
        return self.pad(rows, float("inf")).amin(1)

    def quantile(self, rows: Tensor, level: float) -> Tensor:
        """(R,) to (G,): linear interpolation between order statistics, as `torch.quantile`."""
        ordered = self.pad(rows, float("inf")).sort(dim=1).values
        place = (self.counts - 1).clamp_min(0).to(rows.dtype) * level
        below = place.floor().long()
        above = place.ceil().long()
        low = ordered.gather(1, below[:, None]).squeeze(1)
        high = ordered.gather(1, above[:, None]).squeeze(1)
        return torch.lerp(low, high, place - below)
