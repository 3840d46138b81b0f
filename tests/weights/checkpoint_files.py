"""Checkpoints as they lie on disk, written from random stock models in miniature."""

import json

import torch
from safetensors.torch import save_file

from photon.weights.backbone import backbone_config, new_backbone
from photon.weights.checkpoints import load_tokenizer
from tests.helpers import TEXT, TEXT3, VISION, VISION3

PATCH = {
    "qwen2_5_vl": {"patch_size": 14, "temporal_patch_size": 2, "in_channels": 3, "window_size": 56},
    "qwen3_vl": {"patch_size": 16, "temporal_patch_size": 2, "in_channels": 3},
}
OLDER = (("model.visual.", "visual."), ("model.language_model.", "model."))


def shapes(family="qwen2_5_vl", **vision):
    """Text and vision fields of a small model; the vocabulary is the tokenizer's."""
    text, tower = {"qwen2_5_vl": (TEXT, VISION), "qwen3_vl": (TEXT3, VISION3)}[family]
    text = {k: v for k, v in text.items() if not k.endswith("_id") and k != "vocab_size"}
    text["rope_parameters"] = dict(text["rope_parameters"])
    return text, {**tower, **PATCH[family], **vision}


def stock_model(family="qwen2_5_vl", tied=True, seed=5, **vision):
    """A stock model with random weights, biases and norms, so that no two tensors are alike."""
    text, tower = shapes(family, **vision)
    config = backbone_config(
        {**text, "tie_word_embeddings": tied}, tower, load_tokenizer("tiny"), family
    )
    model = new_backbone(config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def stored_state(model, layout="current"):
    """The weights as a checkpoint lists them: a tied head is not there."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return rename(state, OLDER if layout == "older" else ())


def rename(state, prefixes):
    def swap(name):
        for old, new in prefixes:
            if name.startswith(old):
                return new + name[len(old) :]
        return name

    return {swap(k): v for k, v in state.items()}


def write(folder, model, state, shards=1):
    """config.json, the tiny tokenizer, and one safetensors file or several with their index."""
    model.config.save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names, placed = sorted(state), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {k: state[k] for k in names[i::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
