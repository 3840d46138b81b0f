"""What a pruner is given and what it returns; the model gathers states, positions and caches.

Shape suffixes: Q questions, B volumes, T packed instruction rows, V packed visual rows of the
volumes, J packed (question, visual token) pairs, R rows of the layers up to l, L packed prompt rows
of the questions, N query heads, K key-value heads, H head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from photon.annotations import Budget, Fraction
from photon.batch.layout import Tail, check_tail
from photon.packing import Segments
from photon.pruning.encoded import Encoded, Merge

Keep = float | int | Tensor | None


@dataclass(frozen=True)
class LastRow:
    """What the attention of each question's last prompt row needs, rotated if `score_rope`."""

    queries: Tensor  # (Q, N, H)
    keys: Tensor  # (R, K, H)
    rows: Tensor  # (L,) rows of `keys` that a question's last prompt row sees
    seen: Segments  # Q segments of `rows`
    is_visual: Tensor  # (L,) true at visual tokens, in the order of the pairs


@dataclass(frozen=True)
class PruneContext:
    """Everything that a pruner may look at. The answer is not in it."""

    queries: Tensor | None  # (T, N, H) of the instruction rows, at the selection layer
    keys: Tensor | None  # (T, K, H) of the instruction rows
    visual_keys: Tensor | None  # (V, K, H) of the volumes' visual rows
    text: Segments  # Q segments of instruction rows
    visual: Segments  # B segments of visual rows
    pairs: Segments  # Q segments: the visual tokens of each question's volume
    volume_of: list[int]  # (Q) volume of each question
    training: bool = False
    # Made where they are asked for: after a decoder layer, and before the first one.
    last: Callable[[], LastRow] | None = None
    encoded: Callable[[], Encoded] | None = None


@dataclass(frozen=True)
class Selection:
    """Which visual tokens each question keeps, and the scores behind the choice."""

    keep: Tensor  # (J,) boolean
    pairs: Segments
    scores: Tensor | None = None  # (J,) saliency in [0, 1], higher stays longer
    prob: Tensor | None = None  # (J,) retention probability q, differentiable
    theta: Tensor | None = None  # (Q,) threshold
    merge: Merge | None = None  # of the volumes' visual tokens, where all questions keep the same
    counts: Tensor = field(init=False)  # (Q,) kept tokens

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", self.pairs.sum(self.keep.long()))

    @property
    def keep_idx(self) -> Tensor:
        """(kept,) pairs that stay, ascending: order and positions of survivors do not change."""
        return self.keep.nonzero().squeeze(1)

    def within(self, before: Selection) -> Selection:
        """This selection, of the pairs that `before` kept, over the pairs of `before`.

        What was dropped before has score and probability zero. The merge stays behind: it is of
        other tokens.
        """

        def spread(values: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            return values.new_zeros(len(before.keep)).index_copy(0, before.keep_idx, values)

        kept = spread(self.keep.long()).bool()
        return Selection(kept, before.pairs, spread(self.scores), spread(self.prob), self.theta)

    def flip(self) -> Selection:
        """The inverted mask: dropped tokens stay and kept ones go (Eq. 20). Carries no gradient."""
        return Selection(~self.keep, self.pairs)

    @property
    def hard_ratio(self) -> Tensor:
        """(Q,) share of visual tokens that stay."""
        return self.counts.float() / self.pairs.counts

    @property
    def soft_ratio(self) -> Tensor:
        """(Q,) mean retention probability r (Eq. 18), or the hard ratio of a scoreless pruner."""
        return self.hard_ratio if self.prob is None else self.pairs.mean(self.prob)


class Pruner(Protocol):
    """Chooses visual tokens between two decoder layers.

    `layer` is the share of decoder layers that run at full length, None before the language model
    (see `photon.pruning.pre_llm`); `score_rope` says whether the
    queries and keys in the context carry their rotary embedding; `tail` says how questions share
    rows above (see `photon.batch.layout.lay_out`).
    """

    layer: float | None
    score_rope: bool
    tail: Tail

    def select(
        self,
        context: PruneContext,
        keep: Keep = None,
        generator: torch.Generator | None = None,
    ) -> Selection:
        """The tokens that stay; `keep` asks for a share, a count, or counts (Q,) instead.

        `generator` feeds what is random (on the CPU); None takes torch's global one.
        """
        ...


class BudgetPruner(nn.Module):
    """A pruner after layer l that learns nothing and always keeps a budget: what all such share.

    Args:
        layer: share of decoder layers that run at full length.
        keep: share or count of tokens to keep where the call asks for none.
        tail: how questions share rows above l, see `photon.batch.layout.lay_out`.
    """

    score_rope = False

    def __init__(self, layer: Fraction = 0.25, keep: Budget = 0.3, tail: Tail = "question"):
        super().__init__()
        self.options = {"layer": layer, "keep": keep, "tail": tail}
        self.layer = layer
        self.keep = keep
        self.tail = check_tail(tail)


def selection_layer(n_layers: int, layer: float | None) -> int:
    """l: how many decoder layers run at full length, max(1, round(n * layer)); 0 for None.

    Raises ValueError unless 0 <= layer < 1.
    """
    if layer is None:
        return 0
    if not 0 <= layer < 1:
        raise ValueError(f"pruner.layer={layer}: legal values are shares of the layers in [0, 1)")
    return min(max(1, round(n_layers * layer)), n_layers - 1)


def stages_of(pruner: Pruner) -> list[Pruner]:
    """Those of `PrunerStages` in order; any other pruner is its only one."""
    stages = getattr(pruner, "stages", None)
    return [pruner] if stages is None else list(stages.values())


def blocks_of(*pruners: Pruner | None) -> tuple[float, ...]:
    """Encoder blocks whose attention the pruners read, as shares of its depth."""
    return tuple({block for pruner in pruners for block in getattr(pruner, "blocks", ())})
