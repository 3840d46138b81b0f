"""Pruners by the names that exports, commands and evaluations use."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from photon.annotations import hints_of, mistakes
from photon.errors import InputError, did_you_mean
from photon.pruning import baselines
from photon.pruning.base import Pruner
from photon.pruning.its import PhotonPruner
from photon.pruning.stages import PrunerStages

STAGES = "stages"  # the name of a list


@cache
def pruners() -> dict[str, type[Pruner]]:
    """Classes by name: `photon`, and every file of `photon.pruning.baselines` by its own.

    A file's pruner is its last class with `select` or stages, and an argument `keep`, the budget.
    """
    found: dict[str, type[Pruner]] = {"photon": PhotonPruner}
    for _, name, _ in pkgutil.iter_modules(baselines.__path__):
        module = importlib.import_module(f"{baselines.__name__}.{name}")
        for kind in vars(module).values():
            own = inspect.isclass(kind) and kind.__module__ == module.__name__
            acts = own and (hasattr(kind, "select") or issubclass(kind, PrunerStages))
            if acts and "keep" in inspect.signature(kind).parameters:
                found[name] = kind
    return found


def find_pruner(name: str) -> type[Pruner]:
    """The class of a name. Raises InputError for a name that no pruner has."""
    if name not in pruners():
        raise InputError(f"pruner {name!r}: there is none{did_you_mean(name, pruners())}")
    return pruners()[name]


def new_pruner(name: str, layer: float | None = None) -> Pruner:
    """A pruner of a name with its own defaults, after `layer` where it asks for one."""
    kind = find_pruner(name)
    asks = layer is not None and "layer" in inspect.signature(kind).parameters
    return kind(layer=layer) if asks else kind()


@cache
def acts_before(name: str | None) -> bool:
    """Whether a name is that of a pruner that begins between encoder and language model."""
    return name in pruners() and new_pruner(name).layer is None


def spec_of(pruner: Pruner) -> dict[str, Any]:
    """Name and options, as an export stores them; those of every stage of a list."""
    options = pruner.options
    if type(pruner) is PrunerStages:
        stages = {name: spec_of(stage) for name, stage in pruner.stages.items()}
        return {"name": STAGES, "options": {"stages": stages}}
    return {"name": name_of(pruner), "options": options}


def pruner_of(spec: Mapping[str, Any]) -> Pruner:
    """The pruner of a `spec_of`, with new weights. InputError where an option is out of range."""
    if spec["name"] == STAGES:
        stages = spec["options"]["stages"]
        return PrunerStages({name: pruner_of(one) for name, one in stages.items()})
    kind = find_pruner(spec["name"])
    hints = hints_of(kind)
    for key, value in spec["options"].items():
        for wrong in mistakes(f"pruner.options.{key}", value, hints.get(key, object)):
            raise InputError(wrong)
    return kind(**spec["options"])


def name_of(pruner: Pruner) -> str:
    """The name under which an export stores a pruner; ValueError where its class has none."""
    for name, kind in pruners().items():
        if type(pruner) is kind:
            return name
    raise ValueError(f"{type(pruner).__name__}: not a class of photon.pruning.baselines")
