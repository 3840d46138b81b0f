"""Train, export and evaluate: python train.py [experiment=NAME] [KEY=VALUE ...]."""

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import seed_everything
from omegaconf import DictConfig

from photon.model.checkpoints import save_export
from photon.model.photon import PhotonModel
from tasks.callbacks import checkpoint_path
from tasks.checkpointing import has_checkpoint
from tasks.datamodule import QuestionData
from tasks.entry import main
from tasks.evaluate import Evaluation, evaluate
from tasks.rundir import config_hash, is_finished, open_run, write_status
from tasks.schema import check_config, instantiate, to_plain


def run(composed: DictConfig) -> None:
    """One run: every phase in order, then the export and the evaluation."""
    config = to_plain(composed)
    check_config(config)
    run_dir = open_run(HydraConfig.get().runtime.output_dir, config)
    if is_finished(run_dir):
        print(f"{run_dir} is finished: see {run_dir / 'table.md'}. Another run: name=...")
        return
    seed_everything(config["seed"], verbose=False)
    pruner = instantiate(config["pruner"], "pruner") if config["pruner"] else None
    evaluation = instantiate_evaluation(config)
    model = instantiate(config["model"], "model", pruner=pruner)
    data = instantiate(config["dataset"], "dataset")
    *earlier, last = config["phases"]
    for phase in earlier:
        fit(config, phase, model, data, run_dir / phase)
    trainer = fit(config, last, model, data, run_dir)
    if trainer.is_global_zero:
        digest = config_hash(config)
        save_export(model, run_dir / "export", {"config_hash": digest, "name": config["name"]})
        write_status(run_dir, state="evaluating")
        evaluate(model, data, evaluation, run_dir, digest, config["seed"], name=config["name"])
        write_status(run_dir, state="finished")


def instantiate_evaluation(config: dict) -> Evaluation:
    return Evaluation(**config["evaluation"])


def fit(config: dict, phase: str, model: PhotonModel, data: QuestionData, folder: Path):
    """Train one phase in `folder`, resuming from its last checkpoint; returns the trainer."""
    task = instantiate(config["task"][phase], f"task.{phase}", model=model)
    steps = config["trainer"]["max_steps"]
    if steps > 0:
        steps = max(1, round(steps * config["phases"][phase]))
    trainer = instantiate(
        {**config["trainer"], "max_steps": steps},
        "trainer",
        callbacks=[instantiate(c, f"callbacks.{k}") for k, c in config["callbacks"].items()],
        logger=[instantiate(c, f"logger.{k}", folder=folder) for k, c in config["logger"].items()],
        default_root_dir=folder,
    )
    data.bind(model, task.reads, task.collate)
    checkpoint = checkpoint_path(folder)
    resume = str(checkpoint) if has_checkpoint(checkpoint) else None
    trainer.fit(task, datamodule=data, ckpt_path=resume)
    return trainer


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main(run, "train")
