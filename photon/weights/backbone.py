"""Stock backbones, Qwen2.5-VL and Qwen3-VL: their configurations, and untrained modules."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from photon.annotations import mistakes
from photon.errors import InputError, did_you_mean
from photon.files import read_json
from photon.questions.prompts import token_id
from photon.weights.keys import EXPORTED
from photon.weights.shapes import TextShape, VisionShape

_ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3")
_TOKEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


@dataclass(frozen=True)
class Family:
    """The stock classes behind one `model_type`."""

    title: str
    config: type[PreTrainedConfig]
    model: type[nn.Module]

    @property
    def patch(self) -> int:
        """Edge in voxels of a patch in plane, unless a configuration says otherwise."""
        return self.config.sub_configs["vision_config"].patch_size


FAMILIES = {
    "qwen2_5_vl": Family("Qwen2.5-VL", Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": Family("Qwen3-VL", Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}


def find_family(name: str) -> Family:
    """The family of a `model_type`; ValueError for one that is not supported."""
    if name not in FAMILIES:
        raise ValueError(f"model.family={name!r}: legal values are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def backbone_config(
    text: Mapping, vision: Mapping, tokenizer=None, family: str = "qwen2_5_vl"
) -> PreTrainedConfig:
    """A stock configuration whose special token ids are those of `tokenizer`.

    Without a tokenizer the ids are the family's own and `text` must give `vocab_size`. Raises
    InputError when the tokenizer lacks a vision token or the vocabulary is too small.
    """
    kind = find_family(family).config
    _check_fields("text", text, kind.sub_configs["text_config"])
    _check_fields("vision", vision, kind.sub_configs["vision_config"])
    # The stock constructor edits its arguments in place.
    text, vision = copy.deepcopy(dict(text)), copy.deepcopy(dict(vision))
    ids = {}
    if tokenizer is not None:
        ids = {key: token_id(tokenizer, token) for key, token in _TOKEN_IDS.items()}
        text.setdefault("vocab_size", len(tokenizer))
        _check_vocabulary(text["vocab_size"], tokenizer)
        text["eos_token_id"] = token_id(tokenizer, "<|im_end|>")
        text["pad_token_id"] = token_id(tokenizer, "<|endoftext|>")
        text["bos_token_id"] = None
    tied = bool(text.get("tie_word_embeddings", True))
    return kind(text_config=text, vision_config=vision, tie_word_embeddings=tied, **ids)


def _check_fields(group: str, values: Mapping, kind: type) -> None:
    """The stock configuration takes any keyword and would ignore a misspelt one."""
    legal = set(inspect.signature(kind.__init__).parameters)
    known = {"tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"}
    unknown = sorted(set(values) - legal - known)
    if unknown:
        raise InputError(
            f"model.{group}.{unknown[0]}: {kind.__name__} has no such field, correct it or "
            f"leave it out{did_you_mean(unknown[0], legal)}"
        )


def check_tokenizer(config: PreTrainedConfig, tokenizer) -> None:
    """Raise InputError unless `tokenizer` gives the ids that the weights were trained with."""
    for key, token in _TOKEN_IDS.items():
        ours, theirs = token_id(tokenizer, token), getattr(config, key)
        if ours != theirs:
            raise InputError(
                f"the tokenizer {tokenizer.name_or_path!r} gives {token} the id {ours}, the "
                f"checkpoint's config.json {theirs} ({key}): use the tokenizer of the checkpoint"
            )
    _check_vocabulary(config.text_config.vocab_size, tokenizer)


def _check_vocabulary(size: int, tokenizer) -> None:
    if size < len(tokenizer):
        raise InputError(
            f"model.text.vocab_size={size} is smaller than the tokenizer's {len(tokenizer)} "
            "tokens: leave it out or raise it, or use the tokenizer of the checkpoint"
        )


def read_config(folder: str | Path) -> PreTrainedConfig:
    """The configuration of a checkpoint folder; InputError when absent or of another model.

    The text fields may lie at the top, as in the hub's Qwen2.5-VL, and channels may be called
    `in_chans`, which the stock class ignores and the authors' checkpoints rely on.
    """
    path = Path(folder) / "config.json"
    raw = read_json(
        path,
        "Give model.pretrained a directory or hub name of a Qwen2.5-VL or Qwen3-VL checkpoint",
    )
    _check_kernels(path, raw)
    raw["model_type"] = str(raw.get("model_type")).removeprefix(EXPORTED)  # of an export
    if raw["model_type"] not in FAMILIES:
        titles = " or ".join(family.title for family in FAMILIES.values())
        raise InputError(
            f"{path}: holds a {raw['model_type']} model; model.pretrained must be a {titles} "
            "checkpoint"
        )
    vision = raw.get("vision_config", {})
    wrong = [
        line
        for key, values, kind in (
            ("text_config", raw.get("text_config", raw), TextShape),
            ("vision_config", vision, VisionShape),
        )
        for line in mistakes(key, _given(values), kind)
    ]
    if wrong:
        raise InputError(f"{path}: {'; '.join(wrong)}. Copy config.json again")
    if "in_chans" in vision:
        vision["in_channels"] = vision.pop("in_chans")
    try:
        return FAMILIES[raw["model_type"]].config.from_dict(raw)
    except Exception as error:  # the stock classes' own validation has no common base
        raise InputError(f"{path}: {error}. Copy config.json again.") from error


def _given(values: Any) -> Any:
    """Fields with a value: the stock classes write null for what takes its default."""
    if not isinstance(values, Mapping):
        return values
    return {key: _given(value) for key, value in values.items() if value is not None}


def _check_kernels(path: Path, node: Any) -> None:
    """Raise InputError where a configuration names an attention that is not the library's own.

    Transformers fetches a name with a slash from the hub, as code.
    """
    for key, value in node.items() if isinstance(node, Mapping) else ():
        own = isinstance(value, str) and value in _ATTENTIONS
        if key.lstrip("_").startswith(("attn_implementation", "experts_implementation")):
            if key.endswith("_internal") or not (own or value is None or value is True):
                raise InputError(
                    f"{path}: {key}={value!r} would choose code to run. Remove it; attention is "
                    "chosen by model.attention"
                )
        _check_kernels(path, value)


def empty_backbone(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A backbone whose parameters are on the meta device: shapes only, in seconds at any size.

    Its rotary frequencies are real: they come from the configuration and no checkpoint holds them.
    """
    with torch.device("meta"):
        model = FAMILIES[config.model_type].model(config)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "inv_freq"):
                setattr(parent, name, type(child)(child.config))
    return _cast(model, dtype)


def new_backbone(
    config: PreTrainedConfig, seed: int = 0, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """A backbone with the stock random initialisation, by `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _cast(FAMILIES[config.model_type].model(config), dtype)


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Parameters in `dtype`, in place; the rotary frequencies need float32 and stay in it."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def replace_patch_embedding(
    model: nn.Module, temporal_patch_size: int, in_channels: int, init: str, seed: int = 0
) -> bool:
    """Give the vision tower patches of another depth or number of channels; nothing else changes.

    init: `random` draws N(0, initializer_range), the stock initialisation and what the authors did;
    `inflate` spreads the old kernel along depth, and over the channels where their number changes,
    so that a volume repeated to fill them gives the tokens that the old embedding gave for its
    slabs' averages (not in the paper). A bias (Qwen3-VL) stays. An embedding of the asked shape
    stays as it is; returns whether it was replaced.
    """
    if init not in ("random", "inflate"):
        raise ValueError(f"model.patch_init={init!r}: legal values are random, inflate")
    patch, config = model.model.visual.patch_embed, model.model.visual.config
    old = patch.proj
    width, channels, depth, *plane = old.weight.shape
    if (depth, channels) == (temporal_patch_size, in_channels):
        return False
    if init == "inflate":
        if temporal_patch_size % depth:
            raise ValueError(
                f"model.patch_init=inflate: a patch of {temporal_patch_size} slices cannot take "
                f"over one of {depth}; use a multiple"
            )
        kernel, repeat = old.weight.detach(), temporal_patch_size // depth
        if channels != in_channels:
            kernel = kernel.sum(1, keepdim=True).expand(-1, in_channels, -1, -1, -1) / in_channels
        kernel = kernel.repeat_interleave(repeat, 2) / repeat
    else:
        generator = torch.Generator().manual_seed(seed)
        shape = (width, in_channels, temporal_patch_size, *plane)
        kernel = torch.randn(shape, generator=generator) * config.initializer_range
    size = (temporal_patch_size, *plane)
    with torch.device("meta"):
        new = nn.Conv3d(in_channels, width, size, size, bias=old.bias is not None)
    new.weight = nn.Parameter(kernel.to(old.weight))
    new.bias = old.bias
    patch.proj = new
    # The stock module reshapes its rows by these.
    patch.temporal_patch_size, patch.in_channels = temporal_patch_size, in_channels
    config.temporal_patch_size, config.in_channels = temporal_patch_size, in_channels
    return True
