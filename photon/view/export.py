"""What the pages need to know of an export without reading its weights."""

from __future__ import annotations

import json
from pathlib import Path

from photon.errors import InputError
from photon.volume.preparation import Preparation
from photon.weights.checkpoints import read_spec


def how_it_sees(export: Path) -> tuple[Preparation, tuple[int, int, int]]:
    """The preparation of an export's volumes and the voxels of one of its visual tokens."""
    spec = read_spec(export)
    if spec is None:
        raise InputError(f"{export}: no export (photon.json), which says how volumes are drawn")
    vision = json.loads((export / "config.json").read_text())["vision_config"]
    side = vision["patch_size"] * vision["spatial_merge_size"]
    token = vision["temporal_patch_size"] * spec.get("slab", 1), side, side
    return Preparation.from_dict(spec["preparation"]), token
