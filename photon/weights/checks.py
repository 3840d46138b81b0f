"""Whether what a configuration asks of a model fits together, and fits the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from photon.errors import InputError
from photon.volume.preparation import Preparation

# Keys of `model`, beside the preparation, that say how weights read a volume.
READING = ("depth_stride", "slab", "image_mean", "image_std", "positions")


def check_channels(
    preparation: Preparation,
    in_channels: int,
    image_mean: float | Sequence[float],
    image_std: float | Sequence[float],
) -> None:
    """A window and a mean and deviation for each channel, or one for all of them."""
    if preparation.channels not in (None, 1, in_channels):
        raise InputError(
            f"model.preparation.windows has {preparation.channels} ranges, the patch embedding "
            f"model.vision.in_channels={in_channels}: set in_channels to the number of windows"
        )
    for key, value in (("image_mean", image_mean), ("image_std", image_std)):
        if isinstance(value, Sequence) and len(value) not in (1, in_channels):
            raise InputError(
                f"model.{key} has {len(value)} numbers for model.vision.in_channels={in_channels}: "
                "give one, or one a channel"
            )


def check_shape(path: str, config, text: Mapping, vision: Mapping, family: str) -> None:
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
    if family != config.model_type:
        wrong = [f"model.family={family} (the weights have {config.model_type})"]
    if wrong:
        raise InputError(
            f"{path} is another architecture: {', '.join(wrong)}. Choose the model that the "
            "weights belong to, or set model.pretrained=null for random ones"
        )


def check_preparation(
    where: Path | str, spec: Mapping | None, preparation: Preparation, kept: bool = True
) -> None:
    """Trained weights go with the volumes that they were trained on; stock ones say nothing.

    kept: whether their patch embedding stays; a new one may learn to see other windows.
    """
    if spec is None:
        return
    trained = Preparation.from_dict(spec["preparation"])
    if not kept:
        trained = replace(trained, windows=preparation.windows)
    if trained.fingerprint() != preparation.fingerprint():
        ours, theirs = preparation.to_dict(), trained.to_dict()
        keys = [k for k in theirs if theirs[k] != ours[k]]
        listed = ", ".join(f"{k}={ours[k]} (trained with {theirs[k]})" for k in keys)
        raise InputError(
            f"model.preparation differs from that of {where}: {listed}. "
            "Use the values that the weights were trained with"
        )


def check_reading(
    where: Path | str, spec: Mapping | None, asked: Mapping, kept: bool = True
) -> None:
    """Trained weights go with the positions and voxels that they were trained with.

    asked: values of the keys READING. All but positions may change with the patch embedding (kept:
    as above).
    """
    if spec is None:
        return
    wrong = [
        f"model.{key}={asked[key]} (trained with {spec[key]})"
        for key in (READING if kept else ("positions",))
        if _plain(asked[key]) != _plain(spec[key])
    ]
    if wrong:
        raise InputError(
            f"{where} was trained otherwise: {', '.join(wrong)}. "
            "Use the values that the weights were trained with"
        )


def _plain(value):
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
