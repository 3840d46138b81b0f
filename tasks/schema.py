"""The configuration against the code, before anything is built or any weight is read.

Every `_target_` names a callable of the kind that belongs at its place (`tasks.places`); its
arguments are bound to that callable's own signature and ranges, so that there is no second
description of the code to keep in step. All mistakes come out in one message.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import tasks.precision  # noqa: F401  (registers a resolver)
from photon.annotations import NonNegative, Seed, hints_of, mistakes
from photon.cost.plan import Assumed
from photon.errors import InputError, did_you_mean
from photon.weights.device import find_attention
from tasks.evaluate import Evaluation
from tasks.places import find_target, kind_at
from tasks.trust import check_name, written_targets

# Hydra's own keys beside `_target_`; positional arguments are not for configuration files.
HYDRA_KEYS = frozenset({"_target_", "_partial_"})

# Top-level keys that are one target, and those that hold named targets. An empty pruner is none.
PARTS = ("model", "dataset", "pruner", "trainer")
GROUPS = ("task", "callbacks", "logger")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The top level of `conf/train.yaml`: what `train.py` reads."""

    name: str
    seed: Seed
    phases: dict[str, NonNegative]  # shares of trainer.max_steps; one may be longer
    model: dict[str, Any]
    dataset: dict[str, Any]
    task: dict[str, Any]
    pruner: dict[str, Any]
    trainer: dict[str, Any]
    callbacks: dict[str, Any]
    logger: dict[str, Any]
    evaluation: Evaluation
    plan: Assumed


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """The top level of `conf/eval.yaml`: what `eval.py` reads."""

    name: str
    seed: Seed
    dataset: dict[str, Any]
    evaluation: Evaluation
    ckpt: str | None = None
    model: dict[str, Any] | None = None
    pruner: dict[str, Any] | None = None
    predictions: str | list[str] | None = None
    logger: dict[str, Any] | None = None
    device: str = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    attention: Literal["auto", "sdpa", "flash", "varlen"] = "auto"


def supplied_arguments(config: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Arguments that `train.py` itself hands to the targets of a `RunConfig`, by key."""
    ours = {
        f"logger.{name}": ("folder",)
        for name, node in (config.get("logger") or {}).items()
        if str(node.get("_target_")).startswith("tasks.")
    }
    phases = {f"task.{name}": ("model",) for name in config.get("task", {})}
    trainer = {"trainer": ("callbacks", "logger", "default_root_dir"), "model": ("pruner",)}
    return trainer | phases | ours


def to_plain(config: DictConfig | ListConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Plain dicts, lists and scalars with every interpolation resolved, this once.

    Nothing resolves them again, and a `_target_` that no file or override wrote down (a resolver
    made it) is refused. Raises InputError that lists all mandatory (`???`) keys without a value, or
    names the key whose interpolation fails.
    """
    if not OmegaConf.is_config(config):
        config = OmegaConf.create(dict(config))
    try:
        missing = ", ".join(sorted(OmegaConf.missing_keys(config)))
        if missing:
            raise InputError(f"no value for {missing}. Give each on the command line as KEY=VALUE.")
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        report(list(written_targets(OmegaConf.to_container(config, resolve=False), plain)))
        return plain
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "configuration"
        first = str(error).splitlines()[0]
        raise InputError(f"{key}: {first}. Correct the reference that this value makes.") from error


def check_config(config: Mapping[str, Any], schema: type = RunConfig) -> None:
    """Bind the whole composed configuration; InputError with all mistakes at once.

    `config` is plain (see `to_plain`), `schema` the dataclass of its top level.
    """
    supplied = supplied_arguments(config)
    found = [*check_name(config.get("name")), *_bind("", config, schema, ()), *_incomplete(config)]
    for key, node in config.items():
        found += _walk(str(key), node, supplied)
    report(found)


def report(found: Sequence[str]) -> None:
    """Raise one InputError that lists the mistakes found, if there are any; of a key the first."""
    found = list({line.split(": ")[0]: line for line in reversed(found)}.values())[::-1]
    if found:
        count = f"{len(found)} mistake{'s' if len(found) > 1 else ''} in the configuration"
        lines = "".join(f"\n  {line}" for line in found)
        raise InputError(f"{count}:{lines}\nNothing was built. Correct the keys named here.")


def _incomplete(config: Mapping[str, Any]) -> Iterator[str]:
    """Phases that are not there, and values for parts that were not chosen."""
    tasks = config.get("task", {})
    for phase, share in config.get("phases", {}).items():
        if share and phase not in tasks:
            there = ", ".join(tasks)
            yield f"phases.{phase}: there is no such phase in task=[{there}]; add it there"
    if "phases" in config and not any(config["phases"].values()):
        yield "phases: no phase has a share of the steps; give one"
    trainer = config.get("trainer") or {}
    if trainer.get("max_steps", 1) == -1 and trainer.get("max_epochs", -1) in (-1, None):
        yield "trainer.max_steps: the run has no end; set it, or trainer.max_epochs"
    nodes = {key: config[key] for key in PARTS if key in config}
    nodes |= {f"{g}.{k}": node for g in GROUPS for k, node in config.get(g, {}).items()}
    for key, node in nodes.items():
        if node and "_target_" not in node:
            yield f"{key}: has values but no _target_ ({', '.join(node)}); choose one, or drop them"


def instantiate(node: Mapping[str, Any], key: str, **supplied: Any) -> Any:
    """Build `node`, which stands at `key`, after the same check; `supplied` goes to it alone.

    A ValueError of the callable itself becomes an InputError that names the key.
    """
    report(list(_walk(key, node, {key: tuple(supplied)})))
    return _build(key, node, supplied)


def _build(key: str, node: Any, supplied: Mapping[str, Any]) -> Any:
    """The targets at and below `node`, innermost first; nothing else is called, or resolved."""
    if isinstance(node, list | tuple):
        return [_build(f"{key}[{index}]", child, {}) for index, child in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    built = {k: _build(f"{key}.{k}", child, {}) for k, child in node.items() if k not in HYDRA_KEYS}
    if "_target_" not in node:
        return built
    target = find_target(node["_target_"], key)
    if node.get("_partial_"):
        return partial(target, **built, **supplied)
    try:
        return target(**built, **supplied)
    except (ValueError, MisconfigurationException) as error:
        where = "" if key in str(error) else f"{key}: "
        raise InputError(f"{where}{error}") from error


def build_model(config: Mapping[str, Any]) -> Any:
    """The model that a run starts from, with its pruner."""
    pruner = instantiate(config["pruner"], "pruner") if config["pruner"] else None
    model = {**config["model"], "attention": attention_of(config)}
    return instantiate(model, "model", pruner=pruner)


def attention_of(config: Mapping[str, Any]) -> str:
    """The attention of a training: `auto` is by the GPU that it will run on and its precision."""
    trainer = config["trainer"]
    cuda = torch.cuda.is_available() and trainer["accelerator"] != "cpu"
    narrow = (trainer["precision"] or "bf16-true").startswith("bf16")  # null: that of a plugin
    dtype = torch.bfloat16 if narrow else torch.float32
    return find_attention(config["model"]["attention"], "cuda" if cuda else "cpu", dtype)


def check_strategy(trainer: Mapping[str, Any]) -> None:
    """Raise InputError where a strategy's library is not here: before weights are read."""
    if isinstance(trainer["strategy"], Mapping):
        try:
            instantiate(trainer["strategy"], "trainer.strategy")
        except InputError as error:
            if "DeepSpeed" not in str(error):
                raise
            raise InputError(
                f"{error} DS_BUILD_OPS=0 .venv/bin/pip install "
                "--no-build-isolation -r requirements-deepspeed.lock does so (`make` tried it and "
                "said why not); trainer=ddp and trainer=fsdp need nothing more."
            ) from error


def _walk(key: str, node: Any, supplied: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Mistakes of every target at or below `node`."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield from _check_target(key, node, supplied.get(key, ()))
        for name, child in node.items():
            yield from _walk(f"{key}.{name}" if key else str(name), child, supplied)
    elif isinstance(node, list | tuple):
        for index, child in enumerate(node):
            yield from _walk(f"{key}[{index}]", child, supplied)
    elif isinstance(node, float) and not math.isfinite(node):
        yield f"{key}: {node} is not a finite number"


def _check_target(key: str, node: Mapping[str, Any], supplied: Sequence[str]) -> Iterator[str]:
    try:
        target = find_target(str(node["_target_"]), key)
    except ValueError as error:
        yield f"{key}._target_: {error}"
        return
    arguments = {name: value for name, value in node.items() if name not in HYDRA_KEYS}
    for name in [name for name in arguments if str(name).startswith("_")]:
        yield f"{key}.{name}: only {' and '.join(sorted(HYDRA_KEYS))} may start with an underscore"
        del arguments[name]
    ranges = kind_at(key).hints
    yield from _bind(key, arguments, target, supplied, bool(node.get("_partial_")), ranges)


def _bind(
    key: str,
    arguments: Mapping[str, Any],
    target: Callable[..., Any],
    supplied: Sequence[str],
    incomplete: bool = False,
    ranges: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Mistakes in giving `arguments` (and those `supplied` later) to `target` by keyword."""
    name = getattr(target, "__name__", str(target))
    parameters = inspect.signature(target).parameters
    legal = [
        p.name
        for p in parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"
    ]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = hints_of(target) | dict(ranges or {})
    for argument, value in arguments.items():
        full = f"{key}.{argument}" if key else str(argument)
        if argument in supplied:
            yield f"{full}: is set by the program itself; remove it"
        elif argument not in legal and not open_ended:
            yield f"{full}: {name} has no argument {argument!r}{did_you_mean(argument, legal)}"
        elif argument in hints:
            yield from mistakes(full, value, hints[argument])
    if not incomplete:
        for argument in legal:
            given = argument in arguments or argument in supplied
            if parameters[argument].default is inspect.Parameter.empty and not given:
                yield f"{key}.{argument}: {name} needs a value for it".lstrip(".")
