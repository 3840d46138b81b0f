"""The picture of what one answer kept, drawn on the volume that it was asked about."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from photon.model.generate import Generation
from photon.model.photon import PhotonModel
from photon.study.viewer import save_overlay
from photon.volume.preparation import Preparation


def draw_kept(
    path: str | Path,
    model: PhotonModel,
    generation: Generation,
    question: int,
    hu: np.ndarray,
    title: str,
    labels: np.ndarray | None = None,
) -> Path:
    """Write the overlay of one question of a generation, and return its path.

    hu [D, H, W]: the volume in the store, in HU; of several the last. labels [D, H, W]: nonzero is
    outlined; on the grid of the model's input, as the kept tokens are (mirrored where its
    preparation mirrors).
    """
    token = model.builder.token
    grid = [n // t for n, t in zip(hu.shape, token, strict=True)]
    selection, n = generation.selection, math.prod(grid)
    parts = {"keep": generation.keep_masks[question][-n:].numpy().reshape(grid), "labels": labels}
    if selection is not None and selection.scores is not None:
        scores = generation.on_grids(selection.scores)[question]
        parts["scores"] = scores[-n:].numpy().reshape(grid)
    if model.preparation.flip_x:
        parts = {k: None if v is None else v[..., ::-1] for k, v in parts.items()}
    spacing = voxel_size(model.preparation, hu.shape)
    return save_overlay(path, hu, title=title, spacing=spacing, token=token, **parts)


def voxel_size(preparation: Preparation, shape: tuple[int, int, int]) -> tuple[float, float, float]:
    """Millimetres of a prepared voxel along depth, height and width; 1 where spacing is unset."""
    spacing = preparation.spacing or (1.0, 1.0, 1.0)
    crop = preparation.crop or shape
    return tuple(mm * n / out for mm, n, out in zip(spacing, crop, shape, strict=True))
