"""Stock Qwen2.5-VL backbones: built from a configuration, or loaded, every key accounted for."""

from __future__ import annotations

import copy
import difflib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from photon.errors import InputError

_TOKEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def backbone_config(text: Mapping, vision: Mapping, tokenizer) -> Qwen2_5_VLConfig:
    """A stock configuration whose special token ids are those of `tokenizer`.

    Raises InputError when the tokenizer lacks a vision token or the vocabulary is too small.
    """
    _check_fields("text", text, Qwen2_5_VLConfig.sub_configs["text_config"])
    _check_fields("vision", vision, Qwen2_5_VLConfig.sub_configs["vision_config"])
    ids = {key: token_id(tokenizer, token) for key, token in _TOKEN_IDS.items()}
    # The stock constructor edits its arguments in place.
    text, vision = copy.deepcopy(dict(text)), copy.deepcopy(dict(vision))
    text.setdefault("vocab_size", len(tokenizer))
    if text["vocab_size"] < len(tokenizer):
        raise InputError(
            f"model.text.vocab_size={text['vocab_size']} is smaller than the tokenizer's "
            f"{len(tokenizer)} tokens: leave it out or raise it"
        )
    text["eos_token_id"] = token_id(tokenizer, "<|im_end|>")
    text["pad_token_id"] = token_id(tokenizer, "<|endoftext|>")
    text["bos_token_id"] = None
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=bool(text.get("tie_word_embeddings", True)),
        **ids,
    )


def _check_fields(group: str, values: Mapping, kind: type) -> None:
    """The stock configuration takes any keyword and would ignore a misspelt one."""
    legal = set(inspect.signature(kind.__init__).parameters)
    unknown = sorted(set(values) - legal - {"tie_word_embeddings"})
    if unknown:
        near = difflib.get_close_matches(unknown[0], legal, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"model.{group}.{unknown[0]}: {kind.__name__} has no such field{hint} "
            "Correct it, or leave it out."
        )


def token_id(tokenizer, token: str) -> int:
    """Id of a special token; InputError when the tokenizer does not have it."""
    index = tokenizer.convert_tokens_to_ids(token)
    if index is None or index == tokenizer.unk_token_id:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no {token} token: use the tokenizer of "
            "a Qwen2.5-VL model"
        )
    return index


def new_backbone(config: Qwen2_5_VLConfig, seed: int = 0) -> nn.Module:
    """A backbone with the stock random initialisation, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2_5_VLForConditionalGeneration(config).float()


def load_backbone(path: str | Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Load a stock Qwen2.5-VL checkpoint (directory or hub name).

    Every missing, unused or misshapen key is an InputError: the stock loader only warns, and leaves
    random weights behind.
    """
    config = read_config(path)
    try:
        model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # safetensors, json and hub errors have no common base
        raise InputError(
            f"cannot load the weights in {path}: {error}. Copy the checkpoint again, or correct "
            "model.pretrained"
        ) from error
    faults = {
        "missing": [k for k in info["missing_keys"] if not _tied(k, config)],
        "not used": list(info["unexpected_keys"]),
        "of another shape": [entry[0] for entry in info["mismatched_keys"]],
    }
    wrong = {what: keys for what, keys in faults.items() if keys}
    if wrong:
        text = "; ".join(f"{what}: {', '.join(sorted(keys)[:5])}" for what, keys in wrong.items())
        raise InputError(
            f"the checkpoint in {path} does not fit its configuration ({text}): the weights and "
            "config.json must come from one Qwen2.5-VL model"
        )
    return model


def replace_patch_embedding(
    model: nn.Module, temporal_patch_size: int, in_channels: int, init: str, seed: int = 0
) -> None:
    """Give the vision tower patches of another depth or number of channels; nothing else changes.

    init: `random` draws N(0, initializer_range), the stock initialisation and what the authors did;
    `inflate` spreads the old kernel along depth and adds up its channels, so that a volume gives
    the tokens that the old embedding gave for its slabs' averages (not in the paper). An embedding
    of the asked shape stays as it is.
    """
    if init not in ("random", "inflate"):
        raise ValueError(f"model.patch_init={init!r}: legal values are random, inflate")
    visual = model.model.visual
    old = visual.patch_embed.proj.weight.detach()
    width, channels, depth, *plane = old.shape
    if (depth, channels) == (temporal_patch_size, in_channels):
        return
    if init == "inflate" and (temporal_patch_size % depth or in_channels != 1):
        raise ValueError(
            f"model.patch_init=inflate: a patch of {temporal_patch_size} slices and {in_channels} "
            f"channels cannot take over one of {depth} slices; use a multiple, and one channel"
        )
    config = visual.config
    config.temporal_patch_size, config.in_channels = temporal_patch_size, in_channels
    patch = type(visual.patch_embed)(plane[0], temporal_patch_size, in_channels, width)
    if init == "inflate":
        repeat = temporal_patch_size // depth
        kernel = old.sum(1, keepdim=True).repeat_interleave(repeat, 2) / repeat
    else:
        generator = torch.Generator().manual_seed(seed)
        shape = (width, in_channels, temporal_patch_size, *plane)
        kernel = torch.randn(shape, generator=generator) * config.initializer_range
    patch.proj.weight = nn.Parameter(kernel.to(old.dtype))
    visual.patch_embed = patch


def _tied(key: str, config: Qwen2_5_VLConfig) -> bool:
    return key == "lm_head.weight" and config.tie_word_embeddings


def read_config(path: str | Path) -> Qwen2_5_VLConfig:
    """The configuration of a checkpoint; InputError when absent or of another model."""
    try:
        config = Qwen2_5_VLConfig.from_pretrained(path)
        raw = json.loads((Path(path) / "config.json").read_text()) if Path(path).is_dir() else {}
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"no readable config.json in {path}: give model.pretrained a directory or hub name of "
            "a Qwen2.5-VL checkpoint"
        ) from error
    kind = raw.get("model_type", config.model_type)
    if kind != Qwen2_5_VLConfig.model_type:
        raise InputError(
            f"{path} holds a {kind} model: model.pretrained must be a Qwen2.5-VL checkpoint"
        )
    return config
