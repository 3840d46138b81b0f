"""Evaluate an export, or score a file of answers: python eval.py ckpt=DIR | predictions=FILE."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from photon.errors import InputError
from photon.evaluation.provenance import file_hash
from photon.evaluation.shards import Shard
from tasks.datamodule import QuestionData
from tasks.entry import main
from tasks.evaluate import Evaluation, evaluate, score_files
from tasks.loading import load_model, weights_of
from tasks.rundir import config_hash, is_finished, open_run
from tasks.schema import EvalConfig, check_config, instantiate, to_plain
from tasks.tracking import begin, publish


def run(composed: DictConfig) -> None:
    """Answer or score one split; a finished run is left alone."""
    config = to_plain(composed)
    check_config(config, EvalConfig)
    if sum(bool(config.get(key)) for key in ("ckpt", "model", "predictions")) != 1:
        raise InputError(
            "give one of ckpt=FOLDER (an export), model=NAME (weights of others) and "
            "predictions=FILE (answers)"
        )
    evaluation = Evaluation(**config["evaluation"])
    data = instantiate(config["dataset"], "dataset")
    answers = config["predictions"] or []
    answers = [answers] if isinstance(answers, str) else answers
    sources = [Path(name) for name in answers] or weights_of(config)
    # The same path may hold other weights or answers by now: their content belongs to the run.
    config["content"] = " ".join(content_hash(source) for source in sources)
    shard = Shard.from_environment()
    run_dir = open_run(HydraConfig.get().runtime.output_dir, config)
    if is_finished(run_dir):
        print(f"{run_dir} is finished: see {run_dir / 'table.md'}. Another run: name=...")
        return
    digest = config_hash(config)
    if answers:
        if shard.rank == 0:  # nothing to divide
            score_files(answers, data, evaluation, run_dir, digest)
            track(config, run_dir, data, evaluation.split)
        return
    model = load_model(config)
    named = {"checkpoint": config["ckpt"] or config["model"]["pretrained"]}
    done = evaluate(model, data, evaluation, run_dir, digest, config["seed"], shard, **named)
    if done is not None:
        track(config, run_dir, data, evaluation.split, model)


def track(config: dict, run_dir: Path, data: QuestionData, split: str, model=None) -> None:
    """Tell the loggers of the configuration, if any, what came out."""
    nodes = (config.get("logger") or {}).items()
    loggers = [instantiate(node, f"logger.{name}", folder=run_dir) for name, node in nodes]
    begin(loggers, config, "eval")
    publish(loggers, run_dir, data, split, model)


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
