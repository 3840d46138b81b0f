"""Loggers: metrics.csv in the run directory, always, and W&B, offline unless a key is there."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import urllib.request
import warnings
from base64 import b64encode
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger, WandbLogger

from photon.errors import InputError
from photon.files import replacing
from tasks.entry import split_overrides
from tasks.trust import redact


class CsvLog(Logger):
    """`<folder>/metrics.csv`, one row a step, kept across a resume.

    Lightning's CSVLogger deletes the file that it finds. This one reads it, and drops the rows at
    or after the first step that it is given, which a crashed run had logged beyond its checkpoint.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._rows: dict[int, dict[str, str]] = {}
        self._columns: list[str] = ["step"]
        self._dirty = False
        self._first = True

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @property
    @rank_zero_experiment
    def experiment(self) -> CsvLog:
        return self

    @rank_zero_only
    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """The configuration lies beside this file already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        step = 0 if step is None else int(step)
        if self._first:
            self._read_before(step)
            self._first = False
        self._columns += [key for key in metrics if key not in self._columns]
        row = self._rows.setdefault(step, {"step": str(step)})
        row.update({key: repr(float(value)) for key, value in metrics.items()})
        self._dirty = True

    @rank_zero_only
    def save(self) -> None:
        if not self._dirty:
            return
        with replacing(self.path) as new, open(new, "w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(self._rows[step] for step in sorted(self._rows))
        self._dirty = False

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _read_before(self, step: int) -> None:
        if not self.path.is_file():
            return
        with open(self.path, newline="") as file:
            reader = csv.DictReader(file)
            before = {int(row["step"]): row for row in reader if int(row["step"]) < step}
            self._columns = list(reader.fieldnames or ["step"])
        self._rows = {s: {k: v for k, v in row.items() if v} for s, row in before.items()}


REACH = 10.0  # seconds in which W&B must answer


def unreachable() -> str | None:
    """Why W&B cannot be logged to with the key of the environment; None where it can.

    wandb itself tries for a minute and a half, and then ends the run.
    """
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    login = b64encode(f"api:{os.environ['WANDB_API_KEY']}".encode()).decode()
    request = urllib.request.Request(
        f"{host.rstrip('/')}/graphql",
        json.dumps({"query": "query { viewer { id } }"}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Basic {login}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=REACH) as answer:
            known = json.loads(answer.read())["data"]["viewer"]
    except (OSError, ValueError, KeyError, TypeError, HTTPException) as error:
        return f"{host} cannot be reached, or does not take the key ({error})"
    return None if known else f"{host} does not know the key"


def wandb_log(
    folder: str | Path,
    project: str = "photon",
    group: str | None = None,
    tags: Sequence[str] = (),
    export: bool = False,
) -> WandbLogger:
    """W&B logger of the run in `folder`: online if WANDB_API_KEY is set, else files to sync later.

    Where W&B cannot be reached, or does not take the key, one warning says so and the run goes on
    offline. The id follows from the folder, so that a resumed run continues its own W&B run.
    export: the weights become an artifact when the run ends. Without a group, the points of a sweep
    are grouped by experiment and ablation, and the phases of a run by its name.
    """
    import wandb

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    place = _place(folder)
    offline = "WANDB_API_KEY" not in os.environ or os.environ.get("WANDB_MODE") == "offline"
    if not offline and (why := unreachable()):
        warnings.warn(f"W&B: {why}. The run is logged offline; `wandb sync` it.", stacklevel=2)
        offline = True
    logger = WandbLogger(
        project=project,
        group=group or place["group"],
        job_type=place["job_type"],
        tags=[*tags, *place["tags"]],
        name=place["name"],
        id=os.environ.get("WANDB_RUN_ID")  # an agent of a W&B sweep has chosen it
        or hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12],
        resume="allow",
        save_dir=str(folder),
        offline=offline,
        # Offline there is nothing to tell, and online the address of the run.
        settings=wandb.Settings(silent=offline),
    )
    # Lightning passes it always, and W&B warns that it means nothing any more.
    logger._wandb_init.pop("anonymous", None)
    logger.export = export
    return logger


def _place(folder: Path) -> dict[str, Any]:
    """Name, group, job type and tags of the run in `folder`, as the command line made it."""
    if not HydraConfig.initialized():
        return {"name": folder.name, "group": None, "job_type": None, "tags": []}
    hydra = HydraConfig.get()
    run = Path(hydra.runtime.output_dir)
    phase = "" if run.resolve() == folder.resolve() else folder.name
    swept = hydra.mode == RunMode.MULTIRUN
    choices = [hydra.runtime.choices.get(key) for key in ("experiment", "ablation")]
    overrides = redact(hydra.job.override_dirname)
    return {
        "name": f"{run.name}-{phase}" if phase else run.name,
        "group": "/".join(filter(None, choices)) if swept else run.name,
        "job_type": phase or hydra.job.name,
        "tags": [word[:64] for word in split_overrides(overrides)] if swept else [],
    }


def tensorboard_log(folder: str | Path) -> Logger:
    """TensorBoard's files in the run directory (`pip install tensorboard`)."""
    return _lightnings(
        "TensorBoardLogger", "tensorboard", save_dir=str(folder), name="", version=""
    )


def mlflow_log(folder: str | Path, experiment: str = "photon", uri: str | None = None) -> Logger:
    """MLflow: a server at `uri`, or files in the run directory (`pip install mlflow`)."""
    where = {"tracking_uri": uri} if uri else {"save_dir": str(Path(folder) / "mlruns")}
    name = _place(Path(folder))["name"]
    return _lightnings("MLFlowLogger", "mlflow", experiment_name=experiment, run_name=name, **where)


def _lightnings(kind: str, package: str, **options: Any) -> Logger:
    from lightning.pytorch import loggers

    try:
        return getattr(loggers, kind)(**options)
    except ModuleNotFoundError as error:
        raise InputError(
            f"logger={package}: {package} is not installed: pip install {package}, or take another"
        ) from error
