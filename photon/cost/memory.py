"""Memory of a training step: what autograd keeps, counted, and the state of each strategy.

Activations are not guessed by a formula: one and two layers of the model run with our own loops on
tensors without data (FakeTensorMode), and every tensor that autograd saves is counted; all layers
are alike. GiB = 2^30 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from photon.batch.layout import Layout, lay_out
from photon.cost.flops import linear_weights
from photon.cost.shape import Shape, stock_model
from photon.model.attention import SharedPlan
from photon.model.encoder import VolumeEncoder
from photon.model.layers import DecoderLayers
from photon.model.photon import Stage
from photon.packing import Segments

Precision = Literal["bf16-mixed", "bf16-true", "32-true"]


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps of one volume and its questions.

    `fixed` once, and per part (ViT, layers up to l, layers above l) the number of layers, the bytes
    of each, and the bytes of its input, which is all that recomputing keeps of it.
    """

    fixed: int
    layers: dict[str, tuple[int, int, int]]

    def total(self, checkpointing: bool = False) -> int:
        """All bytes at the end of the forward pass; when recomputing, with one layer made anew."""
        parts = self.layers.values()
        if not checkpointing:
            return self.fixed + sum(n * each for n, each, _ in parts)
        kept = sum(n * entry for n, _, entry in parts)
        return self.fixed + kept + max(each for _, each, _ in parts)

    def vision(self) -> int:
        n, each, _ = self.layers["ViT blocks"]
        return n * each


def activations(
    model: Mapping[str, Any], shape: Shape, stage: Stage, precision: Precision
) -> Activations:
    """What a step in `stage` keeps of one volume and its questions."""
    mixed = precision == "bf16-mixed"
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    wide = 4 if dtype == torch.float32 else 2  # of the residual stream
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # plans hold real row numbers
    with fake:
        one, two = (stock_model(model, "cpu", dtype, n) for n in (1, 2))

    def count(run: Callable[[], Any], used: nn.Module) -> int:
        copies = 2 * linear_weights(used) if mixed else 0  # of weights: a column of its own
        with fake, torch.autocast("cpu", torch.bfloat16, mixed, cache_enabled=False):
            return saved_bytes(run, one, two) - copies

    text, tower = model["text"], model["vision"]
    vision = [_encode(stock, shape.grid, dtype) for stock in (one, two)]
    towers = [count(run, stock.model.visual) for run, stock in zip(vision, (one, two), strict=True)]
    block = towers[1] - towers[0]
    patches = shape.grid[0] * shape.grid[1] * shape.grid[2]
    layers = {"ViT blocks": (tower["depth"], block, wide * patches * tower["hidden_size"])}
    n = text["num_hidden_layers"]
    for name, number, layout, gated in (
        ("layers up to l", shape.cut, layout_of(shape), False),
        ("layers above l", n - shape.cut, layout_of(shape, stage), shape.gated(stage)),
    ):
        each = count(_decode(one, layout, gated, dtype), one.model.language_model)
        layers[name] = (number, each, wide * len(layout.rows) * text["hidden_size"])
    answers = shape.questions * max(shape.answer, 1)
    # Logits in the head's precision, in float32 for the loss, and its log-softmax.
    head = answers * one.lm_head.out_features * (4 + 4 + (2 if wide == 2 or mixed else 4))
    return Activations(towers[0] - block + head, layers)


def saved_bytes(run: Callable[[], Any], *models: nn.Module) -> int:
    """Bytes of the tensors that autograd saves while `run` runs, but for the models' weights."""
    own = {p.untyped_storage()._cdata for model in models for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outcome = run()
    del outcome
    return sum(storage.nbytes() for storage in kept.values())


def _encode(stock: nn.Module, grid, dtype: torch.dtype) -> Callable[[], Any]:
    encoder = VolumeEncoder(stock.model.visual)
    encoder._plan((grid,), torch.device("cpu"))  # real row numbers, before anything is fake
    voxels = stock.model.visual.patch_embed.proj.weight[0].numel()
    patches = grid[0] * grid[1] * grid[2]
    return lambda: encoder(torch.empty(patches, voxels, dtype=dtype), [grid])


def _decode(stock: nn.Module, layout: Layout, gated: bool, dtype: torch.dtype) -> Callable[[], Any]:
    layers = DecoderLayers(stock.model.language_model)
    plan = SharedPlan(layout.prefixes, layout.suffixes, layout.reads)

    def run() -> Any:
        hidden = torch.empty(len(layout.rows), layers.model.config.hidden_size, dtype=dtype)
        positions = torch.empty(3, len(layout.rows), dtype=torch.long)
        keys = sum(map(len, layout.reads)) + sum(layout.suffixes)
        gate = torch.empty(keys).requires_grad_() if gated else None
        return layers.run(hidden.requires_grad_(), positions, plan, 0, 1, gate=gate)

    return run


def layout_of(shape: Shape, stage: Stage = "off") -> Layout:
    """The rows of the layers above l in a stage; `off` is those of the layers up to l too."""
    visual = torch.arange(shape.prefix + shape.visual) >= shape.prefix
    suffixes = Segments([shape.suffix] * shape.questions)
    keep = kept_pairs(shape) if stage == "hard" else None
    tail = "all" if stage == "off" else shape.tail
    volumes = [0] * shape.questions
    return lay_out(Segments([len(visual)]), suffixes, volumes, visual, keep, tail)


def kept_pairs(shape: Shape) -> torch.Tensor:
    """(J,) which tokens the questions keep, together as many as `shape.once` says."""
    keep = torch.zeros(shape.questions, shape.visual, dtype=torch.bool)
    room = min(shape.once, shape.visual) - shape.kept
    for i, one in enumerate(keep):
        first = i * room // max(shape.questions - 1, 1)
        one[first : first + shape.kept] = True
    return keep.flatten()
