"""A small network gets few threads, in the thread that runs it alone; where OpenMP can't be reached, nothing changes."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest
import torch

from latentgraph.diffusion.networks import threads
from latentgraph.diffusion.networks.threads import threads_worth

SMALL = torch.nn.Linear(1000, 1000, bias=False)


def test_a_small_network_gets_one_thread_and_other_threads_keep_theirs() -> None:
    """In a process of its own, which has several threads where there are several cores."""
    program = """
        import threading, torch
        from latentgraph.diffusion.networks import threads
        from latentgraph.diffusion.networks.threads import WORK_OF_A_THREAD, threads_worth

        def seen_elsewhere():
            found = []
            other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
            other.start(); other.join()
            return found[0]

        network = torch.nn.Linear(1000, 1000, bias=False)
        have = torch.get_num_threads()
        reachable = threads._openmp() is not None
        for cells, worth in ((1, 1), (int(2 * WORK_OF_A_THREAD / 1e6) + 1, 2), (10**9, have)):
            with threads_worth(network, cells):
                assert torch.get_num_threads() == (min(worth, have) if reachable else have)
                assert seen_elsewhere() == have
        assert torch.get_num_threads() == seen_elsewhere() == have
    """
    environment = {"OMP_NUM_THREADS": "4", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", dedent(program)], env=environment, check=True)


def test_threads_come_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="stop"), threads_worth(SMALL, 1):
        raise RuntimeError("stop")
    assert torch.get_num_threads() == before


def test_without_openmp_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: None) -> object:
        raise OSError(name)

    monkeypatch.setattr(threads.ctypes, "CDLL", missing)
    with threads_worth(SMALL, 1):
        assert threads._openmp() is None
