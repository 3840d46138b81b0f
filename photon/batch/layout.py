"""Which rows run in a layer and which of them every question reads: made on the CPU, from lengths.

A batch has R prefix rows (its volumes with the text before the questions) and S suffix rows (the
questions with their answers). In every layer some prefix rows run once, and suffixes read some of
them. The layers up to l, the three tails above l and the unpruned model differ in nothing else.

Shape suffixes: R prefix rows and S suffix rows of a batch, V visual tokens, Q questions, J
(question, visual token) pairs, P prefix rows that run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from photon.packing import Segments

Tail = Literal["question", "union", "all"]


def check_tail(tail: str) -> Tail:
    """The tail. Raises ValueError unless it is a legal `pruner.tail`."""
    if tail not in get_args(Tail):
        raise ValueError(f"pruner.tail={tail!r}: legal values are {', '.join(get_args(Tail))}")
    return tail


@dataclass(frozen=True)
class Layout:
    """Prefix rows that run once, in segments that are causal in themselves, and suffixes.

    A suffix sees the prefix rows that it reads and, causally, itself.
    """

    rows: Tensor  # (P + suffix rows) rows of the batch that run, prefix segments first
    prefixes: list[int]  # rows of each prefix segment
    suffixes: list[int]  # (Q) rows of each suffix, 0 for a question that does not run
    reads: list[Tensor]  # (Q) the prefix rows among `rows` that each suffix reads, ascending
    at: Tensor  # (n,) rows among `rows` that are visual tokens
    tokens: Tensor  # (n,) which of the batch's visual tokens they are
    pairs: Tensor  # (m,) pairs that are read, ascending
    keys: Tensor  # (m,) where they stand among the keys of all suffixes, laid end to end

    @property
    def total(self) -> int:
        """P."""
        return sum(self.prefixes)

    def suffixes_only(self) -> Layout:
        """The same without its prefix rows, which were run before."""
        none = self.at[:0]
        return replace(self, rows=self.rows[self.total :], prefixes=[], at=none, tokens=none)


def lay_out(
    prefixes: Segments,
    suffixes: Segments,
    volume_of: Sequence[int],
    visual: Tensor,
    keep: Tensor | None = None,
    tail: Tail = "all",
    questions: Sequence[bool] | None = None,
) -> Layout:
    """The layout in which every question reads its volume's text and the visual tokens it keeps.

    visual (R,) boolean; keep (J,) boolean, None for all; questions (Q): those that run, None for
    all. tail says which prefix rows run:

    `question`: a segment a question, with a copy of what it reads. The paper's (Eq. 2).
    `union`: a segment a volume, of the rows that any of its questions reads. With one question a
        volume, or questions that keep the same, this is `question`. Otherwise an answer depends on
        the questions beside it: a visual row above l also reads what only the others keep.
    `all`: a segment a volume, of all of its rows. Answers do not depend on the questions beside
        them, and the rows of a volume on no question at all.
    """
    starts, n = prefixes.offsets, prefixes.total
    own = torch.arange(n, n + suffixes.total).split(suffixes.lengths)
    runs = [True] * len(suffixes) if questions is None else list(questions)
    running = [i for i, one in enumerate(runs) if one]
    none = torch.arange(0)
    places = [visual[a:b].nonzero()[:, 0] for a, b in zip(starts, starts[1:], strict=False)]
    first, seen, pairs = 0, [none] * len(runs), []
    for i, v in enumerate(volume_of):
        count = len(places[v])
        if runs[i]:
            mask = torch.ones(starts[v + 1] - starts[v], dtype=torch.bool)
            if keep is not None:
                mask[places[v]] = keep[first : first + count]
            seen[i] = mask.nonzero()[:, 0] + starts[v]
            pairs.append(mask[places[v]].nonzero()[:, 0] + first)
        first += count
    if tail == "question":
        segments = [len(rows) for rows in seen]
        prefix = torch.cat(seen) if seen else none
        reads = list(torch.arange(len(prefix)).split(segments))
    else:
        used = torch.zeros(n, dtype=torch.bool)
        for i in running:
            whole = slice(starts[volume_of[i]], starts[volume_of[i] + 1])
            used[whole if tail == "all" else seen[i]] = True
        prefix, place = used.nonzero()[:, 0], used.cumsum(0) - 1
        reads = [place[rows] for rows in seen]
        segments = [int(part.sum()) for part in used.split(prefixes.lengths)]
    at = visual[prefix].nonzero()[:, 0]
    lengths = [n * one for n, one in zip(suffixes.lengths, runs, strict=True)]
    keys = [
        torch.cat([visual[rows], torch.zeros(n, dtype=torch.bool)])
        for rows, n in zip(seen, lengths, strict=True)
    ]
    return Layout(
        rows=torch.cat([prefix, *(own[i] for i in running)]),
        prefixes=segments,
        suffixes=lengths,
        reads=reads,
        at=at,
        tokens=(visual.cumsum(0) - 1)[prefix[at]],
        pairs=torch.cat([none, *pairs]),
        keys=torch.cat([none.bool(), *keys]).nonzero()[:, 0],
    )
