"""What `bench` is asked: the model files of conf/model read as data, and the devices it knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from photon.batch.patches import Grid, patch_grid
from photon.errors import InputError

MODELS = Path(__file__).resolve().parents[2] / "conf" / "model"


@dataclass(frozen=True)
class Device:
    """An accelerator: bf16 matrix products without sparsity (TFLOP/s) and memory (GiB)."""

    peak: float
    memory: float


# Data sheets of the vendor. H200: what is sustained in a matrix product is nearer to 790.
DEVICES = {
    "a100": Device(312, 80),
    "h100": Device(989, 80),
    "h200": Device(989, 140),
    "h20": Device(148, 96),  # of the paper
}


def read_model(name: str) -> dict[str, Any]:
    """The settings of conf/model/NAME.yaml, or of a file in its form, upon those of its parents.

    This library knows no Hydra; the files use one piece of it, a list of parents (`defaults`),
    which is followed here. Raises InputError where there is no such file.
    """
    path = Path(name) if name.endswith(".yaml") else MODELS / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in MODELS.glob("*.yaml")))
        raise InputError(f"model={name}: there is no {path}; give one of {there}, or a .yaml file")
    own = yaml.safe_load(path.read_text())
    found: dict[str, Any] = {}
    for parent in own.pop("defaults", ["_self_"]):
        settings = own if parent == "_self_" else read_model(str(path.parent / f"{parent}.yaml"))
        found = _merged(found, settings)
    return found


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        nested = isinstance(old, Mapping) and isinstance(value, Mapping)
        both[key] = _merged(old, value) if nested else value
    return both


def stock_config(model: Mapping[str, Any], layers: int | None = None):
    """The stock configuration of a model's settings; `layers`: so many of each kind only."""
    from transformers import AutoConfig

    text, vision = dict(model["text"]), dict(model["vision"])
    text.setdefault("vocab_size", 1024)  # of the tiny models: as many as their tokenizer has
    text |= {"bos_token_id": None, "eos_token_id": None}  # nothing is decoded
    if layers is not None:
        text["num_hidden_layers"] = vision["depth"] = layers
    return AutoConfig.for_model(
        model.get("family", "qwen2_5_vl"),
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=bool(text.get("tie_word_embeddings", True)),
        video_token_id=text["vocab_size"] - 1,
    )


def stock_model(config, device: str = "meta", dtype: torch.dtype = torch.float32) -> nn.Module:
    """A stock model of a configuration; on the meta device it takes no memory."""
    from transformers import AutoModelForImageTextToText

    with torch.device(device):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype)


def volume_grid(model: Mapping[str, Any]) -> Grid:
    """Patches of one volume along depth, height and width."""
    depth, height, width = model["preparation"]["size"]
    vision = model["vision"]
    patch = (vision["temporal_patch_size"], vision["patch_size"], vision["patch_size"])
    return patch_grid((depth // model.get("slab", 1), height, width), patch)
