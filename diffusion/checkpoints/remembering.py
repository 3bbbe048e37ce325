"""What was read of files, remembered for as long as they are the same files.

A workflow is checked when it is submitted, again when it runs, and once more when a node opens the file; a header of
thousands of tensors takes milliseconds to read, and a file rarely changes. A file is the same while its size, its times and
its inode are; one that was written a moment ago is read each time, since the clock of a file system is coarse.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from itertools import chain, islice
from pathlib import Path
from threading import Lock
from typing import TypeVar

T = TypeVar("T")

Stamp = tuple[tuple[str, int, int, int, int, int], ...]
"""What tells one state of a file, or of the files of a folder, from another: for each its name, size, times and inode."""

_FILES = 64  # remembered of each kind of reading; a checkpoint of SDXL takes a megabyte or two
_ENTRIES = 1_000  # of a folder; one with more is no model
_SETTLED_NS = 2_000_000_000  # the coarsest file times in use (FAT) step by two seconds


def remembered(read: Callable[[Path | str], T]) -> Callable[[Path | str], T]:
    """Returns `read`, which reads a file or a folder with subfolders, but reads one again only after it has changed.

    What it returns is shared by all who ask, so it must be frozen. What it raises is not remembered.
    """
    known: OrderedDict[tuple[Path, Stamp], T] = OrderedDict()
    lock = Lock()

    @wraps(read)
    def look(path: Path | str) -> T:
        stamp = _stamp(Path(path))
        if stamp is None:
            return read(path)
        key = (Path(path), stamp)
        with lock:
            if key in known:
                known.move_to_end(key)
                return known[key]
        found = read(path)  # if the file changes just now, nobody will ask for it by its old stamp
        with lock:
            known[key] = found
            if len(known) > _FILES:
                known.popitem(last=False)
        return found

    return look


def _stamp(path: Path) -> Stamp | None:
    """Returns the stamp of a path, None if it can't be told from the state before or after it."""
    try:
        places = _places(path)
        if len(places) > _ENTRIES:
            return None
        stats = [place.stat() for place in places]
    except OSError:
        return None
    newest = max(max(stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats)
    if time.time_ns() - newest <= _SETTLED_NS:
        return None
    return tuple(
        (str(place), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_dev, stat.st_ino)
        for place, stat in zip(places, stats, strict=True)
    )


def _places(path: Path) -> list[Path]:
    """Returns a path, and what is in it and in its subfolders, as far as it takes to know that it is too much."""
    if not path.is_dir():
        return [path]
    inside = list(islice(path.iterdir(), _ENTRIES))
    below = chain.from_iterable(folder.iterdir() for folder in inside if folder.is_dir())
    return [path, *sorted([*inside, *islice(below, _ENTRIES)])]
