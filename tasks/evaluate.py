"""A model, or a file of answers, on a split: predictions, controls, metrics, table and figures."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.progress import Progress

from photon.annotations import Budget, Count, Fraction
from photon.batch.dataset import Collate, VolumeQuestions
from photon.benchmarks.organs import attach_segmentations
from photon.errors import InputError
from photon.evaluation.blind import constants
from photon.evaluation.conditions import CONTROLS, PRUNERS, budget_conditions, parse_condition
from photon.evaluation.evaluator import Evaluator
from photon.evaluation.predictions import join_predictions
from photon.evaluation.provenance import collect_provenance
from photon.evaluation.scores import summarize
from photon.evaluation.shards import Shard
from photon.evaluation.summary import build_metrics
from photon.evaluation.summary import write_report as write_metrics
from photon.evaluation.text_metrics import ROBERTA_LARGE_LAYER
from photon.evaluation.timed import TimedEvaluator
from photon.evaluation.views import shuffled_volumes
from photon.files import locked
from photon.model.decoding import Sampling
from photon.model.generate import generate
from photon.model.photon import PhotonModel
from photon.questions.record import Record
from photon.study.figures import save_figures
from photon.study.kept import draw_kept
from tasks.benchmarking import Scoring, add_benchmark, benchmark_of
from tasks.datamodule import QuestionData
from tasks.progress import bars, say
from tasks.pruning_benchmark import parse_pass, run_passes, write_report
from tasks.rundir import is_finished, write_status

WHOLE = Shard()


@dataclass(frozen=True)
class Evaluation:
    """The `evaluation` node of the configuration.

    Args:
        split: of the data set.
        volumes_per_batch, questions, max_new_tokens: see `Evaluator`.
        decoding: `greedy` takes the likeliest token; `checkpoint` draws as generation_config.json
            beside the weights asks, which is what ms-swift's `infer` does.
        keep: a budget (share or count) in place of the learned threshold.
        controls: of CONTROLS; the constant answer is always computed.
        budgets: shares or counts at which each of `pruners` answers as well, for the curve.
        pruners: names of `every_pruner`; `photon` is the model's own.
        layer: where they cut a model that does not prune by itself, as a share of its layers; None
            before the first one.
        passes: timed ones, volumes x questions as in 4x8; with any, conditions share nothing, rows
            say what they cost, and the report of `tasks.pruning_benchmark` is written.
        volumes: answer about the first so many items of the split only; None takes all.
        segmentations: folder of label maps, for what is kept of organs on a benchmark (Table 12).
        benchmark, bert_encoder, bert_layer: see `Scoring`.
    """

    split: str = "test"
    volumes_per_batch: Count = 4
    questions: Count | None = 64
    max_new_tokens: Count = 16
    decoding: Literal["greedy", "checkpoint"] = "greedy"
    keep: Budget | None = None
    controls: Sequence[str] = ("no_pruning", "random_keep", "shuffled_volume", "question_only")
    budgets: Sequence[Budget] = ()
    pruners: Sequence[str] = PRUNERS
    layer: Fraction | None = 0.25
    passes: Sequence[str] = ()
    volumes: Count | None = None
    segmentations: str | None = None
    benchmark: str | None = None
    bert_encoder: str | None = None
    bert_layer: Count = ROBERTA_LARGE_LAYER

    def __post_init__(self) -> None:
        unknown = [name for name in self.controls if name not in CONTROLS]
        if unknown:
            raise InputError(f"evaluation.controls={unknown}: legal values are {list(CONTROLS)}")
        try:
            for name in self.curve:
                parse_condition(name)
        except ValueError as error:
            raise InputError(f"evaluation.budgets or evaluation.pruners: {error}") from error
        for name in self.passes:
            parse_pass(name)
        for key in ("volumes_per_batch", "questions", "max_new_tokens", "volumes"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise InputError(f"evaluation.{key}={getattr(self, key)}: must be at least 1")

    @property
    def curve(self) -> list[str]:
        """Names of the conditions at budgets."""
        return budget_conditions(self.budgets, self.pruners)

    def sampling(self, model: PhotonModel, seed: int) -> Sampling | None:
        """How tokens are drawn; None takes the likeliest."""
        if self.decoding == "greedy":
            return None
        return Sampling.of_checkpoint(model.backbone.generation_config, seed)

    @property
    def scoring(self) -> Scoring:
        """How a published benchmark is scored."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return Scoring(self.benchmark, self.bert_encoder, self.bert_layer, device)


def evaluate(
    model: PhotonModel,
    data: QuestionData,
    evaluation: Evaluation,
    run_dir: Path,
    config_hash: str,
    seed: int,
    shard: Shard = WHOLE,
    **provenance: Any,
) -> dict[str, Any] | None:
    """Answer the split under every condition and write the report; continues where it stopped.

    shard: this process's part. Whichever process finds all answers there writes the report; the
    others return None.
    """
    data.bind(model.eval())
    with locked(data.store_root / ".preparing") if shard.world > 1 else nullcontext():
        records = first_volumes(data.prepare_volumes(evaluation.split), evaluation.volumes)
    if evaluation.segmentations is not None:
        records = attach_segmentations(records, evaluation.segmentations, data.root)
    # Text that is stored beside the answers and must not change between two calls.
    fingerprint = {"config": config_hash, "data": data.data_hash(evaluation.split)}
    controls = possible_controls(evaluation.controls, model, records)
    names = ["photon", *controls, *evaluation.curve]
    started = time.perf_counter()
    batch = evaluation.volumes_per_batch, evaluation.questions
    if evaluation.passes:
        volumes, questions = parse_pass(evaluation.passes[0])
        batch = volumes, volumes * questions
    with bars() as progress:
        evaluator = (TimedEvaluator if evaluation.passes else Evaluator)(
            model,
            records,
            data.store,
            run_dir,
            data.root,
            fingerprint,
            volumes_per_batch=batch[0],
            questions=batch[1],
            workers=data.workers,
            max_new_tokens=evaluation.max_new_tokens,
            keep=evaluation.keep,
            layer=evaluation.layer,
            seed=seed,
            shard=shard,
            progress=_advance(progress),
            sampling=evaluation.sampling(model, seed),
        )
        evaluator.run(names)
        if evaluation.passes and shard.world == 1:
            run_passes(evaluator, names, evaluation.passes)
    with locked(run_dir / ".reporting"):
        answers = None if is_finished(run_dir) else evaluator.merge(names)
        if answers is None:
            say("evaluation", f"part {shard.rank} of {shard.world} is answered", started)
            return None
        say("evaluation", f"{len(records)} questions under {len(names)} conditions", started)
        provenance = collect_provenance(config_hash, fingerprint["data"], **provenance)
        return report(
            model, data, evaluation, run_dir, records, answers, controls, provenance, seed
        )


def _advance(progress: Progress) -> Callable[[str, int, int], None]:
    """A bar for each view of the volumes, over its questions."""
    tasks: dict[str, Any] = {}

    def advance(view: str, done: int, total: int) -> None:
        if view not in tasks:
            tasks[view] = progress.add_task(f"questions: {view}", total=total, figures="")
        progress.update(tasks[view], completed=done)

    return advance


def report(
    model: PhotonModel,
    data: QuestionData,
    evaluation: Evaluation,
    run_dir: Path,
    records: Sequence[Record],
    answers: Mapping[str, list[dict[str, Any]]],
    controls: Sequence[str],
    provenance: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Score the answers of every condition; write tables, figures and the overlay."""
    rows, train = answers["photon"], training_answers(data)
    others = {name: answers[name] for name in controls}
    metrics = build_metrics(
        rows,
        others,
        constants(records, train),
        provenance,
        seed=seed,
        budgets={name: answers[name] for name in evaluation.curve},
    )
    text = add_benchmark(
        metrics, data, evaluation.scoring, run_dir, records, train, [rows], others, seed
    )
    if evaluation.passes:
        benchmark = benchmark_of(data, evaluation.benchmark)
        how = provenance, evaluation.passes, seed
        text += write_report(run_dir, model, benchmark, *how)
    draw_overlay(model, data, records, rows, run_dir)
    finish(run_dir, metrics, text=text)
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


def finish(run_dir: Path, metrics: Mapping[str, Any], own: str = "photon", text: str = "") -> None:
    """Write and print the report; the status, written last, marks a run as finished.

    text: of a benchmark's own report, printed below.
    """
    table = write_metrics(run_dir, metrics, own=own)
    save_figures(run_dir, own=own)
    write_status(run_dir, state="finished")
    print("\n".join(["", table, *([text] if text else [])]))
    pictures = ", ".join(sorted(path.name for path in (run_dir / "figures").glob("*.png")))
    files = "table.md, " + ("benchmark.md, " if text else "") + "metrics.json, predictions.jsonl"
    say("results", f"{run_dir} ({files}, figures: {pictures})")


def score_files(
    predictions: Sequence[str],
    data: QuestionData,
    evaluation: Evaluation,
    run_dir: Path,
    config_hash: str,
) -> dict[str, Any]:
    """Score any model's answers as ours are scored (`eval.py predictions=FILE`).

    Several files are answers of one model under several seeds: table.md is of the first, and
    benchmark.md and `seeds` of metrics.json of all. Controls that lie beside the first (in
    controls/, as in a run of ours) are scored too.
    """
    records = data.records(evaluation.split)
    train = training_answers(data)
    rows = [join_predictions(path, records) for path in predictions]
    beside = sorted((Path(predictions[0]).parent / "controls").glob("*.jsonl"))
    controls = {p.stem: join_predictions(p, records) for p in beside if p.stem in CONTROLS}
    hashes = data.data_hash(evaluation.split)
    metrics = build_metrics(
        rows[0],
        controls,
        constants(records, train),
        collect_provenance(config_hash, hashes, predictions=list(predictions)),
    )
    if len(rows) > 1:
        metrics["seeds"] = [
            {"file": path, **summarize(one)["overall"]} for path, one in zip(predictions, rows)
        ]
    text = add_benchmark(metrics, data, evaluation.scoring, run_dir, records, train, rows, controls)
    finish(run_dir, metrics, own="file", text=text)
    return metrics


def draw_overlay(
    model: PhotonModel,
    data: QuestionData,
    records: Sequence[Record],
    rows: Sequence[Mapping[str, Any]],
    run_dir: Path,
) -> None:
    """figures/overlay.png: what the first right answer about an organ with a mask kept."""
    by_id = {r.id: r for r in records if not r.more_volumes}
    told = [r for r in rows if r.get("coverage") is not None and r["id"] in by_id]
    told.sort(key=lambda row: row["prediction"] != row["answer"])
    if not told or model.pruner is None:
        return
    record = by_id[told[0]["id"]]
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
