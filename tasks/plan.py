"""A composed configuration as runs to plan, and the check that a training fits its GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any, get_args

import torch

from photon.batch.dataset import count_items
from photon.batch.layout import Tail
from photon.cost.plan import GIB, Assumed, Run, make_plan, remedies
from photon.cost.report import summary
from photon.cost.shape import DEVICES, Device, Shape
from photon.cost.step import with_pruner
from photon.errors import InputError
from photon.model.photon import PhotonModel, Stage
from tasks.datamodule import QuestionData
from tasks.places import find_target
from tasks.progress import say
from tasks.schema import attention_of, instantiate


def check_fits(config: Mapping[str, Any], data: QuestionData) -> None:
    """Plan every phase on the GPU that is here, or that `plan.device` names; say what it costs.

    On a CPU nothing is planned. Raises InputError where a phase cannot fit, with the overrides
    that would make it fit.
    """
    assumed = read_assumed(config)
    here = torch.cuda.is_available() and config["trainer"]["accelerator"] != "cpu"
    if assumed.device == "auto" and not here:
        return
    for phase, run in runs_of(config, data).items():
        plan = make_plan(run)
        if not plan.fits:
            words = remedies(run) or ["more GPUs, or a smaller model"]
            raise InputError(
                f"phase {phase} does not fit ({summary(plan)}) It would with one of:"
                + "".join(f"\n  {line}" for line in words)
                + "\nplan.keep, plan.question and plan.answer say what was assumed."
            )
        say(f"plan of {phase}", summary(plan))


def read_assumed(config: Mapping[str, Any]) -> Assumed:
    """The node `plan`. Raises InputError for a value that it cannot have."""
    try:
        return Assumed(**config["plan"])
    except ValueError as error:
        raise InputError(str(error)) from error


def runs_of(config: Mapping[str, Any], data: QuestionData | None = None) -> dict[str, Run]:
    """What each phase with a share of the steps trains, by its name.

    Without `data`, updates are counted from plan.volumes and plan.questions where those are given.
    """
    assumed, trainer, dataset = read_assumed(config), config["trainer"], config["dataset"]
    found = {}
    for phase, share in config["phases"].items():
        if not share:
            continue
        node = config["task"][phase]
        task, strategy = find_target(node["_target_"], f"task.{phase}"), trainer["strategy"]
        gpus = count_gpus(trainer, assumed)
        options = strategy if isinstance(strategy, Mapping) else {}
        pruner = config["pruner"] if task.prunes else {}
        keep = pruner.get("keep") or assumed.keep
        run = Run(
            model=config["model"],
            device=find_device(assumed.device),
            assumed=replace(assumed, keep=keep),
            strategy=strategy_name(strategy, gpus),
            gpus=gpus,
            precision=trainer["precision"] or "bf16-true",  # null: that of a plugin
            checkpointing=config["model"]["checkpointing"],
            train="lora" if node.get("lora") else task.trained,
            rank=(node.get("lora") or {}).get("r", 16),
            stages=stage_shares(config["callbacks"].get("pruning") or {}, pruner),
            layer=pruner.get("layer", 0.25),
            tail=pruner.get("tail", "question"),
            volumes=dataset["volumes_per_batch"],
            questions=dataset["questions_per_volume"],
            accumulate=trainer["accumulate_grad_batches"],
            fused=bool(node["optimizer"].get("fused")),
            bucket_view=bool(options.get("gradient_as_bucket_view")),
        )
        found[phase] = replace(run, updates=count_updates(config, phase, run, data))
    return found


def random_model(config: Mapping[str, Any], run: Run, built: dict[str, PhotonModel]) -> PhotonModel:
    """The configured model with random weights, on the GPU if there is one, pruning by `plan.keep`.

    built: models made before; cases of one model and several pruners share its weights.
    """
    key = json.dumps(config["model"], sort_keys=True)
    if key not in built:
        cpu = config["trainer"]["accelerator"] == "cpu"
        own = {"pretrained": None, "device": "cpu" if cpu else "auto"}
        own["attention"] = attention_of(config)
        own["tokenizer"] = config["model"]["tokenizer"] or "tiny"  # only its ids are needed
        own["dtype"] = "bfloat16" if run.precision == "bf16-true" else "float32"
        built[key] = instantiate({**config["model"], **own}, "model", pruner=None)
    pruner = None
    if config["pruner"]:
        pruner = instantiate({**config["pruner"], "keep": run.assumed.keep}, "pruner")
        pruner = pruner.to(built[key].encoder.visual.patch_embed.proj.weight.device)
    return with_pruner(built[key], pruner)


def with_layers(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The configuration with so many decoder layers and vision blocks (the last attends fully)."""
    text, vision = config["model"]["text"], config["model"]["vision"]
    full = {"fullatt_block_indexes": [layers - 1]} if "fullatt_block_indexes" in vision else {}
    vision = {**vision, "depth": layers, **full}
    text = {**text, "num_hidden_layers": layers}
    return {**config, "model": {**config["model"], "text": text, "vision": vision}}


def models_by_tail(
    config: Mapping[str, Any], layers: int | None
) -> tuple[dict[str, tuple[PhotonModel, Shape]], str]:
    """The configured model unpruned and with each tail, on the same weights, and its precision.

    layers: so many decoder layers and vision blocks, None for all. Raises InputError without a
    pruner.
    """
    if not config["pruner"]:
        raise InputError("bench growth compares the tails of a pruner: leave pruner=none out")
    config = config if layers is None else with_layers(config, layers)
    found, built = {}, {}
    *_, run = runs_of(config).values()
    for tail in ("unpruned", *get_args(Tail)):
        pruner = {} if tail == "unpruned" else {**config["pruner"], "tail": tail}
        shape = replace(run, tail="question" if tail == "unpruned" else tail).shape
        found[tail] = random_model({**config, "pruner": pruner}, run, built), shape
    return found, run.precision


def count_gpus(trainer: Mapping[str, Any], assumed: Assumed) -> int:
    """Processes of a run with one GPU each."""
    devices = trainer["devices"]
    if isinstance(devices, str) and "," in devices:
        devices = [word for word in devices.split(",") if word]
    n = len(devices) if isinstance(devices, list) else 0
    if not n and str(devices) not in ("auto", "-1"):
        n = int(devices)
    return (n or torch.cuda.device_count() or assumed.gpus) * trainer.get("num_nodes", 1)


def find_device(name: str) -> Device:
    """The device of `DEVICES`, or with `auto` the GPU that is here (an H100 if there is none)."""
    if name != "auto":
        return DEVICES[name]
    if not torch.cuda.is_available():
        return DEVICES["h100"]
    found = torch.cuda.get_device_properties(0)
    known = [d for key, d in DEVICES.items() if key in found.name.lower()]
    return Device(known[-1].peak if known else DEVICES["a100"].peak, found.total_memory / GIB)


def strategy_name(strategy: Any, gpus: int) -> str:
    target = strategy.get("_target_", "") if isinstance(strategy, Mapping) else str(strategy)
    if "DeepSpeed" in target or "deepspeed" in target:
        return "zero2"
    if target.endswith("FullySharded"):
        return "fsdp"
    return "ddp" if gpus > 1 else "single"


def stage_shares(schedule: Mapping[str, Any], pruner: Mapping[str, Any]) -> dict[Stage, float]:
    """Share of the updates in each stage; a pruner without weights q has no soft one."""
    if not pruner:
        return {"off": 1.0}
    soft, hard = schedule.get("soft", 0.0), schedule.get("hard", 0.0)
    if "tau" not in pruner:
        hard = soft
    shares: dict[Stage, float] = {"off": soft, "soft": hard - soft, "hard": 1.0 - hard}
    return {stage: share for stage, share in shares.items() if share > 0}


def count_updates(
    config: Mapping[str, Any], phase: str, run: Run, data: QuestionData | None
) -> int | None:
    """Optimiser steps of a phase, or None where the size of an epoch is not known."""
    trainer = config["trainer"]
    if trainer["max_steps"] > 0:
        return max(1, round(trainer["max_steps"] * config["phases"][phase]))
    every, some = config["dataset"]["sampling"] == "questions", run.assumed
    if data is not None:
        kinds = find_target(config["task"][phase]["_target_"], f"task.{phase}").reads
        records = [record for kind in kinds for record in data.records("train", kind)]
        items = count_items(records, run.questions, every)
    elif some.volumes and some.questions:
        parts = ceil(some.questions / some.volumes / run.questions) if every else 1
        items = some.volumes * parts
    else:
        return None
    batches = ceil(items / (run.volumes * run.gpus))
    return ceil(batches / run.accumulate) * trainer["max_epochs"]
