"""Pruners one after another, each over what the one before left: a list, or a method of stages.

Shape suffixes: Q questions, J packed (question, visual token) pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from photon.batch.layout import Tail
from photon.packing import Segments
from photon.pruning.base import BudgetPruner, Keep, Pruner, blocks_of
from photon.pruning.retention import budget_counts


class PrunerStages(nn.Module):
    """Several pruners by the order in which they act (`PhotonModel.arrive`).

    A stage sees the model as if what earlier ones dropped had never been there. Between two stages
    every question has rows of its own, unless all questions of an item keep the same; above the
    last one rows are shared as its `tail` says. Shares and counts are of all tokens of a volume.

    Args:
        stages: pruners by a name of your choice. Raises ValueError unless each acts after, or at
            the place of, the one before, and where there are none.
    """

    def __init__(self, stages: Mapping[str, Pruner]):
        super().__init__()
        places = [-1.0 if stage.layer is None else stage.layer for stage in stages.values()]
        if not places or places != sorted(places):
            named = {name: stage.layer for name, stage in stages.items()}
            raise ValueError(
                f"pruner.stages act at layers {named}: give at least one, in the order of layers "
                "(null, before the first, comes first)"
            )
        self.stages = nn.ModuleDict(stages)

    @property
    def options(self) -> dict[str, object]:
        """What builds it again; a stage stands for its own."""
        return {"stages": dict(self.stages.items())}

    @property
    def first(self) -> Pruner:
        return next(iter(self.stages.values()))

    @property
    def last(self) -> Pruner:
        return list(self.stages.values())[-1]

    @property
    def layer(self) -> float | None:
        """Of the first stage."""
        return self.first.layer

    @property
    def score_rope(self) -> bool:
        """Of the first stage; each sees queries and keys as it asks for them."""
        return self.first.score_rope

    @property
    def tail(self) -> str:
        """Of the last stage."""
        return self.last.tail

    @tail.setter
    def tail(self, tail: str) -> None:
        self.last.tail = tail

    @property
    def keep(self) -> Keep:
        """Of the last stage."""
        return self.last.keep

    @property
    def blocks(self) -> tuple[float, ...]:
        return blocks_of(*self.stages.values())

    @property
    def monitor(self) -> dict[str, Tensor]:
        """What the last stage notes for the log."""
        return getattr(self.last, "monitor", {})

    def budgets(self, keep: Keep, pairs: Segments) -> list[Keep]:
        """What each stage is asked to keep, as counts (Q,) of the pairs of all tokens.

        keep: of the last stage; None asks its own. Earlier ones keep their own.
        """
        own = [stage.keep for stage in self.stages.values()]
        own[-1] = own[-1] if keep is None else keep
        return [None if one is None else budget_counts(one, pairs) for one in own]


class FallingStages(PrunerStages):
    """Stages that keep ever fewer tokens, with one budget for all of them.

    The budget is the mean over the layers above the first stage, so that it costs there what the
    same budget costs a pruner that drops once.

    keep: share or count where the call asks for none.
    """

    def __init__(self, stages: Mapping[str, Pruner], keep: float | int):
        super().__init__(stages)
        self.budget = keep
        places = [stage.layer or 0.0 for stage in self.stages.values()] + [1.0]
        above = 1 - places[0]
        steps = zip(places, places[1:], strict=False)
        self.weights = [(end - start) / above for start, end in steps]

    @property
    def keep(self) -> Keep:
        return self.budget

    def budgets(self, keep: Keep, pairs: Segments) -> list[Keep]:
        """Counts (Q,) of each stage, see `falling_counts`."""
        counts = budget_counts(self.budget if keep is None else keep, pairs)
        return list(falling_counts(counts, pairs, self.weights))


class RepeatedStages(FallingStages):
    """One pruner after each of several layers.

    stage: built for each of `layers`, shares of the decoder's. tail: of the last stage.
    """

    def __init__(
        self, stage: type[BudgetPruner], layers: Sequence[float], keep: float | int, tail: Tail
    ):
        stages = {f"stage{i}": stage(at, tail=tail) for i, at in enumerate(layers, 1)}
        super().__init__(stages, keep)
        self.layers = list(layers)

    @property
    def options(self) -> dict[str, object]:
        return {"layers": self.layers, "keep": self.budget, "tail": self.tail}


def falling_counts(counts: Tensor, pairs: Segments, weights: Sequence[float]) -> list[Tensor]:
    """Counts (Q,) N f, N f^2, ... of stages whose mean under `weights` is `counts` (Q,).

    N are the tokens of a question. f is found by bisection, and counts are rounded, at least 1
    where a question has a token.
    """
    total = pairs.counts.clamp_min(1)
    wanted = counts.double() / total
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    for _ in range(50):
        middle = (low + high) / 2
        reached = sum(w * middle ** (i + 1) for i, w in enumerate(weights))
        low, high = torch.where(reached < wanted, middle, low), torch.where(
            reached < wanted, high, middle
        )  # fmt: skip
    least = pairs.counts.clamp_max(1)
    return [
        torch.maximum((total * high ** (i + 1)).round().long(), least).minimum(pairs.counts)
        for i in range(len(weights))
    ]
