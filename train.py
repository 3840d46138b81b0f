"""Train, export and evaluate: python train.py [experiment=NAME] [KEY=VALUE ...]."""

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Trainer, seed_everything
from omegaconf import DictConfig

from photon.model.photon import PhotonModel
from tasks.callbacks import checkpoint_path
from tasks.checkpointing import has_checkpoint
from tasks.conclude import conclude
from tasks.datamodule import QuestionData
from tasks.entry import finish_loggers, main
from tasks.evaluate import Evaluation
from tasks.plan import check_fits
from tasks.precision import check_precision
from tasks.progress import StepProgress
from tasks.rundir import is_finished, open_run
from tasks.schema import build_model, check_config, check_strategy, instantiate, to_plain
from tasks.sharding import whole
from tasks.tracking import begin


def run(composed: DictConfig) -> None:
    """One run: every phase in order, then the export and the evaluation."""
    config = to_plain(composed)
    check_config(config)
    run_dir = open_run(HydraConfig.get().runtime.output_dir, config)
    if is_finished(run_dir):
        print(f"{run_dir} is finished: see {run_dir / 'table.md'}. Another run: name=...")
        return
    seed_everything(config["seed"], verbose=False)
    evaluation = Evaluation(**config["evaluation"])
    check_strategy(config["trainer"])
    data = instantiate(config["dataset"], "dataset")
    check_fits(config, data)
    model = build_model(config)
    data.bind(model).check(evaluation.split)  # now, and not after days of training
    phases = [phase for phase, share in config["phases"].items() if share]
    for phase in phases:
        folder = run_dir if phase == phases[-1] else run_dir / phase
        trainer = fit(config, phase, model, data, folder)
        model = whole(model, lambda: build_model(config))
    conclude(config, trainer, model, data, evaluation, run_dir)


def fit(config: dict, phase: str, model: PhotonModel, data: QuestionData, folder: Path) -> Trainer:
    """Train one phase in `folder`, resuming from its last checkpoint."""
    task = instantiate(config["task"][phase], f"task.{phase}", model=model)
    options = dict(config["trainer"])
    if options["max_steps"] > 0:
        options["max_steps"] = max(1, round(options["max_steps"] * config["phases"][phase]))
        options["log_every_n_steps"] = min(options["log_every_n_steps"], options["max_steps"])
    callbacks = [instantiate(c, f"callbacks.{k}") for k, c in config["callbacks"].items() if c]
    if options.get("enable_progress_bar", True):
        callbacks.append(StepProgress(f"phase {phase}"))
    finish_loggers()  # of the phase before; the last one's are told the results, too
    loggers = [instantiate(c, f"logger.{k}", folder=folder) for k, c in config["logger"].items()]
    supplied = {"callbacks": callbacks, "logger": loggers, "default_root_dir": folder}
    trainer = instantiate(options, "trainer", **supplied)
    check_precision(trainer)
    data.bind(model, task.reads, task.collate)
    checkpoint = checkpoint_path(folder)
    resume = str(checkpoint) if has_checkpoint(checkpoint) else None
    begin(loggers, config, phase)
    trainer.fit(task, datamodule=data, ckpt_path=resume)
    return trainer


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main(run, "train")
