"""Documents as they come over HTTP: read and checked in threads of their own, in bounded time, a few at once.

Checking reads headers of files, and computes nothing. Knows no request.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from latentgraph.graph import (
    Document,
    InvalidWorkflow,
    Limits,
    Problem,
    Registry,
    build_graph,
    document_from_tree,
)

from ..files.resolving import ServerResolver, content_digests
from ..jobs.records import StoredWorkflow
from .fitting import Fitting, fitting_files
from .problems import Refusal, retry_after
from .reading import Syntax, canonical, read_document, syntax_of
from .settings import KIB, Settings

T = TypeVar("T")

LATER = frozenset(("missing-param", "file-not-found"))
"""Problems of a stored workflow that a run may mend: it gives the parameters, and sends the files."""

_REMEMBERED, _REMEMBERED_CHARACTERS = 256, 32 * KIB


@dataclass(frozen=True, slots=True)
class Loaded:
    """A document that was read: with its canonical JSON, and the digests of the uploads that it names."""

    document: Document
    text: str
    digests: frozenset[str]


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of a document without errors: what it gives, how many nodes it has, its warnings, and the digests of the
    uploads that it and the values for its parameters name."""

    outputs: tuple[str, ...]
    nodes: int
    warnings: tuple[Problem, ...]
    uploads: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Look:
    """What a first look at a document with values says.

    given: the digests of the uploads that the values name. checked: None if it, or its values, name uploads, since it is
    to be known first which of them the caller may use.
    """

    loaded: Loaded
    given: frozenset[str]
    checked: Checked | None


class Checker:
    """Checks documents with the node types and files that the server has, a few at a time."""

    def __init__(self, registry: Registry, resolver: ServerResolver, settings: Settings) -> None:
        self.registry, self.resolver = registry, resolver
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.checks_at_once, "check")
        self._waiting = 0
        self._known: OrderedDict[tuple[str, str], Loaded] = OrderedDict()

    def close(self) -> None:
        """Lets checks that run end by themselves, and begins no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def load(self, source: bytes | str | dict[str, Any], syntax: Syntax = "yaml") -> Loaded:
        """Returns the document in a text or tree. Raises InvalidWorkflow for what can't be read at all, or is too large."""
        return await self.in_thread(lambda: _read(source, syntax, self._settings.document))

    async def load_stored(self, stored: StoredWorkflow) -> Loaded:
        """Returns the document of a stored workflow, which is remembered if it is of usual size: it comes again and again."""
        key = (stored.sha256, stored.media_type)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        loaded = await self.load(stored.document, syntax_of(stored.media_type))
        if len(stored.document) <= _REMEMBERED_CHARACTERS:
            self._known[key] = loaded
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return loaded

    async def check(
        self,
        loaded: Loaded,
        params: Mapping[str, Any],
        owned: Collection[str],
        *,
        forgive: Collection[str] = (),
    ) -> Checked:
        """Returns a document, checked with the values for its parameters and the uploads that it may use.

        Raises InvalidWorkflow with every problem, unless all errors have codes that are forgiven: those are warnings then.
        """
        resolver = _Remembering(self.resolver.for_uploads(owned))
        limits = self._settings.document
        return await self.in_thread(lambda: _check(loaded.document, params, self.registry, resolver, limits, forgive))

    async def fitting(
        self, source: bytes | str | dict[str, Any] | Loaded, params: Mapping[str, Any]
    ) -> dict[str, Fitting]:
        """Returns the model files that fit each parameter of a document that takes one; see `fitting_files`.

        No upload is looked for: what names one is as wrong with any model file, and tells none from another.
        """
        limits, resolver = self._settings.document, _Remembering(self.resolver.for_uploads(()))

        def fitting() -> dict[str, Fitting]:
            loaded = source if isinstance(source, Loaded) else _read(source, "yaml", limits)
            found = fitting_files(loaded.document, params, self.registry, resolver, limits)
            return {name: replace(one, unfit=told(one.unfit)) for name, one in found.items()}

        def told(unfit: Mapping[str, Problem]) -> dict[str, Problem]:
            return {file: resolver.without_paths(problem) for file, problem in unfit.items()}

        return await self.in_thread(fitting)

    async def look(self, source: bytes | str | dict[str, Any] | Loaded, params: Mapping[str, Any]) -> Look:
        """Returns a document that is read, or to be read as by `load`, and all that can be said at once of its check.

        Raises InvalidWorkflow as `load` does, and as `check` does where no upload is named.
        """
        limits = self._settings.document
        resolver = _Remembering(self.resolver.for_uploads(()))

        def look() -> Look:
            loaded = source if isinstance(source, Loaded) else _read(source, "yaml", limits)
            given = content_digests(canonical(params)) if params else frozenset()
            if loaded.digests or given:
                return Look(loaded, given, None)
            return Look(loaded, given, _check(loaded.document, params, self.registry, resolver, limits, ()))

        return await self.in_thread(look)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Returns what a function gives, computed in a thread of the checker, in bounded time and with a bounded queue."""
        begun = False

        def begin() -> T:
            nonlocal begun
            begun = True
            return work()

        if self._waiting >= self._settings.checks_waiting:
            raise _busy()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.check_seconds):
                return await asyncio.get_running_loop().run_in_executor(self._pool, begin)
        except TimeoutError as error:
            if not begun:
                raise _busy() from error
            words = f"The document was not checked within {self._settings.check_seconds:g} s; make it smaller."
            raise Refusal("check-too-long", words) from error
        finally:
            self._waiting -= 1


def _read(source: bytes | str | dict[str, Any], syntax: Syntax, limits: Limits) -> Loaded:
    match source:
        case dict():
            document = document_from_tree(source, limits=limits)
        case _:
            document = read_document(source, syntax, limits)
    text = canonical(document.tree)
    if len(text) > 6 * limits.bytes:  # an escaped character has six
        words = f"the document has {len(text):,} bytes as JSON; at most {limits.bytes:,} are read."
        raise InvalidWorkflow([Problem("limit-bytes", words)])
    return Loaded(document, text, content_digests(text))


def _check(
    document: Document,
    params: Mapping[str, Any],
    registry: Registry,
    resolver: _Remembering,
    limits: Limits,
    forgive: Collection[str],
) -> Checked:
    try:
        graph = build_graph(document, registry, params=params, resolver=resolver, limits=limits)
    except InvalidWorkflow as error:
        problems = tuple(resolver.without_paths(problem) for problem in error.problems)
        if any(problem.severity == "error" and problem.code not in forgive for problem in problems):
            raise InvalidWorkflow(problems) from None
        warnings = tuple(replace(problem, severity="warning") for problem in problems)
        return Checked(tuple(document.outputs), len(document.nodes), warnings)
    warnings = tuple(resolver.without_paths(problem) for problem in graph.warnings)
    return Checked(tuple(graph.outputs), len(graph.nodes), warnings)


class _Remembering:
    """A resolver that knows what it found, so that no report tells where the server keeps its files."""

    def __init__(self, resolver: ServerResolver) -> None:
        self._resolver = resolver
        self._names: dict[str, str] = {}

    def resolve(self, kind: str, name: str, base: Path | None) -> Path:
        """Returns the path of a name; see FileResolver."""
        path = self._resolver.resolve(kind, name, base)
        self._names[str(path)] = name
        return path

    def names(self, kind: str) -> list[str]:
        """Returns the names of a kind that documents may use."""
        return self._resolver.names(kind)

    def where(self, kind: str) -> str:
        """Returns where a file of a kind may lie; see FileResolver."""
        return self._resolver.where(kind)

    def without_paths(self, problem: Problem) -> Problem:
        """Returns a problem with names in place of paths."""
        message, file = problem.message, problem.place.file
        for path, name in self._names.items():
            message = message.replace(path, name)
        if file is not None:
            file = self._names.get(file, Path(file).name)
        return replace(problem, message=message, place=problem.place._replace(file=file))


def _busy() -> Refusal:
    return Refusal("too-many-checks", "Too many documents wait to be checked; try again.", headers=retry_after(1))
