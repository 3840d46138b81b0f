"""Keys and values of packed rows, kept for decoding.

Shape suffixes: M cached rows, K key-value heads, H head size, Q questions.
"""

from __future__ import annotations

from torch import Tensor

ROOM = 32  # rows to spare where a layer's rows are copied to a larger place


class KeyValues:
    """Append-only keys and values of one run of decoder layers.

    Attention does not depend on the order of its keys (positions live in the rotary angles), so
    new rows go to the end, and `seen` tells which rows each question sees: those that it reads,
    which it may share with other questions, and its own.
    """

    def __init__(self) -> None:
        self.seen: list[Tensor] = []  # (Q) on the CPU
        self._rows: dict[int, tuple[Tensor, Tensor]] = {}  # by layer, with room at the end
        self._counts: dict[int, int] = {}
        self._borrowed: set[int] = set()  # layers whose tensors another cache holds too

    def fork(self) -> KeyValues:
        """A cache with the same rows; from now on both grow by themselves."""
        other = self.head(None)
        other.seen = list(self.seen)
        return other

    def head(self, n: int | None) -> KeyValues:
        """A cache with the first n rows (None: all), which no question sees yet."""
        other = KeyValues()
        other._rows = dict(self._rows)
        other._counts = {i: count if n is None else n for i, count in self._counts.items()}
        other._borrowed, self._borrowed = set(self._rows), set(self._rows)
        return other

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add rows (R, K, H) to a layer and return all of its rows (M, K, H)."""
        n = self._counts.get(layer, 0)
        end = self._counts[layer] = n + len(k)
        if n == 0:
            self._rows[layer] = k, v
            return k, v
        keys, values = self._rows[layer]
        if end > len(keys) or layer in self._borrowed:
            keys, values = (_copied(x[:n], end + ROOM) for x in (keys, values))
            self._rows[layer] = keys, values
            self._borrowed.discard(layer)
        keys[n:end], values[n:end] = k, v
        return keys[:end], values[:end]

    @property
    def n_layers(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Of all rows, without room to spare."""
        pairs = ((self._counts[i], x) for i, both in self._rows.items() for x in both)
        return sum(n * x[0].numel() * x.element_size() for n, x in pairs if n)

    @property
    def total(self) -> int:
        """Rows cached so far (all layers hold the same number)."""
        return max(self._counts.values(), default=0)


def _copied(x: Tensor, room: int) -> Tensor:
    """The rows x at the front of a tensor with room for `room` of them."""
    out = x.new_empty(room, *x.shape[1:])
    out[: len(x)] = x
    return out
