"""Peak memory of a piece of work, above what was held before it."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from types import TracebackType

import torch

RESET = Path("/proc/self/clear_refs")


class PeakMemory:
    """`with PeakMemory(device) as peak: work()`, then `peak.nbytes`; None where it cannot be told.

    On a GPU what tensors took. On a CPU the resident size, whose high-water mark Linux lets a
    process reset; elsewhere it is not told.
    """

    nbytes: int | None = None

    def __init__(self, device: torch.device):
        self.cuda = device if device.type == "cuda" else None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.cuda is not None:
            torch.cuda.reset_peak_memory_stats(self.cuda)
            self._held = torch.cuda.memory_allocated(self.cuda)
        elif sys.platform == "linux" and RESET.exists():
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
            if trim is not None:  # what glibc keeps of the work before would hide this one's
                trim(0)
            RESET.write_text("5")
            self._held = _resident("VmRSS")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.cuda is not None:
            torch.cuda.synchronize(self.cuda)
            self.nbytes = torch.cuda.max_memory_allocated(self.cuda) - self._held
        elif sys.platform == "linux" and RESET.exists():
            self.nbytes = _resident("VmHWM") - self._held


def _resident(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
