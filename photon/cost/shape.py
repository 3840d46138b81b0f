"""What a pass is made of: the stock model of a configuration, and the rows of a volume's questions.

All of it is computed from the node `model` of a configuration: no weights, no volume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from photon.batch.layout import Tail
from photon.batch.patches import Grid, patch_grid
from photon.model.photon import Stage
from photon.packing import Segments
from photon.pruning.base import selection_layer
from photon.pruning.retention import budget_counts

VOCABULARY = 1129  # of the tiny models, which take their tokenizer's


@dataclass(frozen=True)
class Device:
    """An accelerator: bf16 matrix products without sparsity (TFLOP/s) and usable memory (GiB)."""

    peak: float
    memory: float


# The vendor's data sheets; memory as CUDA reports it. H20: the paper's.
DEVICES = {
    "a100": Device(312, 79),
    "h100": Device(989, 79),
    "h200": Device(989, 139),
    "h20": Device(148, 95),
}


@dataclass(frozen=True)
class Shape:
    """One volume and its questions, in rows of the decoder.

    grid: patches of the volume; visual and kept: its tokens, and those that each question keeps;
    prefix: text rows before the question; question and answer: rows of each; cut: layers l that
    run at full length; tail: which rows the layers above l run (`pruner.tail`).
    """

    grid: Grid
    visual: int
    kept: int
    questions: int
    prefix: int
    question: int
    answer: int
    cut: int
    tail: Tail = "question"

    @property
    def suffix(self) -> int:
        return self.question + self.answer

    @property
    def once(self) -> int:
        """Visual rows that a shared tail runs once, pruned.

        Of a `union`, what questions that choose independently would keep together: those of one
        volume choose alike, so that this is an upper bound.
        """
        if self.tail == "all" or self.kept == self.visual:
            return self.visual
        return round(self.visual * (1 - (1 - self.kept / self.visual) ** self.questions))

    def gated(self, stage: Stage) -> bool:
        """Whether a gate on the keys stands for the weights of tokens in the layers above l."""
        return self.tail != "question" and stage != "off"

    def rows_below(self) -> int:
        """Decoder rows of layers up to l: the prefix once, every question's own rows."""
        return self.prefix + self.visual + self.questions * self.suffix

    def rows_above(self, stage: Stage) -> int:
        """Decoder rows of the layers above l."""
        if stage == "off" or (stage == "soft" and self.tail != "question"):
            return self.rows_below()
        if self.tail != "question":
            return self.prefix + self.once + self.questions * self.suffix
        visual = self.visual if stage == "soft" else self.kept
        return self.questions * (self.prefix + visual + self.suffix)


def shape_of(
    model: Mapping[str, Any],
    keep: float | None,
    questions: int,
    prefix: int,
    question: int,
    answer: int,
    layer: float = 0.25,
    tail: Tail = "question",
) -> Shape:
    """The rows of one volume with its questions; `keep`: share, or count above 1, or None."""
    depth, height, width = model["preparation"]["size"]
    vision = model["vision"]
    patch = (vision["temporal_patch_size"], vision["patch_size"], vision["patch_size"])
    grid = patch_grid((depth // model.get("slab", 1), height, width), patch)
    visual = grid[0] * grid[1] * grid[2] // 4
    kept = visual
    if keep is not None:
        budget = int(keep) if keep > 1 else keep
        kept = int(budget_counts(budget, Segments([visual]))[0])
    cut = selection_layer(model["text"]["num_hidden_layers"], layer)
    return Shape(grid, visual, kept, questions, prefix, question, answer, cut, tail)


def stock_model(
    model: Mapping[str, Any],
    device: str = "meta",
    dtype: torch.dtype = torch.float32,
    layers: int | None = None,
) -> nn.Module:
    """The stock model of a configuration's node; on meta it takes no memory.

    layers: so many decoder layers and vision blocks only.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    text, vision = dict(model["text"]), dict(model["vision"])
    text.setdefault("vocab_size", VOCABULARY)
    text |= {"bos_token_id": None, "eos_token_id": None}  # nothing is decoded
    if layers is not None:
        text["num_hidden_layers"] = vision["depth"] = layers
    config = AutoConfig.for_model(
        model.get("family", "qwen2_5_vl"),
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=bool(text.get("tie_word_embeddings", True)),
    )
    with torch.device(device):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype)
