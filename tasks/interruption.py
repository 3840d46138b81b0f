"""SIGTERM, which schedulers send before they kill: what was done is kept, and the exit code is 143.

During training the current step is finished and a checkpoint saved (`tasks.callbacks`); at any
other time the process ends at once, since everything else is written whole or not at all.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM


class Terminated(SystemExit):
    """The process was asked to end."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


def end_on_sigterm() -> None:
    """From now on SIGTERM raises `Terminated` in this process, and ends its children."""
    owner = os.getpid()

    def end(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker that was forked
            os._exit(EXIT_CODE)
        raise Terminated

    signal.signal(signal.SIGTERM, end)
