"""The configuration against the code, before anything is built or any weight is read.

Every `_target_` names a callable; its arguments are bound to that callable's own signature, so that
there is no second description of the code to keep in step. All mistakes come out in one message.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from hydra.errors import InstantiationException
from hydra.utils import instantiate as hydra_instantiate
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import tasks.precision  # noqa: F401  (registers a resolver)
from photon.cost.plan import Assumed
from photon.errors import InputError, did_you_mean
from tasks.annotations import fits, literals, options, spell

# Packages whose public classes and functions a configuration may name. A name counts by where it is
# defined: `tasks.schema.importlib.import_module` is spelt like ours and is not.
ALLOWED_PACKAGES = ("photon", "tasks", "lightning.pytorch", "torch.optim")
# Hydra's own keys beside `_target_`; positional arguments are not for configuration files.
HYDRA_KEYS = frozenset({"_target_", "_partial_"})

# Top-level keys that are one target, and those that hold named targets. An empty pruner is none.
PARTS = ("model", "dataset", "pruner", "trainer")
GROUPS = ("task", "callbacks", "logger")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The top level of `conf/train.yaml`: what `train.py` reads."""

    name: str
    seed: int
    phases: dict[str, float]
    model: dict[str, Any]
    dataset: dict[str, Any]
    task: dict[str, Any]
    pruner: dict[str, Any]
    trainer: dict[str, Any]
    callbacks: dict[str, Any]
    logger: dict[str, Any]
    evaluation: dict[str, Any]
    plan: Assumed


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """The top level of `conf/eval.yaml`: what `eval.py` reads."""

    name: str
    seed: int
    dataset: dict[str, Any]
    evaluation: dict[str, Any]
    ckpt: str | None = None
    model: dict[str, Any] | None = None
    pruner: dict[str, Any] | None = None
    predictions: str | list[str] | None = None
    device: str = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    attention: Literal["auto", "sdpa", "flash", "varlen"] = "auto"


def supplied_arguments(config: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Arguments that `train.py` itself hands to the targets of a `RunConfig`, by key."""
    ours = {
        f"logger.{name}": ("folder",)
        for name, node in config.get("logger", {}).items()
        if str(node.get("_target_")).startswith("tasks.")
    }
    phases = {f"task.{name}": ("model",) for name in config.get("task", {})}
    trainer = {"trainer": ("callbacks", "logger", "default_root_dir"), "model": ("pruner",)}
    return trainer | phases | ours


def to_plain(config: DictConfig | ListConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Plain dicts, lists and scalars with every interpolation resolved.

    Raises InputError that lists all mandatory (`???`) keys without a value, or names the key whose
    interpolation fails.
    """
    if not OmegaConf.is_config(config):
        config = OmegaConf.create(dict(config))
    try:
        missing = ", ".join(sorted(OmegaConf.missing_keys(config)))
        if missing:
            raise InputError(f"no value for {missing}. Give each on the command line as KEY=VALUE.")
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "configuration"
        first = str(error).splitlines()[0]
        raise InputError(f"{key}: {first}. Correct the reference that this value makes.") from error


def check_config(config: Mapping[str, Any], schema: type = RunConfig) -> None:
    """Bind the whole composed configuration; InputError with all mistakes at once.

    `config` is plain (see `to_plain`), `schema` the dataclass of its top level.
    """
    supplied = supplied_arguments(config)
    mistakes = list(_bind("", config, schema, ()))
    mistakes += _incomplete(config)
    for key, node in config.items():
        mistakes += _walk(str(key), node, supplied)
    report(mistakes)


def report(mistakes: Sequence[str]) -> None:
    """Raise one InputError that lists `mistakes`, if there are any."""
    if mistakes:
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''} in the configuration"
        lines = "".join(f"\n  {line}" for line in mistakes)
        raise InputError(f"{count}:{lines}\nNothing was built. Correct the keys named here.")


def _incomplete(config: Mapping[str, Any]) -> Iterator[str]:
    """Phases that are not there, and values for parts that were not chosen."""
    tasks = config.get("task", {})
    for phase, share in config.get("phases", {}).items():
        if share and phase not in tasks:
            there = ", ".join(tasks)
            yield f"phases.{phase}: there is no such phase in task=[{there}]; add it there"
    nodes = {key: config[key] for key in PARTS if key in config}
    nodes |= {f"{g}.{k}": node for g in GROUPS for k, node in config.get(g, {}).items()}
    for key, node in nodes.items():
        if node and "_target_" not in node:
            yield f"{key}: has values but no _target_ ({', '.join(node)}); choose one, or drop them"


def instantiate(node: Mapping[str, Any], key: str = "", **supplied: Any) -> Any:
    """Build `node` with Hydra after the same check; plain containers reach the callable.

    Refuses any `_target_` off the allowlist, at every depth. A ValueError of the callable itself
    (a value out of range) becomes an InputError that names `key`.
    """
    report(list(_walk(key, node, {key: tuple(supplied)})))
    try:
        # Hydra would turn supplied dataclasses into dictionaries, so they are given afterwards.
        build = hydra_instantiate({**node, "_partial_": True}, _convert_="all")
        return partial(build, **supplied) if node.get("_partial_") else build(**supplied)
    except InstantiationException as error:
        fault: BaseException = error.__cause__ or error
    except ValueError as error:
        fault = error
    if isinstance(fault, ValueError):
        where = f"{key}: " if key and key not in str(fault) else ""
        raise InputError(f"{where}{fault}") from fault
    raise fault


def build_model(config: Mapping[str, Any]) -> Any:
    """The model that a run starts from, with its pruner."""
    pruner = instantiate(config["pruner"], "pruner") if config["pruner"] else None
    return instantiate(config["model"], "model", pruner=pruner)


def check_strategy(trainer: Mapping[str, Any]) -> None:
    """Raise InputError where a strategy's library is not here: before weights are read."""
    if isinstance(trainer["strategy"], Mapping):
        try:
            instantiate(trainer["strategy"], "trainer.strategy")
        except MisconfigurationException as error:
            raise InputError(
                f"trainer.strategy: {error} DS_BUILD_OPS=0 .venv/bin/pip install "
                "--no-build-isolation -r requirements-deepspeed.lock does so (`make` tried it and "
                "said why not); trainer=ddp and trainer=fsdp need nothing more."
            ) from error


def find_target(path: str) -> Callable[..., Any]:
    """The callable named by `path`. Raises ValueError when it is absent or not allowed."""
    if not _named_as_allowed(path):
        legal = ", ".join(f"{name}.*" for name in ALLOWED_PACKAGES)
        raise ValueError(f"target {path!r} is not allowed; legal targets are {legal}")
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
        return _checked_callable(path, found)
    raise ValueError(f"target {path!r}: there is no module {parts[0]!r}")


def _named_as_allowed(path: str) -> bool:
    private = any(part.startswith("_") or not part.isidentifier() for part in path.split("."))
    inside = any(path.startswith(f"{package}.") for package in ALLOWED_PACKAGES)
    return inside and not private


def _checked_callable(path: str, found: Any) -> Callable[..., Any]:
    home = getattr(found, "__module__", None) or ""
    if not callable(found):
        raise ValueError(f"target {path!r} is a {type(found).__name__}, not a class or function")
    owned = any(home == package or home.startswith(f"{package}.") for package in ALLOWED_PACKAGES)
    if not owned:
        raise ValueError(f"target {path!r} is not allowed: it is defined in {home!r}")
    return found


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


def _check_target(key: str, node: Mapping[str, Any], supplied: Sequence[str]) -> Iterator[str]:
    try:
        target = find_target(str(node["_target_"]))
    except ValueError as error:
        yield f"{key}._target_: {error}"
        return
    arguments = {name: value for name, value in node.items() if name not in HYDRA_KEYS}
    for name in [name for name in arguments if str(name).startswith("_")]:
        yield f"{key}.{name}: only {' and '.join(sorted(HYDRA_KEYS))} may start with an underscore"
        del arguments[name]
    yield from _bind(key, arguments, target, supplied, incomplete=bool(node.get("_partial_")))


def _bind(
    key: str,
    arguments: Mapping[str, Any],
    target: Callable[..., Any],
    supplied: Sequence[str],
    incomplete: bool = False,
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
    hints = type_hints(target)
    for argument, value in arguments.items():
        full = f"{key}.{argument}" if key else str(argument)
        if argument in supplied:
            yield f"{full}: is set by the program itself; remove it"
        elif argument not in legal and not open_ended:
            yield f"{full}: {name} has no argument {argument!r}{did_you_mean(argument, legal)}"
        elif argument in hints:
            yield from _check_value(full, value, hints[argument])
    if not incomplete:
        for argument in legal:
            given = argument in arguments or argument in supplied
            if parameters[argument].default is inspect.Parameter.empty and not given:
                yield f"{key}.{argument}: {name} needs a value for it".lstrip(".")


def type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotations by argument; empty where a library's annotations cannot be evaluated."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        if dataclasses.is_dataclass(target):
            return typing.get_type_hints(target)
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}


def _check_value(key: str, value: Any, hint: Any) -> Iterator[str]:
    """Mistakes of one plain value under an annotation; a dataclass is bound in its turn."""
    if isinstance(value, Mapping) and "_target_" not in value:
        inner = [option for option in options(hint) if dataclasses.is_dataclass(option)]
        if inner:
            yield from _bind(key, value, inner[0], ())
            return
    if not fits(value, hint):
        legal = spell(hint)
        yield f"{key}: {value!r} is not {legal}{did_you_mean(value, literals(hint))}"
