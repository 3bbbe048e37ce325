"""Files that documents name: how a name becomes a path.

A node declares a file input as `Annotated[Path, FileInput("checkpoint")]`. The engine resolves the name through a
`FileResolver` while it validates, puts the fingerprint of the content into the key, and gives the node the path. What may be
read is the resolver's decision alone; a server passes one that never leaves its folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

from .errors import FileNotUsable
from .wording import names

DOCUMENT = "document"
"""The kind of file that a document names to use another document as a node."""


@dataclass(frozen=True, slots=True)
class Companion:
    """A file that is read along with one that an input names, such as the tokenizer beside a text encoder.

    name: by which the node finds it. path: where it is; if that is not known, the first of the names that there is of a kind.
    """

    name: str
    path: Path | None = None
    kind: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileInput:
    """Marks an input as the name of a file. `kind` says which: "image", "checkpoint", "vae" and so on.

    companions: gives for a file those that are read along with it. One that is not there is left out.
    """

    kind: str
    companions: Callable[[Path], Iterable[Companion]] | None = None


@dataclass(frozen=True, slots=True)
class FilesInText:
    """Marks a text input as one that may name files, as `embedding:name` does in a prompt.

    names: gives for each mention in a text the names to look for, of which the first that is there counts. Texts that come by
    a link name no files, since what a node reads must be known before it runs.
    """

    kind: str
    names: Callable[[str], Iterable[tuple[str, ...]]]


class FileResolver(Protocol):
    """Turns the names that a document uses into paths."""

    def resolve(self, kind: str, name: str, base: Path | None) -> Path:
        """Returns the path of an existing file or folder.

        `base` is the folder of the document that names it. Raises FileNotUsable with the places that were tried.
        """
        ...

    def where(self, kind: str) -> str:
        """Returns where a file of a kind may lie, in words that follow "the name of a file"; "" if that is anywhere."""
        ...


@dataclass(frozen=True)
class FolderResolver:
    """Looks a name up as a bundled name, as a path, and below the folders of its kind, in this order.

    A folder that is no model is what a name means only if there is no file of the name anywhere. bundled: names that stand for
    files of the package, by kind. folders: where files of a kind are looked for, with the suffixes that may be left out.
    """

    bundled: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    folders: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    suffixes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def resolve(self, kind: str, name: str, base: Path | None) -> Path:
        """Returns the first existing path for `name`; see FileResolver."""
        if not name or "\0" in name:
            raise FileNotUsable(f"{name!r} is no file name; give the name of a file of kind {kind!r}")
        found = self.find(kind, name, base)
        if found is None:
            raise self._missing(kind, name, self._roots(kind, base))
        return found

    def find(self, kind: str, name: str, base: Path | None) -> Path | None:
        """Returns the first existing path for `name`, None if there is none; it looks for no near name, and costs little."""
        if not name or "\0" in name:
            return None
        bundled = self.bundled.get(kind, {})
        if name in bundled:
            return bundled[name]
        roots = self._roots(kind, base)
        suffixes = ("", *self.suffixes.get(kind, ()))
        named = (root / _expanded(name + suffix) for root in dict.fromkeys(roots) for suffix in suffixes)
        folder: Path | None = None
        for candidate in filter(_exists, named):
            if not candidate.is_dir() or _is_model(candidate):
                return candidate.resolve()
            folder = folder or candidate
        return folder.resolve() if folder is not None else None

    def where(self, kind: str) -> str:
        """Names the first folder of a kind; see FileResolver."""
        folder = next(iter(self.folders.get(kind, ())), None)
        return f"in {folder}, or a path" if folder else ""

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

    def _roots(self, kind: str, base: Path | None) -> list[Path]:
        return [*([base] if base else []), Path.cwd(), *self.folders.get(kind, ())]

    def _missing(self, kind: str, name: str, roots: Sequence[Path]) -> FileNotUsable:
        suffixes = self.suffixes.get(kind, ())
        siblings = [
            (Path(name).parent / entry.name).as_posix()
            for root in dict.fromkeys(roots)
            if (root / name).parent.is_dir()
            for entry in _listing((root / name).parent)
            if not suffixes or entry.suffix in suffixes or _is_model(entry)
        ]
        known = self.names(kind)
        candidates = dict.fromkeys([*self.bundled.get(kind, {}), *siblings, *known])
        bare = {candidate.removesuffix(Path(candidate).suffix): candidate for candidate in candidates}
        near = get_close_matches(name, list(candidates), n=3, cutoff=0.5)
        near = near or [bare[match] for match in get_close_matches(name, list(bare), n=3, cutoff=0.5)]
        tried = ", ".join(str(root) for root in dict.fromkeys(roots))
        there = f"; there are: {names(known)}" if known and not near else ""
        return FileNotUsable(f"there is no {kind} {name!r}; looked in {tried}{there}", near)


def _expanded(name: str) -> Path:
    """Returns a path with the home of a user for `~`; a name that only looks like that is meant as it is."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, or a folder that may not be read
        return False


def _is_model(folder: Path) -> bool:
    """Returns whether a folder is a model of diffusers, or a part of one."""
    return any((folder / name).is_file() for name in ("model_index.json", "config.json"))


def _listing(folder: Path) -> Iterable[Path]:
    try:
        return sorted(folder.iterdir())[:10_000]
    except OSError:
        return ()
