"""Keys and values of packed rows, kept for decoding.

Shape suffixes: M cached rows, K key-value heads, H head size, Q questions.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValues:
    """Append-only keys and values of one run of decoder layers.

    Attention does not depend on the order of its keys (positions live in the rotary angles), so
    new rows go to the end, and `rows` tells which rows belong to which question. Layers up to l
    share the rows of a volume's prefix between its questions; layers above l hold each question's
    own kept rows.
    """

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.rows: list[Tensor] = []

    def fork(self) -> KeyValues:
        """A cache with the same rows that grows by itself: rows are never written in place."""
        other = KeyValues()
        other.keys, other.values, other.rows = dict(self.keys), dict(self.values), list(self.rows)
        return other

    def head(self, n: int) -> KeyValues:
        """A cache with the first n rows only, which belong to no question yet."""
        other = KeyValues()
        other.keys = {layer: k[:n] for layer, k in self.keys.items()}
        other.values = {layer: v[:n] for layer, v in self.values.items()}
        return other

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add rows (R, K, H) to a layer and return all of its rows (M, K, H)."""
        if layer in self.keys:
            k = torch.cat([self.keys[layer], k])
            v = torch.cat([self.values[layer], v])
        self.keys[layer], self.values[layer] = k, v
        return k, v

    def extend_rows(self, new: list[Tensor]) -> None:
        """Give each question the cached rows that its next queries may also see."""
        pairs = zip(self.rows, new, strict=True)
        self.rows = [torch.cat(pair) for pair in pairs] if self.rows else new

    @property
    def n_layers(self) -> int:
        return len(self.keys)

    @property
    def total(self) -> int:
        """Rows cached so far (all layers hold the same number)."""
        return next(iter(self.keys.values())).shape[0] if self.keys else 0
