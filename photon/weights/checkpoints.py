"""Models from a configuration, and exports: a folder that stock Transformers can load too.

An export holds `config.json` with a `model_type` of its own (see `photon.weights.auto`),
`model.safetensors` in the stock layout, the tokenizer, `photon.json` (pruner, preparation,
positions, provenance), `pruner.safetensors`, and `manifest.json` with the digests of all these.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from photon.annotations import Count, Positive, Seed
from photon.errors import InputError
from photon.files import writing
from photon.model.photon import PhotonModel
from photon.pruning.base import Pruner
from photon.pruning.named import pruner_of, spec_of
from photon.volume.preparation import Preparation, check_size
from photon.weights.backbone import (
    backbone_config,
    check_tokenizer,
    empty_backbone,
    find_family,
    new_backbone,
    replace_patch_embedding,
)
from photon.weights.checks import READING, check_channels, check_shape, check_trained
from photon.weights.device import find_attention, find_device, find_dtype, for_inference
from photon.weights.keys import EXPORTED
from photon.weights.loading import (
    PRUNER_FILE,
    Checkpoint,
    open_checkpoint,
    take_weights,
)
from photon.weights.manifest import FORMAT, MANIFEST, read_spec, write_manifest
from photon.weights.official import official_spec
from photon.weights.shapes import TextShape, VisionShape
from photon.weights.shards import checkpoint_folder

WEIGHTS = Path(__file__).parent
BUILT_IN = ("tiny",)
logger = logging.getLogger(__name__)


def build_model(
    text: TextShape,
    vision: VisionShape,
    preparation: Mapping | Preparation,
    pruner: Pruner | None = None,
    pretrained: str | None = None,
    patch_init: Literal["random", "inflate"] = "random",
    tokenizer: str | None = None,
    depth_stride: Count = 1,
    slab: Count = 1,
    image_mean: float | Sequence[float] = 0.0,
    image_std: Positive | Sequence[Positive] = 1.0,
    attention: Literal["auto", "sdpa", "flash", "varlen"] = "sdpa",
    kv: Literal["full", "compact"] = "full",
    positions: Literal["trained", "stock"] = "trained",
    checkpointing: bool = False,
    leading_space: bool = False,
    air: float | None = None,
    seed: Seed = 0,
    family: str = "qwen2_5_vl",
    dtype: str = "float32",
    device: str = "cpu",
) -> PhotonModel:
    """A model with random weights, or with those of a stock checkpoint, an export, or the authors'.

    With `pretrained`, `text` is the checkpoint's own and `vision` gives its patches their depth and
    channels; an embedding of another shape starts by `patch_init` (`replace_patch_embedding`), and
    `pruner` takes over the stored weights of one of its own shape. One line at INFO says what was
    loaded, what is new and what was not used. `pretrained` may be the built-in `tiny` (see
    photon/weights) or a hub name (see `checkpoint_folder`). `tokenizer`: a directory, a hub
    name, the built-in `tiny`, or None for the one beside the weights. `dtype`: float32, bfloat16,
    or auto (the checkpoint's); the pruner stays in float32. `device`: where the weights are read
    to; `auto` is this process's GPU, if any; `meta` reads none and gives shapes only, in seconds
    at any size. `attention`: `auto` is by device and dtype (`find_attention`). Raises InputError
    for what is missing or does not fit, before any long work.
    """
    if isinstance(preparation, Mapping):
        preparation = Preparation.from_dict(dict(preparation))
    channels, slices = vision.get("in_channels", 3), vision.get("temporal_patch_size", 2)
    check_channels(preparation, channels, image_mean=image_mean, image_std=image_std)
    patch = vision.get("patch_size", find_family(family).patch)
    check_size(preparation.size, patch, slices * slab)
    given, device = locals(), find_device(device)
    reading = {key: given[key] for key in READING}
    if device == "meta" or pretrained is None:
        words = load_tokenizer(tokenizer) if tokenizer or device != "meta" else None
        config, precision = backbone_config(text, vision, words, family), find_dtype(dtype)
        if device == "meta":
            backbone = empty_backbone(config, precision)
        else:
            backbone = new_backbone(config, seed, precision).to(device)
    else:
        checkpoint = open_checkpoint(weights_folder(pretrained))
        words = load_tokenizer(tokenizer or str(checkpoint.folder))
        check_tokenizer(checkpoint.config, words)
        check_shape(pretrained, checkpoint.config, text, vision, family)
        seen = checkpoint.config.vision_config
        kept = (slices, channels) == (seen.temporal_patch_size, seen.in_channels)
        check_trained(checkpoint.folder, _spec_of(checkpoint), preparation, reading, kept)
        backbone = checkpoint.load_backbone(find_dtype(dtype, checkpoint.dtype), device)
        new = []
        if replace_patch_embedding(backbone, slices, channels, patch_init, seed):
            new.append("model.visual.patch_embed.proj.weight")
        filled = pruner is not None and checkpoint.load_pruner(pruner)
        if pruner is not None and not filled:
            new += [f"pruner.{name}" for name in pruner.state_dict()]
        logger.info(checkpoint.report(new, filled))
    options = {**reading, "checkpointing": checkpointing, "air": air}
    attention = find_attention(attention, device, backbone.dtype)
    model = PhotonModel(backbone, pruner, attention, kv, words, preparation, **options)
    return model.train()


def weights_folder(name: str) -> Path:
    """The folder of the built-in weights of that name, or that of a checkpoint."""
    return WEIGHTS / name if name in BUILT_IN else checkpoint_folder(name)


def replace_pruner(model: PhotonModel, pruner: Pruner | None) -> None:
    """Put `pruner` on a loaded model in place of its own; None makes it keep every token.

    It takes over the weights of one of the same shape, so that a trained threshold can be asked
    under other switches (training-free pruning, Table 7).
    """
    if pruner is not None and model.pruner is not None:
        take_weights(pruner, model.pruner.state_dict())
    model.pruner = pruner


def load_tokenizer(name: str | None) -> PreTrainedTokenizerBase:
    """A tokenizer from a directory or hub name, or the built-in `tiny`; offline where it can be."""
    if name is None:
        raise InputError("model.tokenizer is empty and there is no model.pretrained: set one")
    place = WEIGHTS / name if name in BUILT_IN else name
    try:  # never a stranger's code, and never a question on standard input
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except Exception as error:  # the tokenizers' own errors have no common base
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(
            f"no tokenizer in {name}: give model.tokenizer (or model.pretrained) a directory or "
            f"hub name with a whole tokenizer.json ({first})"
        ) from error


def save_export(
    model: PhotonModel,
    folder: str | Path,
    provenance: Mapping | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write an export (see the module's docstring); in `dtype`, or the model's own precision.

    The pruner stays in float32: its threshold is compared with scores. The manifest is written
    last. Raises WriteError where the folder cannot be written.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        _write_export(model, folder, provenance, dtype)
        write_manifest(folder)


def _write_export(
    model: PhotonModel, folder: Path, provenance: Mapping | None, dtype: torch.dtype | None
) -> None:
    backbone = model.backbone if dtype is None else copy.deepcopy(model.backbone).to(dtype)
    backbone.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = EXPORTED + config["model_type"]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    model.tokenizer.save_pretrained(folder)
    pruner = None
    if model.pruner is not None:
        pruner = spec_of(model.pruner)
        state = {k: v.contiguous() for k, v in model.pruner.state_dict().items()}
        save_file(state, folder / PRUNER_FILE)
    spec = {
        "format": FORMAT,
        "pruner": pruner,
        "preparation": model.preparation.to_dict(),
        **{key: getattr(model, key) for key in READING},
        "kv": model.kv,
        "air": model.air,
        "provenance": dict(provenance or {}),
    }
    (folder / "photon.json").write_text(json.dumps(spec, indent=2) + "\n")


def load_export(
    folder: str | Path,
    attention: str = "auto",
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "auto",
    edited: bool = False,
) -> PhotonModel:
    """Load an export, or a checkpoint of the authors', ready to answer.

    attention, dtype, device: by default what the machine answers fastest with (`for_inference`).
    edited: take files that are not those of the manifest. Raises InputError when anything is
    missing or damaged.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} has no photon.json and config.json: give the export/ folder that training "
            "wrote"
        )
    checkpoint = open_checkpoint(folder, edited)
    spec = _spec_of(checkpoint)
    if spec is None:
        raise InputError(
            f"{folder} has no photon.json: give the export/ folder that training wrote, or build "
            "a model from these weights (model=photon_max model.pretrained=FOLDER)"
        )
    pruner = spec["pruner"]
    if pruner is not None:
        try:
            pruner = pruner_of(pruner)
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"{folder / 'photon.json'}: pruner: {error}. Export again") from error
        if not checkpoint.load_pruner(pruner):
            raise InputError(
                f"{folder / PRUNER_FILE} is missing or does not fit photon.json: export the model "
                "again"
            )
    words = load_tokenizer(str(folder))
    check_tokenizer(checkpoint.config, words)
    device, dtype, attention = for_inference(device, dtype, attention, checkpoint.dtype)
    model = PhotonModel(
        checkpoint.load_backbone(dtype, device),
        pruner,
        attention,
        spec["kv"],
        words,
        Preparation.from_dict(spec["preparation"]),
        air=spec["air"],
        **{key: spec[key] for key in READING},
    )
    logger.info(checkpoint.report(pruner=pruner is not None))
    return model.to(device).eval()


def _spec_of(checkpoint: Checkpoint) -> dict | None:
    """photon.json, or what it would say of a checkpoint of the authors'; None for a stock one."""
    spec = read_spec(checkpoint.folder)
    if spec is None and checkpoint.layout.title == "official":
        spec = official_spec(checkpoint.config, bool(checkpoint.pruner))
        spec["provenance"] = {"official": str(checkpoint.folder)}
    # Exports older than a key had no other value.
    before = {"positions": "trained", "leading_space": False, "air": None}
    return spec if spec is None else {**before, **spec}
