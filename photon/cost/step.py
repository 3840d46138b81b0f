"""Measures training steps, or prefill, with random weights of the true shapes on this machine.

The patch embedding and the pruning are told apart: each model runs unpruned, and the last one
pruned too, on the same volume and questions; every case is compared with the first.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from photon.batch.batch import VolumeBatch
from photon.cost.flops import PASSES, Shape, forward_flops, prefill_flops
from photon.cost.plan import PlanSettings, plan_shape
from photon.cost.settings import read_model, stock_config, stock_model
from photon.evaluation.report import collect_provenance
from photon.losses import answer_loss
from photon.model.photon import PhotonModel, Stage
from photon.pruning.its import PhotonPruner
from photon.questions.prompts import Prompt

GIB = 2**30
WATCHED = ("encode", "trunk", "select", "tail", "logits")


@dataclass(frozen=True)
class StepSettings:
    """The keys of `bench step`; `PlanSettings` explains those that it shares.

    models: files of conf/model, the one to compare with first. mode: a training step (forward,
    backward, AdamW) or the prefill of the answer's first token. attention: kernels, each measured,
    and compared in their logits. steps, warmup: timed, and not. device: auto, cpu, cuda.
    """

    models: Sequence[str] = ("photon_max", "photon")
    mode: Literal["train", "prefill"] = "train"
    keep: float = 0.39
    layer: float = 0.25
    questions: int = 1
    prefix: int = 20
    question: int = 80
    answer: int = 20
    attention: Sequence[str] = ("sdpa",)
    precision: Literal["auto", "bf16-mixed", "bf16-true", "32-true"] = "auto"
    checkpointing: bool = False
    steps: int = 10
    warmup: int = 3
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("steps", "questions", "question", "answer"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)}: must be at least 1")
        if self.warmup < 0 or self.prefix < 1:
            raise ValueError(f"warmup={self.warmup}, prefix={self.prefix}: at least 0 and 1")


@dataclass(frozen=True)
class Case:
    """One thing that is measured: a model file, its stage and its attention kernel."""

    model: str
    stage: Stage
    attention: str

    @property
    def name(self) -> str:
        pruned = "unpruned" if self.stage == "off" else "pruned"
        return f"{self.model}, {pruned}, {self.attention}"


def measure(settings: StepSettings, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run every case; the report is plain data. Raises ValueError for what cannot run here."""
    device = torch.device(_device(settings.device))
    precision = settings.precision
    if precision == "auto":
        precision = "bf16-mixed" if device.type == "cuda" else "32-true"
    stages: list[tuple[str, Stage]] = [(name, "off") for name in settings.models]
    stages.append((settings.models[-1], "hard"))
    cases, logits = [], {}
    for name, stage in stages:
        for attention in settings.attention:
            case = Case(name, stage, attention)
            say(f"{case.name} ...")
            found, answers = run_case(case, settings, device, precision)
            first = logits.setdefault((name, stage), answers)
            found["logits_gap"] = float((answers - first).abs().max() / first.abs().max())
            cases.append(found)
    for found in cases:
        found["ratios"] = ratios(cases[0], found)
    return {
        "settings": asdict(settings),
        "device": device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        **collect_provenance(),
        "cases": cases,
    }


def run_case(
    case: Case, settings: StepSettings, device: torch.device, precision: str
) -> tuple[dict[str, Any], Tensor]:
    """Time, memory, tokens and rate of one case, and its answers' logits before any step."""
    spec = read_model(case.model)
    model = random_model(spec, case, settings, device, precision)
    batch = random_batch(model, spec, settings).to(device)
    step = make_step(model, batch, case, settings, precision)
    with torch.no_grad(), _autocast(device, precision):
        logits = model(batch, case.stage).answers.logits.float().cpu()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = timed(step, settings.steps, settings.warmup, device)
    memory = torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None
    middle = statistics.median(seconds)
    shape = case_shape(spec, case, settings)
    training = settings.mode == "train"
    counted = (forward_flops if training else prefill_flops)(model.backbone, shape, case.stage)
    operations = sum(counted.values()) * (PASSES["all"] if training else 1)
    return {
        "name": case.name,
        **asdict(case),
        "visual_tokens": shape.visual,
        "kept_tokens": shape.kept if case.stage == "hard" else shape.visual,
        "seconds": middle,
        "seconds_spread": [min(seconds), max(seconds)],
        "seconds_forward": parts_of(model, step, device),
        "questions_per_second": settings.questions / middle,
        "peak_gpu_gib": memory,
        "tflop": operations / 1e12,
        "tflop_per_second": operations / 1e12 / middle,
    }, logits


def case_shape(spec: Mapping[str, Any], case: Case, settings: StepSettings) -> Shape:
    """The rows that a case runs; prefill has the row of the prompt's last token only."""
    shared = ("layer", "questions", "prefix", "question", "answer")
    values = {key: getattr(settings, key) for key in shared}
    return plan_shape(spec, PlanSettings(model=case.model, keep=settings.keep, **values))


def random_model(
    spec: Mapping[str, Any],
    case: Case,
    settings: StepSettings,
    device: torch.device,
    precision: str,
) -> PhotonModel:
    """A model of the settings' shapes; the same weights for every case of a model."""
    torch.manual_seed(settings.seed)
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    backbone = stock_model(stock_config(spec), str(device), dtype)
    pruner = None
    if case.stage != "off":
        keep = int(settings.keep) if settings.keep > 1 else settings.keep
        pruner = PhotonPruner(layer=settings.layer, keep=keep).to(device)
    return PhotonModel(
        backbone,
        pruner,
        case.attention,
        slab=spec.get("slab", 1),
        depth_stride=spec.get("depth_stride", 1),
        checkpointing=settings.checkpointing,
    ).train(settings.mode == "train")


def random_batch(
    model: PhotonModel, spec: Mapping[str, Any], settings: StepSettings
) -> VolumeBatch:
    """One random volume with random questions of the asked lengths."""
    generator = torch.Generator().manual_seed(settings.seed)
    volume = torch.rand(spec["preparation"]["size"], generator=generator)
    vocabulary = model.backbone.config.text_config.vocab_size
    answer = settings.answer if settings.mode == "train" else 1

    def prompt(head: list[int]) -> Prompt:
        n = settings.question + answer
        suffix = torch.randint(vocabulary // 2, (n,), generator=generator).tolist()
        return Prompt(head[:-1], head[-1:], suffix, (0, settings.question), settings.question)

    head = torch.randint(vocabulary // 2, (settings.prefix,), generator=generator).tolist()
    return model.builder([(volume,)], [[prompt(head) for _ in range(settings.questions)]])


def make_step(
    model: PhotonModel, batch: VolumeBatch, case: Case, settings: StepSettings, precision: str
) -> Callable[[], None]:
    """What is timed: forward, backward and AdamW, or the forward pass alone."""
    device = batch.patches.device
    if settings.mode == "prefill":

        def prefill() -> None:
            with torch.inference_mode(), _autocast(device, precision):
                model(batch, case.stage)

        return prefill
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-5, fused=device.type == "cuda")

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(device, precision):
            answers = model(batch, case.stage).answers
            loss = answer_loss(answers.logits, answers.targets, answers.questions).mean()
        loss.backward()
        optimizer.step()

    return train


def timed(step: Callable[[], None], steps: int, warmup: int, device: torch.device) -> list[float]:
    """Seconds of each of `steps` calls after `warmup` others."""
    for _ in range(warmup):
        step()
    seconds = []
    for _ in range(steps):
        _wait(device)
        start = time.perf_counter()
        step()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def parts_of(
    model: PhotonModel, step: Callable[[], None], device: torch.device
) -> dict[str, float]:
    """Seconds of each part of the forward pass in one more step, with a wait after each."""
    found: dict[str, float] = {}
    owners = {name: model.decoder if name == "tail" else model for name in WATCHED}

    def watch(name: str, method: Callable) -> Callable:
        def call(*args: Any, **options: Any) -> Any:
            _wait(device)
            start = time.perf_counter()
            outcome = method(*args, **options)
            _wait(device)
            found[name] = found.get(name, 0.0) + time.perf_counter() - start
            return outcome

        return call

    for name, owner in owners.items():  # the instance's attribute goes before the class's method
        owner.__dict__[name] = watch(name, getattr(owner, name))
    try:
        step()
    finally:
        for name, owner in owners.items():
            del owner.__dict__[name]
    return found


def ratios(base: Mapping[str, Any], case: Mapping[str, Any]) -> dict[str, float | None]:
    """How many times less a case takes than the base: seconds, operations, memory."""
    both = {key: (base[key], case[key]) for key in ("seconds", "tflop", "peak_gpu_gib")}
    return {key: a / b if a is not None else None for key, (a, b) in both.items()}


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={name}: there is no CUDA device here; use device=cpu")
    if name != "cpu" and not name.startswith("cuda"):
        raise ValueError(f"device={name}: legal values are auto, cpu, cuda, cuda:N")
    return name


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _autocast(device: torch.device, precision: str) -> AbstractContextManager:
    if precision != "bf16-mixed":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
