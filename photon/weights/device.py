"""Where a process runs its model, in which precision and with which attention."""

import os

import torch

from photon.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def find_device(name: str) -> str:
    """The device that `name` stands for: `auto` is the GPU of this process's local rank, if any."""
    if name != "auto":
        return name
    if not torch.cuda.is_available():
        return "cpu"
    local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    return f"cuda:{local % torch.cuda.device_count()}"


def find_dtype(name: str, stored: torch.dtype | None = None) -> torch.dtype:
    """The precision that `model.dtype` names; `auto` is that of the stored weights.

    Raises ValueError for another name, and InputError for weights in float16: activations of these
    models overflow it.
    """
    if name == "auto":
        name = str(stored or torch.float32).removeprefix("torch.")
        if name not in DTYPES:
            raise InputError(
                f"the weights are stored in {name}: set model.dtype to {' or '.join(DTYPES)}"
            )
    if name not in DTYPES:
        raise ValueError(f"model.dtype={name!r}: legal values are {', '.join(DTYPES)}, auto")
    return DTYPES[name]
