"""What a training run will cost, from the shapes alone: operations, memory, step time.

Everything is for one optimiser step of Phase 2 (or Phase 1: train=patch). Neither counted: the
pruner (below 0.01 % of the weights), the flip pass (5 % of the questions run the layers above l
twice), the CUDA context and what an allocator wastes (`FITS` leaves a tenth for them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from photon.cost.flops import PASSES, Shape, Trained, forward_flops, prefill_flops
from photon.cost.memory import Precision, activations
from photon.cost.settings import (
    DEVICES,
    read_model,
    stock_config,
    stock_model,
    volume_grid,
)
from photon.model.photon import Stage
from photon.packing import Segments
from photon.pruning.base import selection_layer
from photon.pruning.retention import budget_counts

GIB = 2**30
FITS = 0.9  # share of a device's memory that a step may plan with
BUCKET = 200_000_000  # entries of each of ZeRO-2's two communication buffers (Lightning's default)
DeviceName = Literal["a100", "h100", "h200", "h20"]


@dataclass(frozen=True)
class PlanSettings:
    """The keys of `bench plan`.

    model: a file of conf/model; gpus: processes with one GPU each; device: see `DEVICES`.
    keep: share (in (0, 1]) or count of the visual tokens kept, null for no pruning; layer: share of
    the decoder layers at full length. questions: of each volume; volumes: of each GPU in a step.
    prefix, question, answer: text rows before, of and after a question. train: `all` weights,
    or the `patch` embedding alone (Phase 1). rank: of the adapters of the strategy `lora`.
    utilisation: share of the peak that a step reaches; link: GB/s that each GPU sends and receives.
    """

    model: str = "photon"
    gpus: int = 1
    device: DeviceName = "h200"
    keep: float | None = 0.39
    layer: float = 0.25
    questions: int = 1
    volumes: int = 1
    prefix: int = 20
    question: int = 80
    answer: int = 20
    train: Literal["all", "patch"] = "all"
    rank: int = 16
    utilisation: float = 0.4
    link: float = 50.0

    def __post_init__(self) -> None:
        for key in ("gpus", "questions", "volumes", "question", "rank"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)}: must be at least 1")
        for key in ("prefix", "answer"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}={getattr(self, key)}: must not be negative")
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"utilisation={self.utilisation}: legal values lie in (0, 1]")
        if self.link <= 0:
            raise ValueError(f"link={self.link}: must be positive (GB/s)")


@dataclass(frozen=True)
class Strategy:
    """Bytes that one GPU holds of a model's state under a `trainer`, and what it communicates."""

    name: str
    precision: Precision
    trained: Trained
    weights: float
    gradients: float
    optimizer: float
    buffers: float  # bf16 copies of weights, gathered layers, communication buckets
    traffic: float  # bytes that each GPU sends in a step


@dataclass(frozen=True)
class Plan:
    """The numbers of `bench plan`: operations in FLOP, memory in bytes, times in seconds."""

    settings: PlanSettings
    shape: Shape
    parameters: dict[str, int]
    flops: dict[Stage, dict[str, float]]  # forward, of one volume with its questions
    prefill: dict[Stage, dict[str, float]]
    memory: dict[str, dict[str, Any]]  # strategy to parts
    step: dict[str, dict[str, float]]  # strategy to compute, traffic, questions per second

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(settings: PlanSettings) -> Plan:
    """Plan a run. Raises InputError or ValueError for settings that no run can have."""
    settings_of_model = read_model(settings.model)
    stock = stock_model(stock_config(settings_of_model))
    shape = plan_shape(settings_of_model, settings)
    stages: tuple[Stage, ...] = ("off",) if settings.keep is None else ("off", "soft", "hard")
    flops = {stage: forward_flops(stock, shape, stage) for stage in stages}
    strategies = plan_strategies(stock, settings)
    saved = {
        precision: [activations(settings_of_model, shape, stage, precision) for stage in stages]
        for precision in {strategy.precision for strategy in strategies}
    }
    memory, step = {}, {}
    for strategy in strategies:
        worst = max(saved[strategy.precision], key=lambda one: one.total())
        parts = ("weights", "gradients", "optimizer", "buffers")
        state = {part: getattr(strategy, part) for part in parts}
        plain, again = (settings.volumes * worst.total(on) for on in (False, True))
        fits = FITS * DEVICES[settings.device].memory * GIB
        memory[strategy.name] = {
            "precision": strategy.precision,
            **state,
            "activations": plain,
            "activations_vision": settings.volumes * worst.vision(),
            "activations_recomputed": again,
            "total": (total := sum(state.values()) + plain),
            "total_recomputed": (less := sum(state.values()) + again),
            "fits": "yes" if total <= fits else "recomputing" if less <= fits else "no",
        }
        step[strategy.name] = step_time(settings, flops[stages[-1]], strategy)
    prefill = {stage: prefill_flops(stock, shape, stage) for stage in stages if stage != "soft"}
    counts = parameter_counts(stock)
    return Plan(settings, shape, counts, flops, prefill, memory, step)


def plan_shape(model: Mapping[str, Any], settings: PlanSettings) -> Shape:
    """The rows of one volume with its questions."""
    grid = volume_grid(model)
    visual = grid[0] * grid[1] * grid[2] // 4
    kept = visual
    if settings.keep is not None:
        keep = int(settings.keep) if settings.keep > 1 else settings.keep
        kept = int(budget_counts(keep, Segments([visual]))[0])
    return Shape(
        grid=grid,
        visual=visual,
        kept=kept,
        questions=settings.questions,
        prefix=settings.prefix,
        question=settings.question,
        answer=settings.answer,
        cut=selection_layer(model["text"]["num_hidden_layers"], settings.layer),
    )


def parameter_counts(stock: nn.Module) -> dict[str, int]:
    """Weights of the vision tower, of the language model with its head, and of all."""
    total = sum(p.numel() for p in stock.parameters())  # a tied head counts once
    vision = sum(p.numel() for p in stock.model.visual.parameters())
    patch = sum(p.numel() for p in stock.model.visual.patch_embed.parameters())
    return {"vision": vision, "language": total - vision, "total": total, "patch embedding": patch}


def plan_strategies(stock: nn.Module, settings: PlanSettings) -> list[Strategy]:
    """State of `trainer=gpu`, `ddp`, `zero2`, `fsdp`, and of LoRA, with AdamW.

    Mixed precision keeps float32 weights, gradients and two moments (16 bytes a weight) and bf16
    copies of the matrices; ZeRO-2 keeps bf16 weights whole and divides the rest (float32 master
    weights and moments); FSDP divides all of it and gathers a layer at a time in bf16.
    """
    counts = parameter_counts(stock)
    total, n = counts["total"], settings.gpus
    trained = total if settings.train == "all" else counts["patch embedding"]
    layers = stock.model.language_model.layers
    layer = sum(p.numel() for p in layers[0].parameters())
    root = stock.lm_head.weight.numel()
    adapters = counts["patch embedding"] + sum(
        settings.rank * (m.in_features + m.out_features)
        for m in layers.modules()
        if isinstance(m, nn.Linear)
    )
    share = 2 * (n - 1) / n  # of a ring all-reduce: reduce-scatter and all-gather
    mode: Trained = settings.train
    copies = 2 * total

    def replicated(name: str, mode: Trained, trained: int) -> Strategy:
        traffic = 4 * trained * share
        state = (4 * total, 4 * trained, 8 * trained, copies)
        return Strategy(name, "bf16-mixed", mode, *state, traffic)

    found = [replicated("single" if n == 1 else "ddp", mode, trained)]
    zero2 = (2 * total, 2 * trained / n, 12 * trained / n, 2 * 2 * min(BUCKET, trained))
    found.append(Strategy("zero2", "bf16-true", mode, *zero2, 2 * trained * share))
    gathered = 2 * (root + 2 * layer) + 2 * max(layer, root)  # weights, and one gradient
    fsdp = (4 * total / n, 4 * trained / n, 8 * trained / n, gathered)
    moved = (2 * 2 * total + 4 * trained) * (n - 1) / n
    found.append(Strategy("fsdp", "bf16-mixed", mode, *fsdp, moved))
    if settings.train == "all":
        found.append(replicated("lora", "lora", adapters))
    return found


def step_time(
    settings: PlanSettings, flops: Mapping[str, float], strategy: Strategy
) -> dict[str, float]:
    """Seconds of one step on every GPU; traffic is not hidden behind the products (upper bound).

    `compute_recomputed`: with activation checkpointing, one more forward pass but for the head.
    """
    rate = DEVICES[settings.device].peak * 1e12 * settings.utilisation
    forward = settings.volumes * sum(flops.values())
    again = forward - settings.volumes * flops["head"]
    compute = PASSES[strategy.trained] * forward / rate
    traffic = strategy.traffic / (settings.link * 1e9)
    questions = settings.gpus * settings.volumes * settings.questions
    return {
        "compute": compute,
        "compute_recomputed": compute + again / rate,
        "traffic": traffic,
        "questions_per_second": questions / (compute + traffic),
    }
