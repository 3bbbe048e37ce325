"""Files that documents name: how a name becomes a path, and how a path becomes a fingerprint of its content.

A node declares a file input as `Annotated[Path, FileInput("checkpoint")]`. The engine resolves the name through a
`FileResolver` while it validates, puts the fingerprint of the content into the key, and gives the node the path. What may be
read is the resolver's decision alone; a server passes one that never leaves its folders.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

from .errors import FileNotUsable

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class FileInput:
    """Marks an input as the name of a file. `kind` says which: "image", "checkpoint", "vae" and so on."""

    kind: str


class FileResolver(Protocol):
    """Turns the names that a document uses into paths."""

    def resolve(self, kind: str, name: str, base: Path | None) -> Path:
        """Returns the path of an existing file or folder.

        `base` is the folder of the document that names it. Raises FileNotUsable with the places that were tried.
        """
        ...


@dataclass(frozen=True)
class FolderResolver:
    """Looks a name up as a bundled name, as a path, and below the folders of its kind, in this order.

    bundled: names that stand for files of the package, by kind. folders: where files of a kind are looked for, with the
    suffixes that may be left out.
    """

    bundled: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    folders: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    suffixes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def resolve(self, kind: str, name: str, base: Path | None) -> Path:
        """Returns the first existing path for `name`; see FileResolver."""
        if not name or "\0" in name:
            raise FileNotUsable(f"{name!r} is no file name; give the name of a file of kind {kind!r}")
        bundled = self.bundled.get(kind, {})
        if name in bundled:
            return bundled[name]
        roots = [*([base] if base else []), Path.cwd(), *self.folders.get(kind, ())]
        for root in dict.fromkeys(roots):
            for suffix in ("", *self.suffixes.get(kind, ())):
                candidate = root / Path(name + suffix).expanduser()
                if _exists(candidate):
                    return candidate.resolve()
        raise self._missing(kind, name, roots)

    def names(self, kind: str) -> list[str]:
        """Returns the names of a kind that can be used: bundled ones first, then those in its folders, sorted."""
        found = [
            path.relative_to(root).as_posix()
            for root in self.folders.get(kind, ())
            if root.is_dir()
            for path in sorted(root.rglob("*"))
            if path.suffix in self.suffixes.get(kind, ()) or (path / "model_index.json").is_file()
        ]
        return [*self.bundled.get(kind, {}), *dict.fromkeys(found)]

    def _missing(self, kind: str, name: str, roots: Sequence[Path]) -> FileNotUsable:
        wanted = Path(name).name
        siblings: list[str] = []
        for root in dict.fromkeys(roots):
            folder = (root / name).parent
            if folder.is_dir():
                siblings += [entry.name for entry in _listing(folder)]
        candidates = dict.fromkeys([*self.bundled.get(kind, {}), *siblings, *map(str, self.names(kind))])
        near = get_close_matches(wanted, list(candidates), n=3, cutoff=0.5)
        tried = ", ".join(str(root) for root in dict.fromkeys(roots))
        return FileNotUsable(f"there is no {kind} {name!r}; looked in {tried}", near)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, or a folder that may not be read
        return False


def _listing(folder: Path) -> Iterable[Path]:
    try:
        return sorted(folder.iterdir())[:10_000]
    except OSError:
        return ()


class Fingerprints:
    """SHA-256 of file contents, remembered by size, modification time and inode, and on disk where a folder is given.

    Reading a file twice in a second that left size, time and inode alike is the one change it can't see; times are in
    nanoseconds, so that takes a program that sets them back.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[Path, tuple[str, str]] = {}

    def of(self, path: Path) -> str:
        """Returns the fingerprint of a file, or of all files below a folder with their names, as hex."""
        if path.is_dir():
            return self._of_folder(path)
        stamp = stat_stamp(path)
        known = self._known.get(path) or self._remembered(path)
        if known and known[0] == stamp:
            self._known[path] = known
            return known[1]
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        if stat_stamp(path) != stamp:
            raise FileNotUsable(f"the file {str(path)!r} changed while it was read; run again once it is complete")
        self._known[path] = (stamp, digest.hexdigest())
        self._remember(path)
        return digest.hexdigest()

    def unchanged(self, path: Path) -> bool:
        """Returns whether the content is still what `of` last said of this path, by a new look at its stamp."""
        if path.is_dir():
            return all(self.unchanged(file) for file in _files_below(path))
        known = self._known.get(path)
        return known is not None and _exists(path) and known[0] == stat_stamp(path)

    def _of_folder(self, folder: Path) -> str:
        digest = hashlib.sha256(b"folder")
        for file in _files_below(folder):
            digest.update(f"\0{file.relative_to(folder).as_posix()}\0{self.of(file)}".encode())
        return digest.hexdigest()

    def _entry(self, path: Path) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"{hashlib.sha256(str(path).encode()).hexdigest()}.json"

    def _remembered(self, path: Path) -> tuple[str, str] | None:
        entry = self._entry(path)
        if entry is None:
            return None
        try:
            stamp, digest = json.loads(entry.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return (stamp, digest) if isinstance(stamp, str) and isinstance(digest, str) else None

    def _remember(self, path: Path) -> None:
        entry = self._entry(path)
        if entry is None or path.stat().st_size < _CHUNK:  # a small file is hashed faster than its note is read
            return
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            draft = entry.with_suffix(f".{os.getpid()}.tmp")
            draft.write_text(json.dumps(self._known[path]), "utf-8")
            draft.replace(entry)
        except OSError:
            return  # a memo that can't be kept costs time only


def stat_stamp(path: Path) -> str:
    """Returns what tells one state of a file from another without reading it: size, mtime and ctime in ns, inode."""
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_dev}:{stat.st_ino}"


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
