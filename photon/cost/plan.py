"""What a training run will cost, from the shapes alone: operations, memory, disk, time.

Everything is for one optimiser step. Not counted: the pruner (below 0.01 % of the weights), the
flip pass (5 % of the questions run the layers above l twice), the CUDA context and what an
allocator wastes (`FITS` leaves a tenth for them).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any, Literal

from torch import nn

from photon.annotations import Budget, Count, Positive, PositiveShare, Whole
from photon.cost.flops import PASSES, Trained, forward_flops, prefill_flops
from photon.cost.memory import Activations, Precision, activations
from photon.cost.shape import DEVICES, Device, Shape, Tail, shape_of, stock_model
from photon.model.photon import Stage

GIB = 2**30
FITS = 0.9  # share of a device's memory that a step may plan with
BUCKET = 200_000_000  # entries of each of ZeRO-2's two communication buffers (Lightning's default)
StrategyName = Literal["single", "ddp", "zero2", "fsdp"]


@dataclass(frozen=True)
class Assumed:
    """The node `plan` of a configuration: what a plan needs to know and the rest does not say.

    device: auto is the GPU that is here; see `DEVICES`. gpus: where trainer.devices is auto and no
    GPU is here. keep: share or count of the tokens that pruning will keep. prefix, question,
    answer: text rows before, of and after a question. utilisation: share of the peak that a step
    reaches; link: GB/s that each GPU sends and receives. volumes, questions: of the training split,
    None where it is to be counted.
    """

    device: Literal["auto", "a100", "h100", "h200", "h20"] = "auto"
    gpus: Count = 8
    keep: Budget = 0.39
    prefix: Whole = 20
    question: Count = 80
    answer: Whole = 20
    utilisation: PositiveShare = 0.4
    link: Positive = 50.0
    volumes: Count | None = None
    questions: Count | None = None


@dataclass(frozen=True)
class Run:
    """One phase of a training: what it trains on which GPUs, and how large an update is.

    stages: share of the updates by stage. layer, tail: of the pruner, see `Shape`. train: `all`
    weights, the `patch` embedding alone, or `lora` adapters of `rank`. volumes, questions: volumes
    of a GPU in one pass, and of each its questions; accumulate: passes an update. updates: of the
    whole phase, None where that is not known. fused: AdamW without temporary copies. bucket_view:
    gradients lie in DDP's communication buckets.
    """

    model: Mapping[str, Any]
    device: Device = DEVICES["h100"]
    assumed: Assumed = Assumed()  # noqa: B008  (frozen)
    strategy: StrategyName = "single"
    gpus: int = 1
    precision: Precision = "bf16-mixed"
    checkpointing: bool = False
    train: Trained = "all"
    rank: int = 16
    stages: Mapping[Stage, float] = field(default_factory=lambda: {"off": 0.2, "hard": 0.8})
    layer: float = 0.25
    tail: Tail = "question"
    volumes: int = 1
    questions: int = 1
    accumulate: int = 1
    updates: int | None = None
    fused: bool = False
    bucket_view: bool = False

    @property
    def shape(self) -> Shape:
        some, pruned = self.assumed, set(self.stages) != {"off"}
        keep = some.keep if pruned else None
        rows = (self.questions, some.prefix, some.question, some.answer)
        return shape_of(self.model, keep, *rows, self.layer, self.tail)

    @property
    def questions_an_update(self) -> int:
        return self.gpus * self.volumes * self.questions * self.accumulate


@dataclass(frozen=True)
class State:
    """Bytes that one GPU holds of a model's weights and optimiser, and what it communicates."""

    weights: float
    gradients: float
    optimizer: float
    buffers: float  # bf16 copies of weights, gathered layers, communication buckets
    update: float  # while the optimiser steps: activations and bf16 copies are gone by then
    traffic: float  # bytes that each GPU sends in an update
    disk: float  # of a checkpoint


@dataclass(frozen=True)
class Plan:
    """What a `Run` costs: operations in FLOP, memory in bytes, times in seconds."""

    run: Run
    shape: Shape
    parameters: dict[str, int]
    flops: dict[Stage, dict[str, float]]  # forward, of one volume with its questions
    prefill: dict[Stage, dict[str, float]]
    state: State
    activations: dict[Stage, int]
    peak: dict[Stage, float]
    fits: bool
    compute: float  # seconds of an update
    traffic: float
    disk: float  # bytes of two checkpoints and the export

    @property
    def seconds(self) -> float:
        return self.compute + self.traffic

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(run: Run) -> Plan:
    """Plan a run. Raises InputError or ValueError for settings that no run can have."""
    stock, shape = _stock(json.dumps(run.model)), run.shape
    flops = {stage: forward_flops(stock, shape, stage) for stage in run.stages}
    prefill = {s: prefill_flops(stock, shape, s) for s in ("off", "hard") if s in run.stages}
    counts = parameter_counts(stock)
    state = plan_state(stock, run)
    held = {
        stage: run.volumes * _activations(run, shape, stage).total(run.checkpointing)
        for stage in run.stages
    }
    base = state.weights + state.gradients + state.optimizer
    peak = {stage: base + max(state.buffers + held[stage], state.update) for stage in run.stages}
    compute, traffic = step_seconds(run, flops, state.traffic)
    return Plan(
        run=run,
        shape=shape,
        parameters=counts,
        flops=flops,
        prefill=prefill,
        state=state,
        activations=held,
        peak=peak,
        fits=max(peak.values()) <= FITS * run.device.memory * GIB,
        compute=compute,
        traffic=traffic,
        disk=2 * state.disk + 4 * counts["total"],
    )


def remedies(run: Run) -> list[str]:
    """Overrides under which a run that does not fit would, those that change least first."""
    found: list[str] = []
    for words, changes in _changes(run):
        enough = any(_keys(less) <= _keys(words) for less in found)
        if not enough and make_plan(replace(run, **changes)).fits:
            found.append(words)
        if len(found) == 3:
            break
    return found


def _keys(words: str) -> set[str]:
    return {word.split("=")[0] for word in words.split()}


def _changes(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    again = {"model.checkpointing=true ": {"checkpointing": True}}
    ways: dict[str, dict[str, Any]] = {"": {}} | ({} if run.checkpointing else again)
    steps: dict[str, dict[str, Any]] = {"": {}}
    if run.volumes > 1:
        steps["dataset.volumes_per_batch=1"] = {"volumes": 1}
    if run.gpus > 1:
        steps |= {f"trainer={name}": {"strategy": name} for name in ("zero2", "fsdp")}
    for part in (2, 4, 8):
        if run.questions // part:
            n = run.questions // part
            steps[f"dataset.questions_per_volume={n}"] = {"questions": n}
    if run.train == "all":
        steps["task=[finetune_lora]"] = {"train": "lora"}
    for gpus in (2, 4, 8, 16):
        if gpus > run.gpus:
            wide = {"strategy": "zero2", "precision": "bf16-true", "gpus": gpus}
            steps[f"trainer=zero2 trainer.devices={gpus}"] = wide
    for words, changes in steps.items():
        for first, more in ways.items():
            if words or first:
                yield (first + words).strip(), changes | more


@cache
def _stock(model: str) -> nn.Module:
    return stock_model(json.loads(model))


def _activations(run: Run, shape: Shape, stage: Stage) -> Activations:
    precision = "bf16-true" if run.strategy == "zero2" else run.precision
    return _counted(json.dumps(run.model), shape, stage, precision)


@cache
def _counted(model: str, shape: Shape, stage: Stage, precision: Precision) -> Activations:
    return activations(json.loads(model), shape, stage, precision)


def parameter_counts(stock: nn.Module) -> dict[str, int]:
    """Weights of the vision tower, of the language model with its head, and of all."""
    total = sum(p.numel() for p in stock.parameters())  # a tied head counts once
    vision = sum(p.numel() for p in stock.model.visual.parameters())
    patch = sum(p.numel() for p in stock.model.visual.patch_embed.parameters())
    return {"vision": vision, "language": total - vision, "total": total, "patch embedding": patch}


def plan_state(stock: nn.Module, run: Run) -> State:
    """What AdamW, the precision and the strategy keep of the weights on one GPU.

    Mixed precision keeps float32 weights, gradients and two moments (16 bytes a weight) and bf16
    copies of the matrices; ZeRO-2 keeps bf16 weights whole and divides the rest (float32 master
    weights and moments, with float32 gradients while it steps); FSDP divides all of it and gathers
    a layer at a time in bf16.
    """
    counts = parameter_counts(stock)
    total, n = counts["total"], run.gpus
    trained = {"all": total, "patch": counts["patch embedding"]}.get(run.train)
    layers = stock.model.language_model.layers
    if trained is None:
        linear = [m for m in layers.modules() if isinstance(m, nn.Linear)]
        trained = counts["patch embedding"]
        trained += sum(run.rank * (m.in_features + m.out_features) for m in linear)
    again = 0 if run.fused else 4 * trained  # square roots of all second moments at once
    share = 2 * (n - 1) / n  # of a ring all-reduce: reduce-scatter and all-gather
    if run.strategy == "zero2":
        held = (2 * total, 2 * trained / n, 12 * trained / n, 4 * min(BUCKET, trained))
        return State(*held, (4 * trained + again) / n, 2 * trained * share, 14 * trained)
    disk = 4 * total + 8 * trained
    if run.strategy == "fsdp":
        layer, root = sum(p.numel() for p in layers[0].parameters()), stock.lm_head.weight.numel()
        gathered = 2 * (root + 2 * layer) + 2 * max(layer, root)  # weights, and one gradient
        held = (4 * total / n, 4 * trained / n, 8 * trained / n, gathered)
        return State(*held, again / n, (4 * total + 4 * trained) * (n - 1) / n, disk)
    wide = 2 if run.precision == "bf16-true" else 4
    copies = 2 * total if run.precision == "bf16-mixed" else 0
    buckets = wide * trained if run.strategy == "ddp" and not run.bucket_view else 0
    held = (wide * total, wide * trained, 2 * wide * trained, copies + buckets)
    return State(*held, buckets + again * wide / 4, wide * trained * share, disk * wide / 4)


def step_seconds(
    run: Run, flops: Mapping[Stage, Mapping[str, float]], sent: float
) -> tuple[float, float]:
    """Seconds of products and of traffic of an update, on every GPU; the mean over the stages.

    Traffic is not hidden behind the products (an upper bound). Recomputing is one more forward
    pass but for the head.
    """
    passes = PASSES[run.train]
    count = sum(
        share * (passes * sum(flops[s].values()) + _again(run, flops[s]))
        for s, share in run.stages.items()
    )
    rate = run.device.peak * 1e12 * run.assumed.utilisation
    return run.accumulate * run.volumes * count / rate, sent / (run.assumed.link * 1e9)


def _again(run: Run, flops: Mapping[str, float]) -> float:
    return sum(flops.values()) - flops["head"] if run.checkpointing else 0.0
