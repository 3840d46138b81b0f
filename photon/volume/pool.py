"""Run one function over many cases in processes, and survive the death of a process.

A process killed for its memory use breaks Python's pools without saying which case it was. Here
the cases in flight are then tried one by one, and the one that kills its process again is reported.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from photon.errors import InputError

_WORKER_BYTES = 3 << 30  # a 512 x 512 x 800 scan while it is being prepared


class WorkerDied(Exception):
    """The process that worked on a case was killed."""


def free_memory() -> int:
    """Bytes that new processes may take, within the container's limit where there is one."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
    except (OSError, StopIteration):  # not Linux: half of the machine
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no limit
        pass
    return max(0, free)


def worker_count(wanted: int | None, cases: int) -> int:
    """Processes to use: as wanted, else by cores and free memory; never more than cases."""
    if wanted is not None and wanted < 1:
        raise InputError(f"--workers: {wanted} is not a positive number. Leave it out for a guess.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    room = free_memory() // _WORKER_BYTES
    return max(1, min(wanted or min(cores or 1, room), cases))


def run_cases(
    function: Callable[[Any], Any],
    cases: Iterable[Any],
    workers: int,
    done: Callable[[Any, Any], None],
) -> None:
    """Call `done(case, function(case))` as results come in, in this process.

    Where the process that worked on a case dies, `done` gets a `WorkerDied` instead. `function`
    must catch its own errors. With one worker all is done in this process.
    """
    queue = deque(cases)
    if workers == 1:
        for case in queue:
            done(case, function(case))
        return
    while queue:
        for suspect in _run_pool(function, queue, workers, done):
            if _run_pool(function, deque([suspect]), 1, done):
                free = free_memory() / 2**30
                done(
                    suspect,
                    WorkerDied(
                        f"its process was killed, most likely for want of memory ({free:.1f} GiB "
                        "free now). Try --workers 1 on a machine with more memory."
                    ),
                )


def _run_pool(
    function: Callable[[Any], Any], queue: deque, workers: int, done: Callable[[Any, Any], None]
) -> list[Any]:
    """Work through the queue; returns the cases that were in flight when a process died."""
    context = multiprocessing.get_context("spawn")  # a fork of a threaded process may hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    flying: dict[Future, Any] = {}
    try:
        while queue or flying:
            while queue and len(flying) < 2 * workers:
                flying[pool.submit(function, queue[0])] = queue[0]
                queue.popleft()
            finished, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in finished:
                result = future.result()
                done(flying.pop(future), result)
    except BrokenProcessPool:
        return list(flying.values())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return []


def _start_worker() -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C a worker finishes its case
    torch.set_num_threads(1)
