"""The one window through which a running node sees the world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import LatentGraphError

T = TypeVar("T")

Preview = Callable[[], Any]
"""Makes a small picture, uint8 (h, w, 3), of what a node has so far; called only if someone looks."""


class Context:
    """Given to `Node.run`: progress, previews, cancellation, and the resources that the composition root provides.

    As it stands it runs a node by itself, as in a test: nothing is shown and nothing cancels. A run gives its nodes a subclass.
    text_files: the files that the node's texts name, by name; see `FilesInText`. companions: those that are read along with its
    files, by name; see `Companion`.
    """

    __slots__ = ("companions", "node", "output_dir", "provenance", "resources", "text_files")

    def __init__(
        self,
        *,
        node: str = "",
        output_dir: Path = Path("output"),
        provenance: Mapping[str, str] | None = None,
        resources: Mapping[type, Any] | None = None,
        text_files: Mapping[str, Path] | None = None,
        companions: Mapping[str, Path] | None = None,
    ) -> None:
        self.companions: Mapping[str, Path] = companions or {}
        self.text_files: Mapping[str, Path] = text_files or {}
        self.node = node
        self.output_dir = output_dir
        self.provenance: Mapping[str, str] = provenance or {}
        self.resources: Mapping[type, Any] = resources or {}

    def progress(self, step: int, total: int, preview: Preview | None = None) -> None:
        """Says that `step` of `total` is done, and stops the node here if its run was cancelled. Raises RunCancelled."""
        self.check_cancelled()

    def check_cancelled(self) -> None:
        """Raises RunCancelled if the run was cancelled. Long work calls this, or `progress`, at each step, tile and block."""

    def warn(self, message: str) -> None:
        """Tells the person who runs the graph something that is no error."""

    def saved(self, path: Path) -> None:
        """Tells which file the node wrote. What it saves should carry `provenance`: texts by key that say how it was made."""

    def resource(self, kind: type[T]) -> T:
        """Returns the resource of a class, such as the memory that holds loaded weights."""
        try:
            resource = self.resources[kind]
        except KeyError:
            raise LatentGraphError(
                f"node {self.node!r} needs a {kind.__name__}, and this run provides none; "
                "pass it in `resources` when the scheduler is made"
            ) from None
        if not isinstance(resource, kind):
            raise TypeError(f"the resource under {kind.__name__} is a {type(resource).__name__}")
        return resource
