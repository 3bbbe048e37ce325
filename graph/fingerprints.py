"""Fingerprints: what a file holds, as a hash that goes into keys, made anew only where the file may have changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from pathlib import Path
from typing import NamedTuple

from .errors import FileNotUsable

_CHUNK = 1 << 20
_SETTLED_NS = 2_000_000_000  # the coarsest file times in use (FAT) step by two seconds


class Look(NamedTuple):
    """What a file was when it was looked at: the hash of its content, and the stamp of its state."""

    fingerprint: str
    stamp: str


class Fingerprints:
    """SHA-256 of file contents, remembered by size, times and inode, and on disk where a folder is given.

    A file whose times are younger than two seconds is hashed anew at each look, since another write could leave the same
    times. Safe to use from several threads.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[Path, Look] = {}

    def of(self, path: Path) -> str:
        """Returns the fingerprint of a file, or of all files below a folder with their names, as hex."""
        return self.look(path).fingerprint

    def look(self, path: Path) -> Look:
        """Returns the fingerprint and the state of a file or folder. Raises FileNotUsable if it can't be read."""
        try:
            return self._look_at_folder(path) if path.is_dir() else self._look_at_file(path)
        except OSError as error:
            raise FileNotUsable(f"the file {str(path)!r} can't be read: {error.strerror or error}") from error

    def _look_at_file(self, path: Path) -> Look:
        stamp = _stamp(path.stat())
        known = self._known.get(path) or self._remembered(path)
        if known is not None and known.stamp == stamp:
            self._known[path] = known
            return known
        begun = time.time_ns()
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        stat = path.stat()
        if _stamp(stat) != stamp:
            raise FileNotUsable(f"the file {str(path)!r} changed while it was read; run again once it is complete")
        look = Look(digest.hexdigest(), stamp)
        if begun - max(stat.st_mtime_ns, stat.st_ctime_ns) > _SETTLED_NS:
            self._known[path] = look
            if stat.st_size >= _CHUNK:  # a small file is hashed faster than its note is read
                self._remember(path, look)
        return look

    def _look_at_folder(self, folder: Path) -> Look:
        fingerprint, stamp = hashlib.sha256(b"folder"), hashlib.sha256()
        for file in _files_below(folder):
            look = self._look_at_file(file)
            fingerprint.update(f"\0{file.relative_to(folder).as_posix()}\0{look.fingerprint}".encode())
            stamp.update(f"\0{file}\0{look.stamp}".encode())
        return Look(fingerprint.hexdigest(), stamp.hexdigest())

    def _entry(self, path: Path) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"

    def _remembered(self, path: Path) -> Look | None:
        entry = self._entry(path)
        if entry is None:
            return None
        try:
            stamp, digest = json.loads(entry.read_text("utf-8"))
        except (OSError, ValueError, TypeError):
            return None
        return Look(digest, stamp) if isinstance(stamp, str) and isinstance(digest, str) else None

    def _remember(self, path: Path, look: Look) -> None:
        entry = self._entry(path)
        if entry is None:
            return
        draft = entry.with_suffix(f".{secrets.token_hex(8)}.tmp")
        with contextlib.suppress(OSError):  # a memo that can't be kept costs time only
            entry.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps((look.stamp, look.fingerprint)), "utf-8")
            draft.replace(entry)


def _stamp(stat: os.stat_result) -> str:
    """Returns what tells one state of a file from another without reading it."""
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_dev}:{stat.st_ino}"


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
