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
from photon.evaluation.condition import CONTROLS, PRUNERS, budget_conditions, parse_condition
from photon.evaluation.conditions import Evaluator
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
        budgets: shares or counts at which each of `pruners` answers as well, for the curve.
        pruners: of PRUNERS; `photon` is the model's own.
        layer: where they cut a model that does not prune by itself, as a share of its layers.
        volumes: answer about the first so many items of the split only; None takes all.
    """

    split: str = "test"
    volumes_per_batch: int = 4
    max_new_tokens: int = 16
    keep: float | int | None = None
    controls: Sequence[str] = ("no_pruning", "random_keep", "shuffled_volume", "question_only")
    budgets: Sequence[float | int] = ()
    pruners: Sequence[str] = PRUNERS
    layer: float = 0.25
    volumes: int | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.controls if name not in CONTROLS]
        if unknown:
            raise InputError(f"evaluation.controls={unknown}: legal values are {list(CONTROLS)}")
        try:
            for name in self.curve:
                parse_condition(name)
        except ValueError as error:
            raise InputError(f"evaluation.budgets or evaluation.pruners: {error}") from error
        for key in ("volumes_per_batch", "max_new_tokens", "volumes"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise InputError(f"evaluation.{key}={getattr(self, key)}: must be at least 1")

    @property
    def curve(self) -> list[str]:
        """Names of the conditions at budgets."""
        return budget_conditions(self.budgets, self.pruners)


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
    records = first_volumes(data.prepare_volumes(evaluation.split), evaluation.volumes)
    data_hash = data.data_hash(evaluation.split)
    controls = possible_controls(evaluation.controls, model, records)
    started = time.perf_counter()
    with bars() as progress:
        tasks: dict[str, Any] = {}

        def advance(view: str, done: int, total: int) -> None:
            if view not in tasks:
                tasks[view] = progress.add_task(f"volumes: {view}", total=total, figures="")
            progress.update(tasks[view], completed=done)

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
            layer=evaluation.layer,
            seed=seed,
            progress=advance,
        )
        answers = evaluator.run(["photon", *controls, *evaluation.curve])
    rows = answers["photon"]
    say("evaluation", f"{len(rows)} questions under {len(answers)} conditions", started)
    metrics = build_metrics(
        rows,
        {name: answers[name] for name in controls},
        constant_control(records, training_answers(data)),
        collect_provenance(config_hash, data_hash, **provenance),
        seed=seed,
        budgets={name: answers[name] for name in evaluation.curve},
    )
    draw_overlay(model, data, evaluation.split, rows, run_dir)
    finish(run_dir, metrics)
    return metrics


def first_volumes(records: Sequence[Record], n: int | None) -> list[Record]:
    """The records about the first `n` items (volumes of a question) in the file; None: all."""
    items = list(dict.fromkeys(record.volumes for record in records))
    chosen = set(items if n is None else items[:n])
    return [record for record in records if record.volumes in chosen]


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
    records = {r.id: r for r in data.records(split) if not r.more_volumes}
    told = [r for r in rows if r.get("coverage") is not None and r["id"] in records]
    told.sort(key=lambda row: row["prediction"] != row["answer"])
    if not told or model.pruner is None:
        return
    record = records[told[0]["id"]]
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
        labels=np.isin(item.labels[0], record.evidence),
    )
