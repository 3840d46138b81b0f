"""What trackers of experiments are told beside the steps: configuration, results and pictures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger, WandbLogger

from photon.cost.plan import make_plan
from photon.evaluation.overlap import kept_mask
from photon.evaluation.predictions import read_predictions
from photon.evaluation.provenance import collect_provenance
from photon.evaluation.scores import score_row
from photon.evaluation.table import TITLES
from photon.model.photon import PhotonModel
from photon.study.figures import load_metrics
from photon.study.kept import voxel_size
from photon.study.viewer import save_overlay
from tasks.datamodule import QuestionData
from tasks.plan import runs_of
from tasks.rundir import config_hash
from tasks.trust import redact

EXAMPLES = 4  # pictures of what was kept: half of right answers, half of wrong ones
UNITS = {
    "keep": "share of visual tokens kept (retention ratio r, Eq. 18)",
    "keep/soft": "mean retention probability q (Eq. 8)",
    "theta": "threshold (Eq. 7)",
    "surrogate/eta_std": "Std of Eq. 13",
    "loss/*": "nats a question, weighted (Eq. 21)",
    "val/*": "shares in [0, 1]; losses in nats",
    "eval/*accuracy, mra, keep, evidence_kept": "shares in [0, 1]",
    "perf/*": "seconds, tokens or questions a second, GiB",
}


def begin(loggers: Sequence[Logger], config: Mapping[str, Any], phase: str) -> None:
    """Tell every logger the configuration of a run, what it runs on, and its plan.

    Values that come from the environment are not among them.
    """
    told = redact(config) | {"phase": phase, "units": UNITS, "hardware": hardware()}
    told["provenance"] = collect_provenance(config_hash(config))
    if "phases" in config:
        told["plan_of_phase"] = make_plan(runs_of(config)[phase]).to_dict()
    for logger in loggers:
        logger.log_hyperparams(told)


def hardware() -> dict[str, Any]:
    """Of this process's machine."""
    import os

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus}


def publish(
    loggers: Sequence[Logger],
    run_dir: Path,
    data: QuestionData,
    split: str,
    model: PhotonModel | None,
) -> None:
    """Tell every logger the results of a finished run: numbers, and W&B tables and pictures too.

    model: None where answers of others were scored, of which no tokens can be drawn. What a tracker
    cannot take is a warning: the results lie in the run directory.
    """
    for logger in loggers:
        try:
            metrics = load_metrics(run_dir)
            values = dict(summary(metrics))
            if isinstance(logger, WandbLogger):
                _to_wandb(logger, run_dir, metrics, values, data, split, model)
            elif logger.name != "":  # metrics.csv is of steps
                logger.log_metrics(values)
        except Exception as error:
            warnings.warn(
                f"{type(logger).__name__}: the results were not logged: {error!r}", stacklevel=2
            )


def summary(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, value) of the run, its subtasks and its controls, under eval/."""
    groups = {"": metrics["overall"]}
    groups |= {f"{name}/": group for name, group in metrics["subtasks"].items()}
    groups |= {f"controls/{name}/": group for name, group in metrics["controls"].items()}
    keep, cover = metrics["retention"], metrics["coverage"]
    for prefix, group in groups.items():
        values = {key: group.get(key) for key in ("accuracy", "balanced_accuracy", "mra")}
        interval = group.get("interval") or {}
        values |= {f"score_{end}": interval.get(end) for end in ("low", "high")}
        name, own = prefix.rstrip("/"), prefix.startswith("controls/")
        kept = group.get("retention") or {} if own else keep["by_subtask"].get(name, {})
        covered = group.get("coverage") or {} if own else cover.get("by_subtask", {}).get(name, {})
        kept, covered = (keep, cover) if not prefix else (kept, covered)
        values |= {"keep": kept.get("keep_ratio"), "kept_tokens": kept.get("kept_tokens")}
        values["evidence_kept"] = covered.get("mean")
        yield from ((f"eval/{prefix}{k}", v) for k, v in values.items() if v is not None)
    macro = metrics["macro"]["accuracy"]
    yield from [("eval/macro_accuracy", macro)] if macro is not None else []


def _to_wandb(
    logger: WandbLogger,
    run_dir: Path,
    metrics: Mapping[str, Any],
    values: Mapping[str, float],
    data: QuestionData,
    split: str,
    model: PhotonModel | None,
) -> None:
    import wandb

    run = logger.experiment
    run.summary.update(dict(values))
    figures = sorted((run_dir / "figures").glob("*.png"))
    told: dict[str, Any] = {f"figures/{f.stem}": wandb.Image(str(f)) for f in figures}
    header, *rows = subtask_rows(metrics)
    told["table"] = wandb.Table(columns=header, data=rows)
    columns = ["question", "truth", "answer", "right", "subtask", "kept", "picture"]
    shown = [] if model is None else examples(run_dir, data, split, model)
    table = [[*row[:-1], wandb.Image(str(row[-1]))] for row in shown]
    told["examples"] = wandb.Table(columns=columns, data=table)
    told |= {f"kept/{i}": row[-1] for i, row in enumerate(table)}
    run.log(told)
    if getattr(logger, "export", False) and (run_dir / "export").is_dir():
        artifact = wandb.Artifact(f"{run_dir.name}-export", type="model")
        artifact.add_dir(str(run_dir / "export"))
        run.log_artifact(artifact)


def subtask_rows(metrics: Mapping[str, Any]) -> list[list[Any]]:
    """Rows of table.md as numbers, header first: accuracy (MRA for numbers) by condition, kept."""
    controls = list(metrics["controls"])
    header = ["subtask", "n", "Photon", *(TITLES.get(c, c) for c in controls), "kept"]
    rows: list[list[Any]] = [header]
    for name, group in [("overall", metrics["overall"]), *metrics["subtasks"].items()]:
        key = "accuracy" if group["accuracy"] is not None else "mra"
        others = [metrics["controls"][c] for c in controls]
        others = others if name == "overall" else [o["subtasks"].get(name, {}) for o in others]
        keep = (
            metrics["retention"]
            if name == "overall"
            else metrics["retention"]["by_subtask"].get(name, {})
        )
        values = [group[key], *(other.get(key) for other in others)]
        rows.append([name, group["n"], *values, keep.get("keep_ratio")])
    return rows


def examples(
    run_dir: Path, data: QuestionData, split: str, model: PhotonModel
) -> list[tuple[Any, ...]]:
    """Questions with pictures of what was kept, drawn into examples/, each of another volume."""
    records = {r.id: r for r in data.records(split) if not r.more_volumes}
    chosen: list[dict[str, Any]] = []
    rows = [r for r in read_predictions(run_dir / "predictions.jsonl") if r.get("kept_mask")]
    rows = [r for r in rows if r["id"] in records and isinstance(r["volume"], str)]
    for right in (True, False):
        for row in rows:
            seen = {one["volume"] for one in chosen}
            if len(chosen) < (EXAMPLES // 2 if right else EXAMPLES) and row["volume"] not in seen:
                chosen += [row] if score_row(row).correct is right else []
    if len(chosen) < EXAMPLES:  # nearly all are right, or nearly all wrong
        chosen += [row for row in rows if row not in chosen][: EXAMPLES - len(chosen)]
    return [_example(run_dir, i, row, data, model) for i, row in enumerate(chosen)]


def _example(
    run_dir: Path, i: int, row: Mapping[str, Any], data: QuestionData, model: PhotonModel
) -> tuple[Any, ...]:
    hu, keep = data.store.load_hu(data.root / row["volume"]), kept_mask(row)
    grid = [n // t for n, t in zip(hu.shape, model.builder.token, strict=True)]
    flip = slice(None, None, -1 if model.preparation.flip_x else 1)
    right = {True: "right", False: "wrong", None: "a number"}[score_row(row).correct]
    told = f"answer: {row['prediction']} ({right})   truth: {row['answer']}"
    title = f"{row['question'].splitlines()[0]}\n{told}"
    path = save_overlay(
        run_dir / "examples" / f"{i}.png",
        hu,
        keep.reshape(grid)[..., flip],
        title,
        spacing=voxel_size(model.preparation, hu.shape),
        token=model.builder.token,
        slices=3,
    )
    kept = row["kept_tokens"] / row["visual_tokens"]
    return row["question"], row["answer"], row["prediction"], right, row["subtask"], kept, path
