"""FolderLock: one server a data folder. It holds as long as its process lives, and no crash leaves it behind."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ..errors import StoreLocked


class FolderLock:
    """The lock of a folder, held from `take` to `release`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, folder: Path) -> FolderLock:
        """Locks a folder. Raises StoreLocked, with the number of the process that has it."""
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            said = os.pread(descriptor, 20, 0)
            os.close(descriptor)
            raise StoreLocked(folder, int(said) if said.isdigit() else None) from None
        except OSError:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        """Lets go of the folder. It may be repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
