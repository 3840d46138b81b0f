"""Evaluate an export, or score a file of answers: python eval.py ckpt=DIR | predictions=FILE."""

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from photon.errors import InputError
from photon.evaluation.report import file_hash
from photon.model.checkpoints import load_export
from tasks.entry import main
from tasks.evaluate import Evaluation, evaluate, score_file
from tasks.rundir import config_hash, is_finished, open_run
from tasks.schema import EvalConfig, check_config, instantiate, to_plain


def run(composed: DictConfig) -> None:
    """Answer or score one split; a finished run is left alone."""
    config = to_plain(composed)
    check_config(config, EvalConfig)
    if (config["ckpt"] is None) == (config["predictions"] is None):
        raise InputError("give one of ckpt=FOLDER (an export) and predictions=FILE (JSONL answers)")
    evaluation = Evaluation(**config["evaluation"])
    data = instantiate(config["dataset"], "dataset")
    source = Path(config["ckpt"] or config["predictions"])
    # The same path may hold other weights or answers by now: their content belongs to the run.
    config["content"] = content_hash(source)
    run_dir = open_run(HydraConfig.get().runtime.output_dir, config)
    if is_finished(run_dir):
        print(f"{run_dir} is finished: see {run_dir / 'table.md'}. Another run: name=...")
        return
    digest = config_hash(config)
    if config["predictions"] is not None:
        score_file(config["predictions"], data, evaluation.split, run_dir, digest)
        return
    device = config["device"]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_export(config["ckpt"]).to(device)
    evaluate(model, data, evaluation, run_dir, digest, config["seed"], checkpoint=config["ckpt"])


def content_hash(source: Path) -> str:
    """SHA-256 of a file, or of an export's weights and settings. InputError where absent."""
    if source.is_file():
        return file_hash(source)
    files = sorted([*source.glob("*.safetensors"), *source.glob("*.json")])
    if not files:
        raise InputError(f"{source}: no such file or export folder. Check ckpt or predictions.")
    return " ".join(file_hash(file)[:16] for file in files)


if __name__ == "__main__":
    main(run, "eval")
