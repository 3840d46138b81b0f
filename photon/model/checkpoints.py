"""Models from a configuration, and exports: a folder that stock Transformers can load too.

An export holds `config.json` and `model.safetensors` in the stock Qwen2.5-VL layout, the tokenizer,
`photon.json` (pruner, preparation, positions, provenance) and `pruner.safetensors`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from photon.errors import InputError
from photon.model.backbone import (
    backbone_config,
    load_backbone,
    new_backbone,
    replace_patch_embedding,
)
from photon.model.photon import PhotonModel
from photon.pruning.base import Pruner
from photon.pruning.baselines.attention import AttentionPruner
from photon.pruning.baselines.random import RandomPruner
from photon.pruning.baselines.uniform import UniformPruner
from photon.pruning.its import PhotonPruner
from photon.volume.preparation import Preparation

FORMAT = 2
PRUNERS = {
    "photon": PhotonPruner,
    "random": RandomPruner,
    "uniform": UniformPruner,
    "fastv": AttentionPruner,
}
TOKENIZERS = Path(__file__).parent / "tokenizers"
WEIGHTS = Path(__file__).parent / "weights"


def build_model(
    text: Mapping,
    vision: Mapping,
    preparation: Mapping | Preparation,
    pruner: Pruner | None = None,
    pretrained: str | None = None,
    patch_init: str = "random",
    tokenizer: str | None = None,
    depth_stride: int = 1,
    slab: int = 1,
    image_mean: float | Sequence[float] = 0.0,
    image_std: float | Sequence[float] = 1.0,
    attention: str = "sdpa",
    kv: str = "full",
    positions: str = "trained",
    checkpointing: bool = False,
    seed: int = 0,
) -> PhotonModel:
    """A model with random weights, or with those of a stock checkpoint or an export.

    With `pretrained`, `text` is the checkpoint's own and `vision` gives its patches their depth and
    channels; an embedding of another shape starts by `patch_init` (`replace_patch_embedding`).
    `pretrained` may be the built-in `tiny` (see photon/model/weights). `tokenizer`: a directory, a
    hub name, the built-in `tiny`, or None for the one beside the weights. Raises InputError for
    what is missing or does not fit, before any long work.
    """
    if isinstance(preparation, Mapping):
        preparation = Preparation.from_dict(dict(preparation))
    if pretrained is not None and (WEIGHTS / pretrained).is_dir():
        pretrained = str(WEIGHTS / pretrained)
    words = load_tokenizer(tokenizer or pretrained)
    if pretrained is None:
        backbone = new_backbone(backbone_config(text, vision, words), seed)
    else:
        _check_preparation(Path(pretrained), preparation)
        backbone = load_backbone(pretrained)
        check_shape(pretrained, backbone.config, text, vision)
        replace_patch_embedding(
            backbone,
            vision.get("temporal_patch_size", 2),
            vision.get("in_channels", 3),
            patch_init,
            seed,
        )
    model = PhotonModel(
        backbone,
        pruner,
        attention,
        kv,
        words,
        preparation,
        depth_stride,
        slab,
        image_mean,
        image_std,
        positions,
        checkpointing,
    )
    return model.train()


def check_shape(path: str, config, text: Mapping, vision: Mapping) -> None:
    """Raise InputError where the asked architecture is not that of the loaded weights."""
    free = {"temporal_patch_size", "in_channels", "rope_parameters", "vocab_size"}
    wrong = [
        f"model.{group}.{key}={value} (the weights have {getattr(part, key)})"
        for group, part, asked in (
            ("text", config.text_config, text),
            ("vision", config.vision_config, vision),
        )
        for key, value in asked.items()
        if key not in free and hasattr(part, key) and getattr(part, key) != value
    ]
    if wrong:
        raise InputError(
            f"{path} is another architecture: {', '.join(wrong)}. Choose the model that the "
            "weights belong to, or set model.pretrained=null for random ones"
        )


def load_tokenizer(name: str | None) -> PreTrainedTokenizerBase:
    """A tokenizer from a directory or hub name, or the built-in `tiny`; offline where it can be."""
    if name is None:
        raise InputError("model.tokenizer is empty and there is no model.pretrained: set one")
    folder = TOKENIZERS / name
    try:
        return AutoTokenizer.from_pretrained(folder if folder.is_dir() else name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no tokenizer in {name}: give model.tokenizer (or model.pretrained) a directory or "
            "hub name with tokenizer.json"
        ) from error


def save_export(
    model: PhotonModel,
    folder: str | Path,
    provenance: Mapping | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write an export (see the module's docstring); in `dtype`, or the model's own precision.

    The pruner stays in float32: its threshold is compared with scores.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    backbone = model.backbone if dtype is None else copy.deepcopy(model.backbone).to(dtype)
    backbone.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    pruner = None
    if model.pruner is not None:
        names = {kind: name for name, kind in PRUNERS.items()}
        pruner = {"name": names[type(model.pruner)], "options": model.pruner.options}
        state = {k: v.contiguous() for k, v in model.pruner.state_dict().items()}
        save_file(state, folder / "pruner.safetensors")
    spec = {
        "format": FORMAT,
        "pruner": pruner,
        "preparation": model.preparation.to_dict(),
        "depth_stride": model.depth_stride,
        "slab": model.slab,
        "image_mean": model.image_mean,
        "image_std": model.image_std,
        "kv": model.kv,
        "positions": model.positions,
        "provenance": dict(provenance or {}),
    }
    (folder / "photon.json").write_text(json.dumps(spec, indent=2) + "\n")


def load_export(
    folder: str | Path, attention: str = "sdpa", dtype: torch.dtype = torch.float32
) -> PhotonModel:
    """Load an export, ready to answer. Raises InputError when anything is missing or damaged."""
    folder = Path(folder)
    spec = read_spec(folder)
    if spec is None:
        raise InputError(
            f"{folder} has no photon.json: give the export/ folder that training wrote"
        )
    pruner = None
    if spec["pruner"] is not None:
        pruner = PRUNERS[spec["pruner"]["name"]](**spec["pruner"]["options"])
        _load_pruner(pruner, folder / "pruner.safetensors")
    model = PhotonModel(
        load_backbone(folder, dtype=dtype),
        pruner,
        attention,
        spec["kv"],
        load_tokenizer(str(folder)),
        Preparation.from_dict(spec["preparation"]),
        spec["depth_stride"],
        spec["slab"],
        spec["image_mean"],
        spec["image_std"],
        spec.get("positions", "trained"),  # exports older than the key had no other
    )
    return model.eval()


def read_spec(folder: Path) -> dict | None:
    """photon.json of an export, or None where the folder is not one."""
    path = folder / "photon.json"
    if not path.is_file():
        return None
    try:
        spec = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: not valid JSON: export the model again"
        ) from error
    if spec.get("format") != FORMAT:
        raise InputError(
            f"{path}: format {spec.get('format')} is not {FORMAT}, which this version reads: "
            "export the model again with this version"
        )
    return spec


def _load_pruner(pruner: nn.Module, path: Path) -> None:
    try:
        state = load_file(path)
        pruner.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(
            f"{path} is missing or damaged ({error}): export the model again"
        ) from error


def _check_preparation(folder: Path, preparation: Preparation) -> None:
    """An export's weights go with the volumes that they were trained on."""
    spec = read_spec(folder) if folder.is_dir() else None
    if spec is None:
        return
    trained = Preparation.from_dict(spec["preparation"])
    if trained.fingerprint() != preparation.fingerprint():
        ours, theirs = preparation.to_dict(), trained.to_dict()
        keys = [k for k in theirs if theirs[k] != ours[k]]
        listed = ", ".join(f"{k}={ours[k]} (trained with {theirs[k]})" for k in keys)
        raise InputError(
            f"model.preparation differs from that of {folder}: {listed}. Use the values that the "
            "weights were trained with"
        )
