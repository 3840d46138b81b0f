"""The run directory: found again by its name, then resumed, or left alone if it is finished.

A directory belongs to one configuration. It is stored as run.json when training starts; a later
call with other values is refused rather than mixed in.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from photon.errors import InputError
from photon.evaluation.shards import Shard
from photon.files import hold, read_json, write_json, writing
from tasks.trust import redact

# Keys that change where a run reports, how fast it goes or what memory it takes, and not what it
# computes, but for the order of sums. `QuestionData` sees to it that devices and accumulation
# change together; `_checkpoints`, that the strategy can read what was written.
NEUTRAL_KEYS = (
    "logger",
    "plan",
    "model.checkpointing",
    "model.attention",
    "model.device",
    "trainer.accelerator",
    "trainer.accumulate_grad_batches",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.plugins",
    "trainer.precision",
    "trainer.deterministic",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "dataset.workers",
)


_held: dict[Path, int] = {}  # lock files of this process
_WAY_OUT = "Delete the folder to start again, or give this run a name of its own (name=...)"


def open_run(path: str | Path, config: Mapping[str, Any]) -> Path:
    """The run directory at `path`, made for `config` or checked to belong to it.

    The folder is this process's until it ends; where several processes share a run, the first's.

    Raises InputError that lists the keys in which the stored configuration differs, or names the
    process that is at work there.
    """
    folder, config = Path(path), redact(config)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = folder.resolve() / ".lock"
    first = Shard.from_environment().rank == 0 and os.environ.get("LOCAL_RANK", "0") == "0"
    if first and lock not in _held:
        _held[lock] = hold(lock)
    stored = folder / "run.json"
    if not stored.is_file():
        write_json(stored, dict(config))
        return folder
    # Through JSON once, so that tuples and lists compare alike.
    now, before = json.loads(json.dumps(dict(config))), read_json(stored, _WAY_OUT)
    now, before = ({**_flat(one), "checkpoints": _checkpoints(one)} for one in (now, before))
    different = sorted(
        key
        for key in now.keys() | before.keys()
        if now.get(key) != before.get(key) and not _neutral(key)
    )
    if different:
        lines = "".join(f"\n  {k}: {before.get(k)!r} -> {now.get(k)!r}" for k in different[:10])
        more = f"\n  and {len(different) - 10} more" if len(different) > 10 else ""
        raise InputError(
            f"{folder} holds a run of another configuration:{lines}{more}\n"
            f"Give this run a name of its own (name=...), or delete {folder} to start again."
        )
    return folder


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 over the values that decide what a run computes."""
    plain = json.loads(json.dumps(redact(config)))
    flat = {key: value for key, value in _flat(plain).items() if not _neutral(key)}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()


def is_finished(folder: str | Path) -> bool:
    """Whether a run has its final result; everything else can be resumed."""
    folder = Path(folder)
    try:
        state = json.loads((folder / "status.json").read_text())["state"]
    except (OSError, ValueError, KeyError):
        return False
    return state == "finished" and (folder / "metrics.json").is_file()


def write_status(folder: str | Path, **fields: Any) -> None:
    """Replace status.json; adds the time of writing (UTC)."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(Path(folder) / "status.json", {**redact(fields), "updated": stamp})


def _checkpoints(config: Mapping[str, Any]) -> str:
    """What a run's checkpoints are: DeepSpeed's folders, FSDP's, or plain files."""
    strategy = config.get("trainer", {}).get("strategy")
    target = strategy.get("_target_", "") if isinstance(strategy, dict) else ""
    own = ("DeepSpeed", "FullySharded")
    return next((f"of {name}" for name in own if name in target), "plain files")


def _neutral(key: str) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in NEUTRAL_KEYS)


def _flat(node: Any, key: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} to {"a.b": 1}; lists are values."""
    return dict(_leaves(node, key))


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, child in node.items():
            yield from _leaves(child, f"{key}.{name}" if key else str(name))
    else:
        yield key, node
