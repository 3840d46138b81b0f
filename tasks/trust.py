"""What happens to a configuration before our own check sees it: Hydra's part in it.

Hydra instantiates callbacks, loggers, sweepers and launchers from its own node, makes the run's
directory and resolves interpolations, all before the program begins. So a composed configuration is
looked at as soon as it is composed: `guard` puts that into Hydra's loader, which the command line,
every point of a sweep and `hydra.compose` go through.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache, wraps
from pathlib import Path
from typing import Any

import hydra.conf
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

from photon.errors import InputError

LONGEST_NAME = 200
SECRET = 4  # characters from which on a value from the environment is looked for within texts
_PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")  # as Hydra itself asks
# A launcher's keys that are commands or programs: ours alone.
_COMMANDS = ("setup", "python", "srun_args", "additional_parameters")
_REFERENCE = re.compile(r"\$\{[\w.\[\]/]+\}")
_secrets: dict[str, str] = {}  # value to the name of its variable


def guard() -> None:
    """Have Hydra's loader refuse what a configuration must not do, and forget unsafe resolvers."""
    OmegaConf.clear_resolver("oc.create")  # makes nodes out of text
    OmegaConf.clear_resolver("oc.decode")
    OmegaConf.register_new_resolver("oc.env", _environment, replace=True)
    load = ConfigLoaderImpl.load_configuration
    if hasattr(load, "__wrapped__"):
        return

    @wraps(load)
    def load_checked(self: Any, *words: Any, **options: Any) -> DictConfig:
        config = load(self, *words, **options)
        if wrong := [*check_hydra(config.get("hydra")), *check_name(_name(config))]:
            raise InputError("\n  ".join(wrong))
        return config

    ConfigLoaderImpl.load_configuration = load_checked


def check_name(name: Any) -> Iterator[str]:
    """Mistakes of a run's name, which is a path below outputs/."""
    text = name if isinstance(name, str) else ""
    parts = text.split("/")
    plain = text.isprintable() and all(part and part.strip(". ") for part in parts)
    if name != "???" and not (plain and "\\" not in text and len(text) <= LONGEST_NAME):
        shown = f"{name!r}" if len(str(name)) < 80 else f"{str(name)[:60]!r}..."
        yield (
            f"name: {shown} is not a folder below outputs/; give 1 to {LONGEST_NAME} characters, "
            "not absolute, without '..'"
        )


def _name(config: DictConfig) -> Any:
    node = OmegaConf.to_container(config, resolve=False).get("name", "???")
    if isinstance(node, str) and "${" in node:
        return OmegaConf.select(config, "name", throw_on_resolution_failure=False) or "???"
    return node


def check_hydra(node: DictConfig | None) -> Iterator[str]:
    """Mistakes of the node `hydra`: whatever in it makes Hydra call or run something."""
    if node is None:
        return
    plain = OmegaConf.to_container(node, resolve=False)
    for key in ("callbacks", "job.env_set"):
        if OmegaConf.select(node, key):
            yield f"hydra.{key}: is not for configuration files; remove it"
    for key in ("job_logging", "hydra_logging"):
        if not any(_apart_from_levels(plain[key]) == known for known in _logging_options(key)):
            yield f"hydra.{key}: only hydra/{key}=default, disabled, none or stdout"
    for key in ("sweeper", "launcher"):
        yield from _check_plugin(f"hydra.{key}", plain[key])
    for key in ("output_subdir", "job.name"):
        value = OmegaConf.select(node, key)
        if value is not None and not re.fullmatch(r"\.?\w[\w.-]*", str(value)):
            yield f"hydra.{key}: {value!r} is not a plain name"


def _check_plugin(key: str, plugin: Any) -> Iterator[str]:
    plugin = plugin or {}
    if not str(plugin.get("_target_", _PLUGINS[0])).startswith(_PLUGINS):
        yield f"{key}._target_: {plugin['_target_']!r} is not a plugin of Hydra"
    for name in _COMMANDS:
        if plugin.get(name):
            yield f"{key}.{name}: runs commands; write it into conf/hydra/launcher"
    for name, value in _leaves({k: v for k, v in plugin.items() if k != "_target_"}, key):
        if "._target_" in name:
            yield f"{name}: nothing is built here; remove it"
        elif isinstance(value, str) and re.search(r"\$\{(?!hydra[.:]|point_name:)", value):
            yield f"{name}: {value!r} refers to what is not Hydra's"


@cache
def _logging_options(key: str) -> list[Any]:
    folder = Path(hydra.conf.__file__).parent / "hydra" / key
    return [_apart_from_levels(yaml.safe_load(f.read_text())) for f in folder.glob("*.yaml")]


def _apart_from_levels(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {k: _apart_from_levels(v) for k, v in node.items() if k != "level"}
    return node


def written_targets(raw: Any, plain: Any, key: str = "") -> Iterator[str]:
    """A mistake for every `_target_` of the resolved configuration that was not written as one.

    raw: the same configuration before interpolations were resolved. A reference to another node
    (`${task.describe.optimizer}`) stands for what is written there.
    """
    if isinstance(raw, str) and isinstance(plain, Mapping | list):
        if not _REFERENCE.fullmatch(raw):
            yield f"{key}: {raw!r} makes a node out of text; write the node itself"
    elif isinstance(plain, Mapping):
        if "${" in str(raw.get("_target_", "")):
            yield f"{key}._target_: {raw['_target_']!r} is not a name; write the name itself"
        for name, child in plain.items():
            yield from written_targets(raw[name], child, f"{key}.{name}" if key else str(name))
    elif isinstance(plain, list):
        for index, child in enumerate(plain):
            yield from written_targets(raw[index], child, f"{key}[{index}]")


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for name, child in node.items():
            yield from _leaves(child, f"{key}.{name}")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _leaves(child, f"{key}[{index}]")
    else:
        yield key, node


def _environment(name: str, *default: Any) -> Any:
    """`oc.env`, which remembers what it gave: such values may be secrets."""
    value = oc.env(name, *default)
    if value and value == os.environ.get(name):
        _secrets[value] = name
    return value


def redact(value: Any) -> Any:
    """A value, or all within it, with what came from the environment named and not shown."""
    if isinstance(value, Mapping):
        return {redact(key): redact(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(redact, value))
    if isinstance(value, str):
        for secret in sorted(_secrets, key=len, reverse=True):
            if value == secret or len(secret) >= SECRET:
                value = value.replace(secret, f"<environment: {_secrets[secret]}>")
    return value
