"""Where a process runs its model."""

import os

import torch


def find_device(name: str) -> str:
    """The device that `name` stands for: `auto` is the GPU of this process's local rank, if any."""
    if name != "auto":
        return name
    if not torch.cuda.is_available():
        return "cpu"
    local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    return f"cuda:{local % torch.cuda.device_count()}"
