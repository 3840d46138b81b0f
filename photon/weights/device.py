"""Where a process runs its model, in which precision and with which attention."""

import importlib.util
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


def find_attention(name: str, device: str, dtype: torch.dtype) -> str:
    """The attention that `name` stands for, where activations are of `dtype`.

    `auto` is, on a GPU in bfloat16, flash-attn where it is installed and torch's varlen kernel
    otherwise; elsewhere sdpa, which alone has float32.
    """
    if name != "auto":
        return name
    if not device.startswith("cuda") or dtype != torch.bfloat16:
        return "sdpa"
    kernels = {"flash": "flash_attn", "varlen": "torch.nn.attention.varlen"}
    there = [name for name, module in kernels.items() if importlib.util.find_spec(module)]
    return there[0] if there else "sdpa"


def for_inference(
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    attention: str = "auto",
    stored: torch.dtype | None = None,
) -> tuple[str, torch.dtype, str]:
    """Device, precision and attention to answer with, by what the machine has.

    device: `auto` is the GPU, if any. dtype: None is bfloat16 on a GPU and float32 elsewhere, a
    name is that of `find_dtype`. attention: see `find_attention`.
    """
    device = find_device(str(device))
    cuda = device.startswith("cuda")
    if dtype is None:
        dtype = torch.bfloat16 if cuda else torch.float32
    elif isinstance(dtype, str):
        dtype = find_dtype(dtype, stored)
    return device, dtype, find_attention(attention, device, dtype)
