"""How many threads a network is worth on a CPU.

Threads that share a small piece of work wait for each other about as long as they work, and on a busy machine very much
longer: ten steps of the bundled model at 128x128 take between 0.3 and 1.4 s on two otherwise idle cores and 4 to 16 s beside
other work, but 0.36 s and 1 to 2 s on one of them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .stored import stored_modules

WORK_OF_A_THREAD = 9e9  # weights times latent cells; the bundled model gets a second thread between 128x128 and 256x256


@contextmanager
def threads_worth(network: nn.Module, cells: int) -> Iterator[None]:
    """Lets this thread compute with no more of OpenMP's threads than a pass over so many latent cells repays, inside the block.

    torch's own setting is left alone, because threads that start meanwhile would inherit it; OpenMP's is the calling thread's
    alone. Where torch does not compute with an OpenMP that can be reached, nothing changes; nor for a network whose weights are
    kept packed, which are those of large models.
    """
    have = torch.get_num_threads()
    weights = sum(weight.numel() for weight in network.parameters())
    is_packed = any(True for _ in stored_modules(network))
    worth = have if is_packed else max(1, min(have, int(weights * cells / WORK_OF_A_THREAD)))
    openmp = _openmp()
    if openmp is None or worth == have:
        yield
        return
    openmp.omp_set_num_threads(worth)
    try:
        yield
    finally:
        openmp.omp_set_num_threads(have)


def _openmp() -> Any:
    """Returns the OpenMP runtime that this process has loaded, or None."""
    try:
        runtime = ctypes.CDLL(None)
        return runtime if runtime.omp_get_max_threads() == torch.get_num_threads() else None
    except (AttributeError, OSError, TypeError):  # none is loaded; Windows knows no CDLL(None)
        return None
