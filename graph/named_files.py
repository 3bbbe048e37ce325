"""The files that nodes name: in an input, along with one that is named there, or within a text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import FileNotUsable
from .evaluate import FileName
from .files import FileResolver
from .ports import InputPort
from .report import Problems
from .resolve import FlatNode
from .wording import shown


class NamedFiles:
    """Finds files, each once."""

    def __init__(self, resolver: FileResolver, problems: Problems) -> None:
        self._resolver, self._problems = resolver, problems
        self._found: dict[tuple[str, FileName], Path | FileNotUsable] = {}

    def file(self, flat: FlatNode, port: InputPort, value: Any) -> Path | None:
        """Returns the path that a file input names, or None if there is none (noted)."""
        if not isinstance(value, str | FileName | Path) or port.file is None:
            message = f"input {port.name!r} is {shown(value)}; expected {port.expected}."
            flat.note(self._problems, "wrong-type", message, port.name)
            return None
        found = self._find(port.file.kind, value if isinstance(value, FileName) else FileName(str(value), flat.base))
        if isinstance(found, FileNotUsable):
            near = found.near[0] if found.near else None
            flat.note(self._problems, "file-not-found", f"input {port.name!r}: {found}.", port.name, near)
            return None
        return found

    def companions(self, port: InputPort, path: Path) -> Iterator[tuple[str, Path]]:
        """Yields the files that are read along with one, by name, as far as they are there."""
        if port.file is None or port.file.companions is None:
            return
        for each in port.file.companions(path):
            found = (self._find(each.kind, FileName(name, None)) for name in each.names)
            there = (where for where in (each.path, *found) if isinstance(where, Path))
            if (first := next(there, None)) is not None:
                yield each.name, first

    def text_files(self, flat: FlatNode, port: InputPort, text: str) -> Iterator[tuple[str, Path]]:
        """Yields the files that a text names, by name; one that is not there is left out with a warning."""
        for candidates in port.in_text.names(text) if port.in_text else ():
            for name in candidates:
                found = self._find(port.in_text.kind, FileName(name, flat.base)) if port.in_text else None
                if isinstance(found, Path):
                    yield name, found
                    break
            else:
                near = found.near[0] if isinstance(found, FileNotUsable) and found.near else None
                message = f"input {port.name!r}: {found}; it is left out."
                flat.note(self._problems, "file-not-found", message, port.name, near, severity="warning")

    def _find(self, kind: str, wanted: FileName) -> Path | FileNotUsable:
        """Returns the path of a file, or why there is none; each is looked for once."""
        key = (kind, wanted)
        if key not in self._found:
            try:
                self._found[key] = self._resolver.resolve(kind, wanted.name, wanted.base)
            except FileNotUsable as error:
                self._found[key] = error
        return self._found[key]
