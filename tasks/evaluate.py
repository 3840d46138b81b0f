"""A model, or a file of answers, on a split: predictions, controls, metrics, table and figures."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from photon.analysis.figures import save_figures
from photon.analysis.kept import draw_kept
from photon.errors import InputError
from photon.evaluation.conditions import CONTROLS, Evaluator
from photon.evaluation.controls import constant_control, shuffled_volumes
from photon.evaluation.predictions import score_predictions_file
from photon.evaluation.report import build_metrics, collect_provenance, write_report
from photon.model.generate import generate
from photon.model.photon import PhotonModel
from photon.questions.dataset import Collate, VolumeQuestions
from photon.questions.record import Record
from tasks.datamodule import QuestionData
from tasks.progress import bars, say
from tasks.rundir import write_status


@dataclass(frozen=True)
class Evaluation:
    """The `evaluation` node of the configuration.

    Args:
        split: of the data set.
        volumes_per_batch, max_new_tokens: see `Evaluator`.
        keep: a budget (share or count) in place of the learned threshold.
        controls: of CONTROLS; the constant answer is always computed.
    """

    split: str = "test"
    volumes_per_batch: int = 4
    max_new_tokens: int = 16
    keep: float | int | None = None
    controls: Sequence[str] = CONTROLS

    def __post_init__(self) -> None:
        unknown = [name for name in self.controls if name not in CONTROLS]
        if unknown:
            raise InputError(f"evaluation.controls={unknown}: legal values are {list(CONTROLS)}")
        for key in ("volumes_per_batch", "max_new_tokens"):
            if getattr(self, key) < 1:
                raise InputError(f"evaluation.{key}={getattr(self, key)}: must be at least 1")


def evaluate(
    model: PhotonModel,
    data: QuestionData,
    evaluation: Evaluation,
    run_dir: Path,
    config_hash: str,
    seed: int,
    **provenance: Any,
) -> dict[str, Any]:
    """Answer the split under every condition and write the report; continues where it stopped."""
    data.bind(model.eval())
    records = data.prepare_volumes(evaluation.split)
    data_hash = data.data_hash(evaluation.split)
    controls = possible_controls(evaluation.controls, model, records)
    started = time.perf_counter()
    with bars() as progress:
        tasks: dict[str, Any] = {}

        def advance(condition: str, done: int, total: int) -> None:
            if condition not in tasks:
                tasks[condition] = progress.add_task(condition, total=total, figures="")
            progress.update(tasks[condition], completed=done)

        evaluator = Evaluator(
            model,
            records,
            data.store,
            run_dir,
            data.root,
            # Text that is stored beside the answers and must not change between two calls.
            fingerprint={"config": config_hash, "data": data_hash},
            volumes_per_batch=evaluation.volumes_per_batch,
            max_new_tokens=evaluation.max_new_tokens,
            keep=evaluation.keep,
            seed=seed,
            progress=advance,
        )
        rows = evaluator.run("photon")
        answers = {name: evaluator.run(name) for name in controls}
    say("evaluation", f"{len(rows)} questions under {1 + len(controls)} conditions", started)
    metrics = build_metrics(
        rows,
        answers,
        constant_control(records, training_answers(data)),
        collect_provenance(config_hash, data_hash, **provenance),
        seed=seed,
    )
    draw_overlay(model, data, evaluation.split, rows, run_dir)
    finish(run_dir, metrics)
    return metrics


def possible_controls(
    wanted: Sequence[str], model: PhotonModel, records: Sequence[Record]
) -> list[str]:
    """The controls that this model and these volumes allow; a warning says what is left out."""
    impossible = {}
    if model.pruner is None:
        impossible["random_keep"] = "the model does not prune"
    try:
        shuffled_volumes(records)
    except InputError as error:
        impossible["shuffled_volume"] = str(error).split(". ")[0]
    for name in [name for name in wanted if name in impossible]:
        warnings.warn(f"control {name} is left out: {impossible[name]}", stacklevel=2)
    return [name for name in wanted if name not in impossible]


def training_answers(data: QuestionData) -> list | None:
    """The training questions, whose majorities the constant control uses; None without any."""
    try:
        return data.records("train")
    except ValueError:
        return None


def finish(run_dir: Path, metrics: Mapping[str, Any], own: str = "photon") -> None:
    """Write and print the report; the status, written last, marks a run as finished."""
    table = write_report(run_dir, metrics, own=own)
    save_figures(run_dir, own=own)
    write_status(run_dir, state="finished")
    print(f"\n{table}")
    pictures = ", ".join(sorted(path.name for path in (run_dir / "figures").glob("*.png")))
    say("results", f"{run_dir} (table.md, metrics.json, predictions.jsonl, figures: {pictures})")


def score_file(
    predictions: str, data: QuestionData, split: str, run_dir: Path, config_hash: str
) -> dict[str, Any]:
    """Score any model's answers as ours are scored (`eval.py predictions=FILE`)."""
    records = data.records(split)
    rows, _ = score_predictions_file(predictions, records)
    metrics = build_metrics(
        rows,
        {},
        constant_control(records, training_answers(data)),
        collect_provenance(config_hash, data.data_hash(split), predictions=predictions),
    )
    finish(run_dir, metrics, own="file")
    return metrics


def draw_overlay(
    model: PhotonModel,
    data: QuestionData,
    split: str,
    rows: Sequence[Mapping[str, Any]],
    run_dir: Path,
) -> None:
    """figures/overlay.png: what the first right answer about an organ with a mask kept."""
    told = [row for row in rows if row.get("coverage") is not None]
    told.sort(key=lambda row: row["prediction"] != row["answer"])
    if not told or model.pruner is None:
        return
    record = next(r for r in data.records(split) if r.id == told[0]["id"])
    item = VolumeQuestions([record], data.store, data.root, with_labels=True)[0]
    device = next(model.parameters()).device
    batch = Collate(model.builder, model.tokenizer, False)([item]).to(device)
    with torch.no_grad():
        generation = generate(model, batch, -1, max_new_tokens=1)
    title = (
        f"{record.question.splitlines()[0]}\nanswer: {told[0]['prediction']}   "
        f"kept {generation.kept_tokens[0]} of {generation.visual_tokens[0]} tokens"
    )
    draw_kept(
        run_dir / "figures" / "overlay.png",
        model,
        generation,
        0,
        data.store.load_hu(data.root / record.volume),
        title,
        labels=np.isin(item.labels, record.evidence),
    )
