"""Whether what a configuration asks of a model fits together, and fits the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from photon.errors import InputError
from photon.pruning.base import Keep, Pruner
from photon.pruning.its import PhotonPruner
from photon.volume.preparation import Preparation

# Keys of `model`, beside the preparation, that say how weights read a volume.
READING = ("depth_stride", "slab", "image_mean", "image_std", "positions", "leading_space")


def check_channels(preparation: Preparation, in_channels: int, **scaling: Any) -> None:
    """A window for each channel, and image_mean and image_std for each, or one for all of them."""
    if preparation.channels not in (None, 1, in_channels):
        raise InputError(
            f"model.preparation.windows has {preparation.channels} ranges, the patch embedding "
            f"model.vision.in_channels={in_channels}: set in_channels to the number of windows"
        )
    for key, value in scaling.items():
        if isinstance(value, Sequence) and len(value) not in (1, in_channels):
            raise InputError(
                f"model.{key} has {len(value)} numbers for model.vision.in_channels={in_channels}: "
                "give one, or one a channel"
            )


def check_shape(path: str, config: Any, text: Mapping, vision: Mapping, family: str) -> None:
    """Raise InputError where the asked architecture is not that of the loaded weights."""
    free = {"temporal_patch_size", "in_channels", "rope_parameters", "vocab_size"}
    parts = (("text", config.text_config, text), ("vision", config.vision_config, vision))
    wrong = [
        f"model.{group}.{key}={value} (the weights have {getattr(part, key)})"
        for group, part, asked in parts
        for key, value in asked.items()
        if key not in free and hasattr(part, key) and getattr(part, key) != value
    ]
    if family != config.model_type:
        wrong = [f"model.family={family} (the weights have {config.model_type})"]
    if wrong:
        raise InputError(
            f"{path} is another architecture: {', '.join(wrong)}. Choose the model that the "
            "weights belong to, or set model.pretrained=null for random ones"
        )


def check_trained(
    where: Path | str,
    spec: Mapping | None,
    preparation: Preparation,
    reading: Mapping[str, Any] | None = None,
    kept: bool = True,
) -> None:
    """Trained weights go with the volumes, positions and voxels that they were trained with.

    spec: photon.json, or None of stock weights, which say nothing of it. reading: values of the
    keys READING, where they are known. kept: whether the patch embedding stays; a new one may learn
    to see other windows and voxels, not other text. Raises InputError that lists the keys.
    """
    if spec is None:
        return
    trained = Preparation.from_dict(spec["preparation"])
    if not kept:
        trained = replace(trained, windows=preparation.windows)
    differ: dict[str, tuple] = {}
    if trained.fingerprint() != preparation.fingerprint():
        ours, theirs = preparation.to_dict(), trained.to_dict()
        differ = {f"preparation.{k}": (ours[k], theirs[k]) for k in theirs if ours[k] != theirs[k]}
    for key in READING if kept else ("positions", "leading_space"):
        if reading is not None and _plain(reading[key]) != _plain(spec[key]):
            differ[key] = (reading[key], spec[key])
    if differ:
        told = [f"model.{k}={ours} (trained with {theirs})" for k, (ours, theirs) in differ.items()]
        raise InputError(
            f"{where} was trained otherwise: {', '.join(told)}. "
            "Use the values that the weights were trained with"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def check_threshold(pruner: Pruner | None, keep: Keep) -> None:
    """Raise InputError where a threshold that nothing has trained would decide what is kept."""
    if not isinstance(pruner, PhotonPruner) or keep is not None or pruner.keep is not None:
        return
    if pruner.theta is None and not pruner.is_trained:
        raise InputError(
            "pruner=photon has no trained threshold for these weights: give a budget "
            "(evaluation.keep=0.47 or --keep 0.47), or a constant threshold (pruner.theta=0.5)"
        )
