"""Floating-point operations of a pass, by part, as the engine runs it (docs/bench.md).

A product of (m, k) and (k, n) counts 2 m k n; a causal attention counts the pairs that it looks at.
Norms, activations, rotary embedding and the pruner's scores are below one per cent and left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import nn

from photon.batch.patches import Grid, window_order
from photon.cost.shape import Shape
from photon.model.photon import Stage

TERA = 1e12
# Forward passes that a training step costs: forward, gradient of the activations, of the weights.
PASSES = {"all": 3, "patch": 2, "lora": 2}
Trained = Literal["all", "patch", "lora"]


def causal_pairs(rows: int, before: int = 0) -> int:
    """Pairs of rows in an attention of `rows` that see each other causally and `before` others."""
    return rows * before + rows * (rows + 1) // 2


def linear_weights(module: nn.Module) -> int:
    """Entries of the matrices that a row meets in a module's linear layers."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def forward_flops(model: nn.Module, shape: Shape, stage: Stage) -> dict[str, float]:
    """Operations of one teacher-forced pass over one volume and all of its questions, by part."""
    answers = shape.questions * max(shape.answer, 1)
    return {
        **encoder_flops(model.model.visual, shape.grid),
        **decoder_flops(model.model.language_model, shape, stage),
        "head": 2.0 * model.lm_head.weight.numel() * answers,
    }


def prefill_flops(model: nn.Module, shape: Shape, stage: Stage) -> dict[str, float]:
    """Operations until every question's first answer token is there: no answer rows."""
    return forward_flops(model, replace(shape, answer=0), stage)


def encoder_flops(visual: nn.Module, grid: Grid) -> dict[str, float]:
    """Patch embedding, blocks and mergers over one volume."""
    config = visual.config
    patches = grid[0] * grid[1] * grid[2]
    merged = patches // config.spatial_merge_size**2
    slab = grid[0] * (grid[1] * grid[2]) ** 2
    windowed = 0
    pairs = slab * config.depth
    if hasattr(config, "window_size"):
        window = config.window_size // config.patch_size // config.spatial_merge_size
        lengths = window_order(grid, config.spatial_merge_size, window)[1]
        windowed = config.depth - len([i for i in config.fullatt_block_indexes if i < config.depth])
        pairs = slab * (config.depth - windowed) + windowed * sum(n * n for n in lengths)
    mergers = [visual.merger, *getattr(visual, "deepstack_merger_list", ())]
    blocks = 2.0 * linear_weights(visual.blocks) * patches + 4.0 * config.hidden_size * pairs
    return {
        "patch embedding": 2.0 * visual.patch_embed.proj.weight.numel() * patches,
        "ViT blocks": blocks,
        "merger": 2.0 * sum(linear_weights(merger) for merger in mergers) * merged,
    }


def decoder_flops(language: nn.Module, shape: Shape, stage: Stage) -> dict[str, float]:
    """Layers up to l and above it."""
    config = language.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads, layer = config.num_attention_heads, linear_weights(language.layers[0])

    def one(rows: int, within: int, reading: int, gated: bool = False) -> float:
        """A layer over so many rows; pairs within prefixes, and of suffixes with what they read."""
        wide = size + (8 - size % 8 if gated else 0)  # a gate is one more dimension, filled up
        return 2.0 * layer * rows + 4.0 * heads * (size * within + wide * reading)

    prefix, suffix, questions = shape.prefix + shape.visual, shape.suffix, shape.questions
    reading = questions * causal_pairs(suffix, prefix)
    below = above = one(shape.rows_below(), causal_pairs(prefix), reading)
    if stage != "off":
        seen = shape.prefix + (shape.visual if stage == "soft" else shape.kept)
        within = questions * causal_pairs(seen)
        if shape.tail != "question":
            within = causal_pairs(prefix if stage == "soft" else shape.prefix + shape.once)
        reading = questions * causal_pairs(suffix, seen)
        above = one(shape.rows_above(stage), within, reading, shape.gated(stage))
    return {
        "layers up to l": below * shape.cut,
        "layers above l": above * (config.num_hidden_layers - shape.cut),
    }
