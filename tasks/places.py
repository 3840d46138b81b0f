"""What a configuration may build, and where: a kind of object for each place of a `_target_`.

A package is no boundary: it holds functions that write files or build whatever they are told to. So
a place takes the subclasses of one class, defined in the packages where such classes live, or a few
functions by name. Everywhere else a `_target_` is refused, at any depth.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal

from photon.annotations import Count, Fraction, NonNegative, Positive, Share, Whole
from photon.errors import did_you_mean

# Ranges of arguments whose classes are not ours and say less. Absent ones are left to the class.
_OPTIMISER = {
    "lr": Positive,
    "betas": tuple[Fraction, Fraction],
    "eps": Positive,
    "weight_decay": NonNegative,
    "momentum": Fraction,
}
_TRAINER = {
    "max_steps": Literal[-1] | Count,
    "max_epochs": Literal[-1] | Count | NoneType,
    "min_steps": Count | NoneType,
    "min_epochs": Count | NoneType,
    "devices": Literal["auto", -1] | Count | list[Whole],
    "num_nodes": Count,
    "accumulate_grad_batches": Count,
    "gradient_clip_val": NonNegative | NoneType,
    "log_every_n_steps": Count,
    "val_check_interval": Share | Count | NoneType,
    "check_val_every_n_epoch": Count | NoneType,
    "limit_train_batches": Share | Whole | NoneType,
    "limit_val_batches": Share | Whole | NoneType,
    "num_sanity_val_steps": Literal[-1] | Whole | NoneType,
}


@dataclass(frozen=True)
class Kind:
    """What may stand at a place.

    title: in a message. packages: where it must be defined. base: "module:Class" whose subclasses
    may stand there; without one, only `names`, callables by their full path. has: methods of which
    a class needs one, where there is no common base. hints: of a library's arguments.
    """

    title: str
    packages: tuple[str, ...]
    base: str = ""
    names: tuple[str, ...] = ()
    has: tuple[str, ...] = ("__init__",)
    hints: Mapping[str, Any] = field(default_factory=dict)


_PRUNER = Kind("a pruner", ("photon.pruning",), "torch.nn:Module", has=("select", "budgets"))
_READER = Kind("a benchmark", ("photon.benchmarks",), "photon.benchmarks.benchmark:Benchmark")
# One pruner selects, a list of them has a first.
_PRUNER = Kind("a pruner", ("photon.pruning",), "torch.nn:Module", has=("select", "first"))
# Keys of a place; `*` is any one name, `#` an index of a list.
PLACES: dict[str, Kind] = {
    "model": Kind("a model", (), names=("photon.weights.checkpoints.build_model",)),
    "pruner": _PRUNER,
    "pruner.stages.*": _PRUNER,
    "dataset": Kind("a data set", ("tasks",), "tasks.datamodule:QuestionData"),
    "dataset.reader": _READER,
    "dataset.reader.parts.*": _READER,
    "dataset.reader.holdout.*": _READER,
    "task.*": Kind("a phase", ("tasks",), "tasks.base:PhotonTask"),
    "task.*.optimizer": Kind(
        "an optimiser",
        ("torch.optim", "tasks.optimizer"),
        "torch.optim:Optimizer",
        names=("tasks.optimizer.muon_with_adamw",),
        hints=_OPTIMISER,
    ),
    "task.*.terms.*": Kind("a loss term", ("tasks.terms",), "tasks.terms:Term"),
    "callbacks.*": Kind(
        "a callback", ("lightning.pytorch.callbacks", "tasks"), "lightning.pytorch:Callback"
    ),
    "logger.*": Kind(
        "a logger",
        ("lightning.pytorch.loggers", "tasks.logging"),
        "lightning.pytorch.loggers:Logger",
        names=tuple(f"tasks.logging.{n}_log" for n in ("wandb", "tensorboard", "mlflow")),
    ),
    "trainer": Kind(
        "the trainer", ("lightning.pytorch",), names=("lightning.pytorch.Trainer",), hints=_TRAINER
    ),
    "trainer.strategy": Kind(
        "a strategy",
        ("lightning.pytorch.strategies", "tasks"),
        "lightning.pytorch.strategies:Strategy",
    ),
    "trainer.plugins.#": Kind(
        "a checkpoint or precision plugin",
        ("lightning.pytorch.plugins", "tasks"),
        "tasks.places:plugin_bases",
    ),
    "trainer.profiler": Kind(
        "a profiler", ("lightning.pytorch.profilers",), "lightning.pytorch.profilers:Profiler"
    ),
}


def plugin_bases() -> tuple[type, ...]:
    """Of what may stand in trainer.plugins."""
    from lightning.pytorch.plugins import CheckpointIO, Precision

    return CheckpointIO, Precision


def kind_at(key: str) -> Kind | None:
    """What may be built at a key such as `trainer.plugins[0]`, or None."""
    words = key.replace("[", ".[").split(".")
    for place, kind in PLACES.items():
        wanted = place.split(".")
        if len(wanted) == len(words) and all(map(_stands_for, wanted, words)):
            return kind
    return None


def _stands_for(wanted: str, word: str) -> bool:
    return wanted == word or (wanted == "#" if word.startswith("[") else wanted == "*")


def find_target(path: str, key: str) -> Callable[..., Any]:
    """The callable named by `path` for the place `key`.

    Raises ValueError where nothing may be built there, or where this is not of that kind; nothing
    outside the packages of the kind is imported.
    """
    kind = kind_at(key)
    if kind is None:
        raise ValueError(f"target {path!r} is not allowed: nothing is built here; remove it")
    legal = ", ".join((*(f"{package}.*" for package in kind.packages if kind.base), *kind.names))
    allowed = f"target {path!r} is not allowed here: give {kind.title}, of {legal}"
    private = any(part.startswith("_") or not part.isidentifier() for part in path.split("."))
    inside = kind.base and any(path.startswith(f"{package}.") for package in kind.packages)
    if private or not (inside or path in kind.names):
        raise ValueError(allowed)
    found = _import(path)
    if path not in kind.names and not _is_a(found, kind):
        raise ValueError(allowed)
    return found


def _is_a(found: Any, kind: Kind) -> bool:
    if not inspect.isclass(found):
        return False
    module, name = kind.base.split(":")
    base = getattr(importlib.import_module(module), name)
    base = base if inspect.isclass(base) else base()
    home = f"{found.__module__}."
    owned = any(home.startswith(f"{package}.") for package in kind.packages)
    return owned and issubclass(found, base) and any(hasattr(found, name) for name in kind.has)


def _import(path: str) -> Any:
    parts = path.split(".")
    for split in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:split])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is not None and not module_name.startswith(error.name):
                raise ValueError(f"target {path!r} needs {error.name}, not installed") from error
            continue
        for index, part in enumerate(parts[split:], split):
            if not hasattr(found, part):
                where, names = ".".join(parts[:index]), [n for n in dir(found) if n[0] != "_"]
                raise ValueError(f"{where!r} has no {part!r}{did_you_mean(part, names)}")
            found = getattr(found, part)
        return found
    raise ValueError(f"target {path!r}: there is no module {parts[0]!r}")
