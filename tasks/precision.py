"""Which precision a run computes in: a CPU's fast one, and DeepSpeed's bf16."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import DeepSpeedPrecision, HalfPrecision
from omegaconf import OmegaConf
from torch import Tensor

from photon.errors import InputError


class WholeInput:
    """Mixed into a precision plugin: a batch keeps its float32 voxels.

    The model casts them behind their normalisation; 8 bits of [0, 1] would be steps of 4 to 8 HU.
    Lightning's own plugins also refuse a batch that is a frozen dataclass.
    """

    def convert_input(self, data: Any) -> Any:
        return data


class BFloat16(WholeInput, HalfPrecision):
    """bf16 weights without float32 masters: half the memory; small updates are rounded off."""

    def __init__(self) -> None:
        super().__init__("bf16-true")


class ZeroPrecision(WholeInput, DeepSpeedPrecision):
    """bf16 weights with float32 masters, see `trainer=zero2`."""

    def backward(self, tensor: Tensor, *arguments: Any, **options: Any) -> None:
        """Lightning has divided the loss by the accumulated batches: DeepSpeed must not again.

        The surrogate gradient does not scale with the loss, so its share would be off.
        """
        super().backward(tensor, *arguments, scale_wrt_gas=False, **options)


def check_precision(trainer: Trainer) -> None:
    """Raise InputError where Lightning's own plugin would cast the batches (see `WholeInput`)."""
    plugin = trainer.precision_plugin
    if str(plugin.precision).endswith("-true") and plugin.precision != "32-true":
        if not isinstance(plugin, WholeInput):
            raise InputError(
                f"trainer.precision={plugin.precision} would round the voxels: set it to "
                "bf16-mixed; or, for weights in bf16, trainer.precision=null with "
                "trainer.plugins=[{_target_: tasks.precision.BFloat16}]"
            )


def cpu_precision() -> str:
    """`bf16-mixed` where the CPU multiplies bfloat16 in hardware, else `32-true`.

    With AVX512-BF16 or AMX, bf16 products run about 5 times faster than float32; without, they are
    emulated and run 5 times slower (docs/results.md).
    """
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    fast = any(getattr(torch.cpu, name, lambda: False)() for name in checks)
    return "bf16-mixed" if fast else "32-true"


OmegaConf.register_new_resolver("cpu_precision", cpu_precision, replace=True)
