"""A condition: what a model is shown, what it may keep, and the name of both."""

from __future__ import annotations

from dataclasses import dataclass

from photon.evaluation.views import OWN, REDUCED, VIEWS, parse_budget
from photon.pruning.base import Keep
from photon.pruning.named import pruners

CONTROLS = ("no_pruning", "random_keep", *VIEWS[1:], "slices@1", "slices@3")
BEFORE = "-before"  # random-before: in front of the first layer, wherever the model's own acts
PLACED = ("random", "oracle")
PRUNERS = ("photon", "random", "uniform", "fastv", "oracle")  # of the usual curve, as photon@0.1


@dataclass(frozen=True)
class Condition:
    """One way to answer a set of questions.

    Args:
        name: `photon`, one of CONTROLS, or PRUNER@BUDGET.
        view: of VIEWS, or of REDUCED with its number.
        pruner: a name of `every_pruner`, where `photon` is the model's own; None keeps every token.
        keep: a budget (share or count); None asks the model's own threshold, or for `random` as
            many tokens as `photon` kept.
        before: drop in front of the first layer.
    """

    name: str
    view: str
    pruner: str | None
    keep: Keep = None
    before: bool = False

    @property
    def method(self) -> str:
        """The name without a budget."""
        return self.name.partition("@")[0]


def every_pruner() -> list[str]:
    """All that can answer at a budget, those of the usual curve first."""
    before = (f"{name}{BEFORE}" for name in PLACED)
    return list(dict.fromkeys((*PRUNERS, *pruners(), *before, REDUCED[0])))


def parse_condition(name: str, keep: Keep = None) -> Condition:
    """The condition of a name; `keep`: budget of the model's own pruner where the name has none.

    Raises ValueError for an unknown name or a budget out of range.
    """
    if name == "photon":
        return Condition(name, OWN, "photon", keep)
    if name == "no_pruning":
        return Condition(name, OWN, None)
    if name == "random_keep":
        return Condition(name, OWN, "random")
    if name == "question_only":
        return Condition(name, name, None)
    if name in VIEWS:
        return Condition(name, name, "photon", keep)
    pruner, at, budget = name.partition("@")
    if pruner == "slices" and at and isinstance(parse_budget(budget), int):
        return Condition(name, name, None)
    if not at or pruner not in every_pruner():
        legal = ", ".join(("photon", *CONTROLS, *(f"{p}@BUDGET" for p in every_pruner())))
        raise ValueError(f"there is no condition {name!r}; legal names are {legal}")
    keep = parse_budget(budget)
    if pruner in REDUCED:
        return Condition(name, name, None, keep)
    before = pruner.endswith(BEFORE)
    return Condition(name, OWN, pruner.removesuffix(BEFORE), keep, before)


def budget_conditions(budgets: tuple | list, pruners: tuple | list) -> list[str]:
    """Names of every pruner at every budget."""
    return [f"{pruner}@{budget}" for budget in budgets for pruner in pruners]
