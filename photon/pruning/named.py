"""Pruners by the names that exports, commands and evaluations use."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from photon.errors import InputError, did_you_mean
from photon.pruning import baselines
from photon.pruning.base import Pruner
from photon.pruning.its import PhotonPruner


@cache
def pruners() -> dict[str, type[Pruner]]:
    """Classes by name: `photon`, and every file of `photon.pruning.baselines` by its own.

    A file's pruner is its class with `select` and an argument `keep`, the budget.
    """
    found: dict[str, type[Pruner]] = {"photon": PhotonPruner}
    for _, name, _ in pkgutil.iter_modules(baselines.__path__):
        module = importlib.import_module(f"{baselines.__name__}.{name}")
        for kind in vars(module).values():
            own = inspect.isclass(kind) and kind.__module__ == module.__name__
            if own and hasattr(kind, "select") and "keep" in inspect.signature(kind).parameters:
                found[name] = kind
    return found


def find_pruner(name: str) -> type[Pruner]:
    """The class of a name. Raises InputError for a name that no pruner has."""
    if name not in pruners():
        raise InputError(f"pruner {name!r}: there is none{did_you_mean(name, pruners())}")
    return pruners()[name]


def acts_before(name: str | None) -> bool:
    """Whether a name is that of a pruner between encoder and language model."""
    return name in pruners() and getattr(pruners()[name], "layer", 0.0) is None


def name_of(pruner: Pruner) -> str:
    """The name under which an export stores a pruner; ValueError where its class has none."""
    for name, kind in pruners().items():
        if type(pruner) is kind:
            return name
    raise ValueError(f"{type(pruner).__name__}: not a class of photon.pruning.baselines")
