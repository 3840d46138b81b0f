"""Which precision a CPU is fast in: the `${cpu_precision:}` of the configuration files."""

import torch
from omegaconf import OmegaConf


def cpu_precision() -> str:
    """`bf16-mixed` where the CPU multiplies bfloat16 in hardware, else `32-true`.

    With AVX512-BF16 or AMX, bf16 products run about 5 times faster than float32; without, they are
    emulated and run 5 times slower (docs/results.md).
    """
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    fast = any(getattr(torch.cpu, name, lambda: False)() for name in checks)
    return "bf16-mixed" if fast else "32-true"


OmegaConf.register_new_resolver("cpu_precision", cpu_precision, replace=True)
