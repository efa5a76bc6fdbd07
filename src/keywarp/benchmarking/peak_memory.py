"""How much memory a model needs, measured in a fresh process that does nothing else."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import torch

from keywarp.allocation import keep_freed_memory
from keywarp.errors import InterruptedWorkError


def peak_of(name: str, work: Callable[[], torch.device], *, threads: int = 1, keep: bool = False) -> int:
    """Bytes that a process needed at its peak to do `work`, which can be pickled and answers with its device.

    On the CPU the resident memory, the interpreter and the libraries included; on a GPU what tensors occupied there.
    name: what to call it when the process dies. keep: it keeps freed memory.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_peak, work, threads, keep).result()
        except BrokenProcessPool:
            raise InterruptedWorkError(f"{name}: the process died, probably for lack of memory") from None


def _peak(work: Callable[[], torch.device], threads: int, keep: bool) -> int:
    torch.set_num_threads(threads)
    if keep:
        keep_freed_memory()
    device = work()
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident_peak()


def _resident_peak() -> int:
    """Bytes. Linux hands `ru_maxrss` on from the parent process; what `/proc` tells begins with the process."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return 1024 * int(found[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
