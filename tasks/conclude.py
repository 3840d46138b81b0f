"""The end of a training: the export of one process, the answers of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer

from photon.evaluation.shards import Shard
from photon.model.photon import PhotonModel
from photon.weights.checkpoints import save_export
from tasks.datamodule import QuestionData
from tasks.evaluate import Evaluation, evaluate
from tasks.progress import say
from tasks.rundir import config_hash, write_status
from tasks.tracking import publish


def conclude(
    config: Mapping[str, Any],
    trainer: Trainer,
    model: PhotonModel,
    data: QuestionData,
    evaluation: Evaluation,
    run_dir: Path,
) -> None:
    """Export the trained model and evaluate it, each process its part of the questions.

    Every process must call it with all of the weights.
    """
    digest, part = config_hash(config), Shard(trainer.global_rank, trainer.world_size)
    if part.rank == 0:
        told = {"config_hash": digest, "name": config["name"], "trained_on": data.trained_on()}
        save_export(model, run_dir / "export", told)
        say("export", str(run_dir / "export"))
        write_status(run_dir, state="evaluating")
    meet = meeting()
    model.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
    evaluate(model, data, evaluation, run_dir, digest, config["seed"], part, name=config["name"])
    meet()  # the first process started the others, and ends last
    if part.rank == 0:
        publish(trainer.loggers, run_dir, data, evaluation.split, model)


def meeting() -> Callable[[], None]:
    """A point where the processes wait for each other, for days if need be; all must ask for it.

    Their parts of an evaluation may end hours apart, and a training's own barrier gives up after
    half an hour. A process that died is an error for the others.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return lambda: None
    group = dist.new_group(backend="gloo", timeout=timedelta(days=7))
    return lambda: dist.barrier(group)
