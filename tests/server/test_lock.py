"""The lock of a data folder: one process has it, and a process that dies leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentgraph.server.errors import StoreLocked
from latentgraph.server.jobs.lock import FolderLock

HOLDER = """
import sys
from pathlib import Path
from latentgraph.server.jobs.lock import FolderLock
lock = FolderLock.take(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_second_lock_is_refused_with_the_number_of_the_process(tmp_path: Path) -> None:
    lock = FolderLock.take(tmp_path)
    with pytest.raises(StoreLocked, match=f"is in use by process {os.getpid()}; end it first") as refused:
        FolderLock.take(tmp_path)
    assert refused.value.pid == os.getpid()
    lock.release()
    lock.release()
    FolderLock.take(tmp_path).release()


def test_a_lock_whose_file_tells_no_number_is_refused_all_the_same(tmp_path: Path) -> None:
    lock = FolderLock.take(tmp_path)
    (tmp_path / "lock").write_text("who knows")
    with pytest.raises(StoreLocked, match="is in use by another process"):
        FolderLock.take(tmp_path)
    lock.release()


def test_a_process_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(StoreLocked) as refused:
            FolderLock.take(tmp_path)
        assert refused.value.pid == holder.pid
        holder.kill()
    FolderLock.take(tmp_path).release()
