"""Measures passes with random weights of the true shapes on this machine.

Cases are interleaved: every round runs each of them once, so that what else the machine does falls
on all alike. Processor seconds stand beside elapsed ones. A training step here is forward and
backward: AdamW's time depends on the weights alone (`experiment=true_shapes` runs whole steps).
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from photon.batch.batch import VolumeBatch
from photon.cost.flops import PASSES, forward_flops, prefill_flops
from photon.cost.shape import Shape
from photon.evaluation.provenance import collect_provenance
from photon.losses import answer_loss
from photon.model.photon import PhotonModel, Stage
from photon.peak import PeakMemory
from photon.pruning.base import Pruner
from photon.questions.prompts import Prompt

GIB = 2**30
WATCHED = ("encode", "trunk", "select", "tail", "logits")
Mode = Literal["train", "prefill"]
Step = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One thing that is measured: a model in a stage over one volume with its questions."""

    name: str
    model: PhotonModel
    shape: Shape
    stage: Stage = "hard"
    mode: Mode = "train"
    precision: str = "32-true"
    seed: int = 0

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def step(self) -> Step:
        """What is timed."""
        batch = self.batch()
        self.model.train(self.mode == "train")
        return passes(self.model, lambda: self.loss(batch), self.mode, self.precision)

    def batch(self) -> VolumeBatch:
        return random_batch(self.model, self.shape, self.mode, self.seed).to(self.device)

    def loss(self, batch: VolumeBatch) -> torch.Tensor:
        """The answers' mean cross-entropy."""
        answers = self.model(batch, self.stage).answers
        return answer_loss(answers.logits, answers.targets, answers.questions).mean()

    def facts(self) -> dict[str, Any]:
        """What is known without measuring."""
        training = self.mode == "train"
        count = forward_flops if training else prefill_flops
        operations = sum(count(self.model.backbone, self.shape, self.stage).values())
        return {
            "name": self.name,
            "mode": self.mode,
            "stage": self.stage,
            "questions": self.shape.questions,
            "visual_tokens": self.shape.visual,
            "kept_tokens": self.shape.kept if self.stage == "hard" else self.shape.visual,
            "tflop": operations * (PASSES["all"] if training else 1) / 1e12,
        }


def passes(model: nn.Module, loss: Callable[[], torch.Tensor], mode: Mode, precision: str) -> Step:
    """Forward and backward, or the forward pass alone."""
    device = next(model.parameters()).device

    def train() -> None:
        model.zero_grad(set_to_none=True)
        with _autocast(device, precision):
            value = loss()
        value.backward()

    def prefill() -> None:
        with torch.no_grad(), _autocast(device, precision):
            loss()

    return train if mode == "train" else prefill


def environment(case: Case) -> dict[str, Any]:
    """Where a report's numbers come from."""
    device = case.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": case.precision,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        **collect_provenance(),
    }


def with_pruner(model: PhotonModel, pruner: Pruner | None) -> PhotonModel:
    """The same weights with another pruner."""
    twin = copy.copy(model)
    twin._modules = dict(model._modules)
    twin.pruner = pruner
    return twin


def random_batch(model: PhotonModel, shape: Shape, mode: Mode, seed: int = 0) -> VolumeBatch:
    """One random volume with random questions of the shape's lengths; prefill asks for one row."""
    generator = torch.Generator().manual_seed(seed)
    volume = torch.rand(model.preparation.size, generator=generator)
    words = min(model.backbone.config.text_config.vocab_size // 2, 512)  # none is a special token
    answer = shape.answer if mode == "train" else 1

    def prompt(head: list[int]) -> Prompt:
        n = shape.question + answer
        suffix = torch.randint(words, (n,), generator=generator).tolist()
        return Prompt(head[:-1], head[-1:], suffix, (0, shape.question), shape.question)

    head = torch.randint(words, (shape.prefix,), generator=generator).tolist()
    return model.builder([(volume,)], [[prompt(head) for _ in range(shape.questions)]])


def measure(
    steps: Sequence[Step],
    device: torch.device,
    rounds: int = 5,
    warmup: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Seconds, processor seconds and peak memory of each step: medians over interleaved rounds."""
    for _ in range(warmup):
        for step in steps:
            step()
    memory = [peak_memory(step, device) for step in steps]
    wall: list[list[float]] = [[] for _ in steps]
    busy: list[list[float]] = [[] for _ in steps]
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for i, step in enumerate(steps):
            begun, used = time.perf_counter(), time.process_time()
            step()
            _wait(device)
            wall[i].append(time.perf_counter() - begun)
            busy[i].append(time.process_time() - used)
    return [
        {
            "seconds": statistics.median(w),
            "seconds_spread": [min(w), max(w)],
            "processor_seconds": statistics.median(b),
            "peak_gib": m,
        }
        for w, b, m in zip(wall, busy, memory, strict=True)
    ]


def peak_memory(step: Step, device: torch.device) -> float | None:
    """GiB above what was held before, at the peak of a step; None where it cannot be told.

    See `PeakMemory`.
    """
    with PeakMemory(device) as peak:
        step()
    return None if peak.nbytes is None else peak.nbytes / GIB


def parts_of(model: PhotonModel, step: Step) -> dict[str, float]:
    """Seconds of each part of the forward pass in one more step, with a wait after each."""
    found: dict[str, float] = {}
    owners = {name: model.decoder if name == "tail" else model for name in WATCHED}
    device = next(model.parameters()).device

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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _autocast(device: torch.device, precision: str) -> AbstractContextManager:
    if precision != "bf16-mixed":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
