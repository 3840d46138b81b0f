"""Arrays of frames or voxels in .npy and .npz files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from photon.errors import InputError


def load_array(path: Path) -> np.ndarray:
    """The array of a .npy file (memory-mapped), or the only one of a .npz file."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            if len(found.files) != 1:
                raise ValueError(f"it holds {len(found.files)} arrays, not one")
            return found[found.files[0]]
    except Exception as error:  # damaged zip and npy headers raise many kinds
        raise InputError(
            f"{path}: is not an array that can be read ({error}). Save it again with numpy.save."
        ) from error
