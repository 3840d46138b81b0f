"""A condition: what a model is shown, what it may keep, and the name of both."""

from __future__ import annotations

from dataclasses import dataclass

from photon.evaluation.views import OWN, VIEWS
from photon.pruning.base import Keep
from photon.pruning.named import pruners

CONTROLS = ("no_pruning", "random_keep", *VIEWS[1:])
PRUNERS = ("photon", "random", "uniform", "fastv", "oracle")  # of the usual curve, as photon@0.1


@dataclass(frozen=True)
class Condition:
    """One way to answer a set of questions.

    Args:
        name: `photon`, one of CONTROLS, or PRUNER@BUDGET.
        view: of VIEWS.
        pruner: a name of `every_pruner`, where `photon` is the model's own; None keeps every token.
        keep: a budget (share or count); None asks the model's own threshold, or for `random` as
            many tokens as `photon` kept.
    """

    name: str
    view: str
    pruner: str | None
    keep: Keep = None


def every_pruner() -> list[str]:
    """All that can answer at a budget, those of the usual curve first."""
    return list(dict.fromkeys((*PRUNERS, *pruners())))


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
    if not at or pruner not in every_pruner():
        legal = ", ".join(("photon", *CONTROLS, *(f"{p}@BUDGET" for p in every_pruner())))
        raise ValueError(f"there is no condition {name!r}; legal names are {legal}")
    return Condition(name, OWN, pruner, parse_budget(budget))


def parse_budget(text: str) -> float | int:
    """A budget as written in a condition's name: with a point a share, without one a count."""
    try:
        value = float(text) if "." in text or "e" in text else int(text)
    except ValueError:
        value = 0
    if not (0 < value <= 1 if isinstance(value, float) else value >= 1):
        raise ValueError(f"budget {text!r}: legal are shares in (0, 1], as 0.1, and whole numbers")
    return value


def budget_conditions(budgets: tuple | list, pruners: tuple | list) -> list[str]:
    """Names of every pruner at every budget."""
    return [f"{pruner}@{budget}" for budget in budgets for pruner in pruners]
