"""Documents as they come over HTTP: read within bounds, checked in threads of their own, and written down canonically.

What is right is read by the fast parser; what is not is read again by the engine's own, which is slower and says where the
error is. Checking reads headers of files, and computes nothing. Knows no request.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from latentgraph.graph import (
    Document,
    InvalidWorkflow,
    Limits,
    Problem,
    Registry,
    build_graph,
    document_from_tree,
)
from latentgraph.graph.problems import Problems
from latentgraph.graph.source import read_tree

from .problems import Refusal, retry_after
from .resolving import ServerResolver, content_digests
from .settings import KIB, Settings

T = TypeVar("T")
Syntax = Literal["json", "yaml"]

LATER = frozenset(("missing-param", "file-not-found"))
"""Problems of a stored workflow that a run may mend: it gives the parameters, and sends the files."""

_REMEMBERED, _REMEMBERED_BYTES = 64, 16 * KIB
_MAX_DIGITS = 4000  # of a whole number, as the slow parser has it


class _Unusual(ValueError):
    """A text that is for the slow parser to judge."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A document that was read: with its canonical JSON, and the digests of the uploads that it names."""

    document: Document
    text: str
    digests: frozenset[str]


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of a document without errors: what it gives, how many nodes it has, and its warnings."""

    outputs: tuple[str, ...]
    nodes: int
    warnings: tuple[Problem, ...]


class Checker:
    """Checks documents with the node types and files that the server has, a few at a time."""

    def __init__(self, registry: Registry, resolver: ServerResolver, settings: Settings) -> None:
        self.registry, self.resolver = registry, resolver
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.checks_at_once, "check")
        self._waiting = 0
        self._known: OrderedDict[tuple[bytes | str, Syntax], Loaded] = OrderedDict()

    def close(self) -> None:
        """Lets checks that run end by themselves, and begins no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def load(self, source: bytes | str | dict[str, Any], syntax: Syntax = "yaml") -> Loaded:
        """Returns the document in a text or tree. Raises InvalidWorkflow for what can't be read at all, or is too large.

        Texts of usual size are remembered, since stored workflows come again and again.
        """
        limits = self._settings.document
        if isinstance(source, dict):
            return await self.in_thread(lambda: _loaded(document_from_tree(source, limits=limits), limits))
        known = self._known.get((source, syntax))
        if known is not None:
            self._known.move_to_end((source, syntax))
        else:
            known = await self.in_thread(lambda: _loaded(read_document(source, syntax, limits), limits))
            if len(source) <= _REMEMBERED_BYTES:
                self._known[source, syntax] = known
                if len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return known

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

    async def digests(self, params: Mapping[str, Any]) -> frozenset[str]:
        """Returns the digests of the uploads that values of parameters name."""
        if not params:
            return frozenset()
        return await self.in_thread(lambda: content_digests(canonical(params)))

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


def read_document(data: bytes | str, syntax: Syntax, limits: Limits) -> Document:
    """Returns the document in a text, its problems noted. Raises InvalidWorkflow if it can't be read at all."""
    problems = Problems()
    tree = _read_slowly(data, syntax, limits, problems)  # which knows places
    return document_from_tree(tree, problems=problems, limits=limits)


def read_json(data: bytes | str, limits: Limits) -> Any:
    """Returns the tree of a JSON text: every key once, all numbers finite, all texts writable.

    Raises InvalidWorkflow, which says where it is wrong.
    """
    if len(data) <= limits.bytes:
        try:
            text = data.decode() if isinstance(data, bytes) else data
            if "\\ud" not in text and "\\uD" not in text:
                tree = _DECODER.decode(text)
                text.encode()
                if not _is_deeper(tree, limits.depth):
                    return tree
        except (ValueError, RecursionError):
            pass
    problems = Problems()
    tree = _read_slowly(data, "json", limits, problems)
    problems.raise_errors()
    return tree


def canonical(tree: Any) -> str:
    """Returns a tree as JSON that any JSON parser reads: ASCII, no blanks. Order is kept; it means something in documents."""
    return json.dumps(tree, allow_nan=False, separators=(",", ":"))


def _read_slowly(data: bytes | str, syntax: Syntax, limits: Limits, problems: Problems) -> Any:
    tree = read_tree(data, syntax=syntax, file=None, problems=problems, limits=limits)
    size = 0
    for value in _leaves(tree):
        if isinstance(value, float) and not math.isfinite(value):
            words = "a number is infinite or none at all, or too large to be one; no input takes it."
            raise InvalidWorkflow([Problem("wrong-type", words)])
        size += len(value) if isinstance(value, str) else 8
    if size > limits.bytes:
        words = f"the document has {size:,} bytes once its aliases are written out; at most {limits.bytes:,} are read."
        raise InvalidWorkflow([Problem("limit-bytes", words)])
    return tree


def _loaded(document: Document, limits: Limits) -> Loaded:
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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Unusual
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Unusual
    return value


def _whole(text: str) -> int:
    if len(text) >= _MAX_DIGITS:
        raise _Unusual
    return int(text)


def _refused(text: str) -> Any:
    raise _Unusual(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_float=_finite, parse_constant=_refused)


def _is_deeper(tree: Any, limit: int) -> bool:
    """Returns whether a tree has more levels than a limit."""
    level = [tree]
    for _ in range(limit):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return any(isinstance(value, dict | list) for value in level)


def _leaves(tree: Any) -> Iterator[Any]:
    """Yields the keys and plain values of a tree."""
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        else:
            yield value
