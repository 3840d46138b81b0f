"""How train.py and eval.py start: compose, run, and report a mistake of the user in one line."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from photon.errors import InputError, did_you_mean
from photon.files import write_text
from tasks.interruption import Terminated, end_on_sigterm
from tasks.quiet import quiet
from tasks.rundir import write_status
from tasks.trust import guard, redact

CONF = Path(__file__).resolve().parent.parent / "conf"
LONGEST = 150  # characters of a folder's name; file systems end at 255 bytes


def main(task: Callable[[DictConfig], Any], config_name: str, conf: Path = CONF) -> None:
    """Run `task` on the configuration that the command line composes.

    Exits 1 on a mistake, of the user or of the program, after one line about it, and 143 on
    SIGTERM. In a sweep the other points still run. HYDRA_FULL_ERROR=1 gives every trace in full.
    """
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        hydra.main(version_base="1.3", config_path=str(conf), config_name=config_name)(task)()
        return
    end_on_sigterm()
    failures: list[str] = []
    # Hydra then raises what it would else print in its own words, and leaves the wording to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    guarded = hydra.main(version_base="1.3", config_path=str(conf), config_name=config_name)(
        _reporting(task, failures, swept := set())
    )
    try:
        guarded()
    except (HydraException, OmegaConfBaseException) as error:
        failures.append(explain(error, config_name, sys.argv[1:], conf))
        _print_error(failures[-1])
    except (InputError, OSError) as error:
        failures.append(one_line(error))
        _print_error(failures[-1])
    except RuntimeError as error:
        if "Unknown plugin class" not in str(error):
            raise
        failures.append(
            f"{error}: hydra/launcher=slurm needs hydra-submitit-launcher, which is not installed: "
            "pip install 'hydra-submitit-launcher>=1.2,<2'"
        )
        _print_error(failures[-1])
    for folder in swept:
        from tasks.sweep import close_sweep

        close_sweep(folder)
    if failures:
        sys.exit(1)


def compose(words: Sequence[str], config_name: str = "train", conf: Path = CONF) -> dict[str, Any]:
    """The plain, checked configuration of a command line, for commands other than train.py.

    Raises InputError for what is wrong with the words or the values.
    """
    from tasks.schema import check_config, to_plain

    try:
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(conf), version_base="1.3"):
            config = to_plain(hydra.compose(config_name, list(words)))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(explain(error, config_name, words, conf)) from error
    check_config(config)
    return config


def point_name(overrides: str) -> str:
    """Folder of a sweep's point: its overrides, "key=value,key=value", as far as they can be read.

    Values with a slash or of more than 40 characters are left to a hash over all of them, which
    keeps two points apart.
    """
    parts = split_overrides(overrides)
    short = [part for part in parts if "/" not in part and len(part) <= 40]
    while len(",".join(short)) > LONGEST:
        short.pop()
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:8]
    return redact(",".join(short if short == parts else [*short, digest]))


def split_overrides(overrides: str) -> list[str]:
    """["key=value", ...] of Hydra's "key=value,key=value", whose values may hold commas."""
    return re.split(r",(?=[\w.@/+~]+=)", overrides) if overrides else []


guard()
OmegaConf.register_new_resolver("point_name", point_name, replace=True)


def _reporting(
    task: Callable[[DictConfig], Any], failures: list[str], swept: set[Path]
) -> Callable[[DictConfig], Any]:
    """`task` that reports a user's mistake and lets a sweep go on; always closes its loggers.

    swept: takes the folder of a sweep.
    """

    def run(config: DictConfig) -> Any:
        # Ranks that Lightning starts from here inherit the environment and report by themselves.
        del os.environ["HYDRA_FULL_ERROR"]
        quiet()  # Hydra has just set up logging
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            swept.add(Path(HydraConfig.get().sweep.dir))
        try:
            return task(config)
        except Exception as error:
            job = HydraConfig.get()
            point = f"{job.job.override_dirname}: " if job.mode == RunMode.MULTIRUN else ""
            failures.append(f"{point}{one_line(error, Path(job.runtime.output_dir))}")
            _print_error(failures[-1])
        except Terminated:
            _note_the_end(Path(HydraConfig.get().runtime.output_dir))
            raise
        finally:
            os.environ["HYDRA_FULL_ERROR"] = "1"
            finish_loggers()

    run.__module__ = task.__module__
    return run


def one_line(error: Exception, folder: Path = Path("outputs")) -> str:
    """What a user reads of any error; the trace of one that was not foreseen goes to error.txt."""
    if isinstance(error, InputError | FloatingPointError):
        return str(error)
    if isinstance(error, OSError):
        where = error.filename or folder
        return f"{where}: {error.strerror or error}. Check path, permissions and free disk space."
    kind = type(error).__name__
    first = (str(error).strip() or kind).splitlines()[0]
    if isinstance(error, MemoryError) or re.search("OutOfMemory|can't allocate", kind + first):
        return (
            f"not enough memory ({first[:300]}). Set dataset.volumes_per_batch, "
            "dataset.questions_per_volume or evaluation.volumes_per_batch lower."
        )
    trace = redact("".join(traceback.format_exception(error)))
    try:
        write_text(folder / "error.txt", trace)
    except InputError:
        print(trace, file=sys.stderr)
    return (
        f"{kind}: {first[:300]}. This was not foreseen: its trace is in "
        f"{folder / 'error.txt'}. What was finished is kept; the same command resumes."
    )


def _note_the_end(folder: Path) -> None:
    """Say in the status of a run that has one that it was interrupted; training said so itself."""
    if (folder / "status.json").is_file() and os.environ.get("LOCAL_RANK", "0") == "0":
        known = json.loads((folder / "status.json").read_text())
        if known.get("state") not in ("interrupted", "finished"):
            write_status(folder, **{**known, "state": "interrupted"})
    print("interrupted; what was finished is kept, and the same command resumes", file=sys.stderr)


def finish_loggers() -> None:
    """End this process's W&B run: the points of a sweep would otherwise flow into one."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


def explain(error: Exception, config_name: str, argv: Sequence[str], conf: Path) -> str:
    """One message for what Hydra or OmegaConf found wrong with the command line or the files."""
    text = str(error)
    wrong = re.search(r"Could not override '([^']+)'", text)
    if wrong is not None:
        key = wrong.group(1)
        return f"{key}: there is no such key{_similar_key(key, config_name, argv, conf)}"
    absent = re.search(r"Could not find '([^']+)'", text)
    if absent is not None:
        options = re.findall(r"\n\t([\w.@-]+)", text.split("Config search path")[0])
        group, _, name = absent.group(1).rpartition("/")
        return f"{group}={name}: there is no such file{did_you_mean(name, options)}"
    cause = error.__cause__
    lines = [line.strip() for line in f"{text}\n{cause or ''}".splitlines()]
    noise = ("To append", "object_type", "See https", "^")
    kept = [line for line in lines if line and not line.startswith(noise)]
    override = getattr(error, "override", None)
    if override and override not in text:
        kept = [f"{override}: cannot be read as KEY=VALUE; quote values with brackets", *kept]
    return "; ".join(dict.fromkeys(kept))


def _similar_key(key: str, config_name: str, argv: Sequence[str], conf: Path) -> str:
    """The closest key of the configuration that the group choices in `argv` compose."""
    choices = [a for a in argv if re.fullmatch(r"[\w/@]+=[^=]+", a) and "." not in a.split("=")[0]]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf), version_base="1.3"):
        try:
            keys = _keys(OmegaConf.to_container(hydra.compose(config_name, choices)))
        except (ConfigCompositionException, OmegaConfBaseException):
            return "; `--cfg job` prints all keys"
    return did_you_mean(key, keys) or "; `--cfg job` prints all keys"


def _keys(node: Any, path: str = "") -> list[str]:
    """Full keys of all nested mappings of a plain configuration."""
    if not isinstance(node, dict):
        return [path]
    below = [_keys(child, f"{path}.{name}" if path else name) for name, child in node.items()]
    return [key for keys in ([path] if path else [], *below) for key in keys]


def _print_error(message: str) -> None:
    print(f"error: {redact(message.strip())}", file=sys.stderr)
