"""The folders of a job store: taken and locked when it opens, and rid of what a crash has left in them."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..durable import sync_folder
from .database import Database, Transaction
from .lock import FolderLock
from .values import is_job_id

_log = logging.getLogger(__name__)


def take_folder(folder: Path) -> FolderLock:
    """Makes the data folder, durably and for its owner alone, and locks it."""
    missing = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.absolute().parent)
    lock = FolderLock.take(folder)
    try:
        for name in ("attempts", "outputs", "files"):
            (folder / name).mkdir(exist_ok=True)
    except BaseException:
        lock.release()
        raise
    return lock


async def tidy(database: Database, *, attempts: Path, outputs: Path) -> None:
    """Empties the folder of attempts, none of which goes on, and removes outputs whose job is gone. For when a store opens."""
    left, published = await asyncio.to_thread(lambda: (_listed(attempts), _listed(outputs)))
    names = [path.name for path in published if is_job_id(path.name)]
    known = await database.read(partial(_known, ids=names))
    gone = [outputs / name for name in names if name not in known]
    await asyncio.to_thread(remove_all, [*left, *gone])


def remove_all(paths: Sequence[Path]) -> None:
    """Removes files and folders; what cannot be removed is a line in the log."""
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s cannot be removed (%s); it is tried again at the next start", path, error)


def _known(transaction: Transaction, *, ids: Sequence[str]) -> set[str]:
    return {id for id in ids if transaction.row("SELECT 1 FROM jobs WHERE id = ?", (id,))}


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())
