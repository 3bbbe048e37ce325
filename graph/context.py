"""The one window through which a running node sees the world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import LatentGraphError, RunCancelled

T = TypeVar("T")


class Context:
    """Given to `Node.run`: progress, previews, cancellation, and the resources that the composition root provides.

    The default context runs a node by itself, as in a test: nothing is shown and nothing cancels.
    """

    __slots__ = (
        "_cancelled",
        "_on_progress",
        "_on_saved",
        "_on_warning",
        "_resources",
        "node",
        "output_dir",
        "provenance",
    )

    def __init__(
        self,
        *,
        node: str = "",
        output_dir: Path = Path("output"),
        provenance: Mapping[str, str] | None = None,
        resources: Mapping[type, Any] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        on_progress: Callable[[int, int, Callable[[], Any] | None], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
        on_saved: Callable[[Path], None] | None = None,
    ) -> None:
        self.node = node
        self.output_dir = output_dir
        self.provenance: Mapping[str, str] = provenance or {}
        self._resources = resources or {}
        self._cancelled = cancelled
        self._on_progress = on_progress
        self._on_warning = on_warning
        self._on_saved = on_saved

    def progress(self, step: int, total: int, preview: Callable[[], Any] | None = None) -> None:
        """Says that `step` of `total` is done, and stops the node here if its run was cancelled.

        preview: makes a small picture, uint8 (h, w, 3); called only if someone looks. Raises RunCancelled.
        """
        self.check_cancelled()
        if self._on_progress is not None:
            self._on_progress(step, total, preview)

    def check_cancelled(self) -> None:
        """Raises RunCancelled if the run was cancelled. Long work calls this, or `progress`, at each step, tile and block."""
        if self._cancelled():
            raise RunCancelled(f"the run was cancelled while node {self.node!r} ran")

    def warn(self, message: str) -> None:
        """Tells the person who runs the graph something that is no error."""
        if self._on_warning is not None:
            self._on_warning(message)

    def saved(self, path: Path) -> None:
        """Tells which file the node wrote. What it saves should carry `provenance`: texts by key that say how it was made."""
        if self._on_saved is not None:
            self._on_saved(path)

    def resource(self, kind: type[T]) -> T:
        """Returns the resource of a class, such as the memory that holds loaded weights."""
        try:
            resource = self._resources[kind]
        except KeyError:
            raise LatentGraphError(
                f"node {self.node!r} needs a {kind.__name__}, and this run provides none; "
                "pass it in `resources` when the scheduler is made"
            ) from None
        if not isinstance(resource, kind):
            raise TypeError(f"the resource under {kind.__name__} is a {type(resource).__name__}")
        return resource
