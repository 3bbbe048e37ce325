"""What the names of files in a submitted document stand for: an upload of the caller's, a bundled file, or a plain name inside
one folder of its kind. Nothing else: no path, no `..`, no link that leads out, no URL.

It is used twice with the same folders: where documents are checked, for the uploads of one caller alone, and in a worker,
where they were checked already. Its messages name no folder of the server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from latentgraph.graph import FileNotUsable
from latentgraph.graph.files import DOCUMENT
from latentgraph.graph.wording import names as in_words

from .uploads import CONTENT_ID, PREFIX, digest_of, upload_path

UPLOAD_KINDS = frozenset(("image", "mask"))
"""The kinds of files that an upload may stand for."""

_MAX_NAME = 1024
_MAX_LISTED = 10_000


@dataclass(frozen=True)
class ServerResolver:
    """Looks a name up as a content id, as a bundled name, and inside the folders of its kind, in this order.

    uploads: the folder of a FileStore. bundled: names that stand for files of the package, by kind. folders: where plain names
    of a kind are looked for, with the suffixes that may be left out; a kind without one has no plain names. owned: the digests
    of the uploads that may be used; None for all.
    """

    uploads: Path
    bundled: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    folders: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    suffixes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    owned: frozenset[str] | None = None

    def for_uploads(self, owned: Iterable[str]) -> ServerResolver:
        """Returns the resolver that knows these uploads alone."""
        return replace(self, owned=frozenset(owned))

    def resolve(self, kind: str, name: str, base: Path | None) -> Path:
        """Returns the path of an existing file or folder; see FileResolver."""
        if not name or len(name) > _MAX_NAME or "\0" in name:
            raise FileNotUsable(f"{name[:80]!r} is no file name; give the name of a file of kind {kind!r}")
        if name.startswith(PREFIX):
            return self._upload(kind, name)
        bundled = self.bundled.get(kind, {})
        if name in bundled:
            return bundled[name]
        parts = name.removeprefix("./").split("/")
        if "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
            if kind == DOCUMENT:
                raise self._missing(kind, name)
            raise FileNotUsable(f"{name[:80]!r} is a path; here a {kind} goes by a plain name or a content id")
        for root in self._roots(kind, base):
            for suffix in ("", *self.suffixes.get(kind, ())):
                found = _inside(root[0], root[1].joinpath(*parts[:-1], parts[-1] + suffix))
                if found is not None:
                    return found
        raise self._missing(kind, name)

    def where(self, kind: str) -> str:
        """Names the first folder of a kind, as seen from the models folder; see FileResolver."""
        folder = next(iter(self.folders.get(kind, ())), None)
        return f"in {folder.name}/ of the server's models folder" if folder else ""

    def names(self, kind: str) -> list[str]:
        """Returns the names of a kind that can be used: bundled ones first, then those in its folders, sorted."""
        found = [
            path.relative_to(root).as_posix()
            for root in self.folders.get(kind, ())
            if root.is_dir()
            for path in sorted(root.rglob("*"))[:_MAX_LISTED]
            if path.suffix in self.suffixes.get(kind, ()) or (path / "model_index.json").is_file()
        ]
        return [*self.bundled.get(kind, {}), *dict.fromkeys(found)]

    def _upload(self, kind: str, name: str) -> Path:
        sha256 = digest_of(name)
        if sha256 is None:
            raise FileNotUsable(f"{name[:80]!r} is no content id; expected '{PREFIX}' and 64 hexadecimal digits")
        if kind not in UPLOAD_KINDS:
            raise FileNotUsable(f"an upload can't be a {kind}; expected the name of one that the server has")
        path = upload_path(self.uploads, sha256)
        if (self.owned is not None and sha256 not in self.owned) or path.is_symlink() or not path.is_file():
            raise FileNotUsable(f"there is no upload {name!r}; send the file to /v1/files first")
        return path

    def _roots(self, kind: str, base: Path | None) -> Iterable[tuple[Path, Path]]:
        """Yields the folders of a kind, each with the one in it where a name begins: the naming document's own, first."""
        roots = self.folders.get(kind, ())
        for root in roots:
            if base is not None and base.is_relative_to(root.resolve()):
                yield root, base
        for root in roots:
            yield root, root

    def _missing(self, kind: str, name: str) -> FileNotUsable:
        known = self.names(kind)
        near = get_close_matches(name, known, n=3, cutoff=0.5)
        if kind == DOCUMENT:
            cure = "bring it along under 'parts', as `latentgraph submit` does"
            return FileNotUsable(f"there is no document {name[:80]!r} on the server; {cure}", near)
        upload = f", or the content id of an upload ({PREFIX}...)" if kind in UPLOAD_KINDS else ""
        there = f"; there are: {in_words(known)}" if known and not near else ""
        return FileNotUsable(f"there is no {kind} {name[:80]!r} on the server{there}{upload}", near)


def content_digests(text: str) -> frozenset[str]:
    """Returns the digests of the content ids in a text."""
    return frozenset(CONTENT_ID.findall(text))


def _inside(root: Path, path: Path) -> Path | None:
    """Returns where a path leads, or None if nothing is there or it leads out of the folder."""
    try:
        found = path.resolve(strict=True)
        return found if found.is_relative_to(root.resolve()) else None
    except (
        OSError,
        RuntimeError,
        ValueError,
    ):  # not there, a name that can't be, a folder that is shut, a loop of links
        return None
