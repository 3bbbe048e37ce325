"""Toy nodes, each made to show one thing that the engine does, and the short ways from a text to a result.

Values are `Number`s: mutable on purpose, so that a test sees it when one reader's change reaches another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Flag
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from latentgraph.graph import (
    Buffer,
    Cache,
    Context,
    Event,
    FileInput,
    Fingerprints,
    Graph,
    Known,
    NoCache,
    Node,
    OutputFacts,
    Packed,
    PlainCodec,
    Plan,
    Registry,
    RunResult,
    Scheduler,
    build_graph,
    cache_keys,
    make_plan,
    parse_document,
)

PATIENCE_SECONDS = 30.0
"""How long a test waits for what must happen at once, before it fails."""


class Number:
    """A value that travels along links. It can be changed, which no node should do."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Number({self.value})"


class Word:
    """A value of another class, to link wrongly."""


class Handle:
    """A value that has no meaning outside the process."""


class NumberCodec:
    """Writes Numbers down, eight bytes each."""

    def nbytes(self, value: Any) -> int:
        return 8

    def copy(self, value: Any) -> Any:
        return Number(value.value) if isinstance(value, Number) else value

    def pack(self, value: Any) -> Packed | None:
        if not isinstance(value, Number):
            return None
        import struct

        return Packed("number", {"value": Buffer("F64", (1,), struct.pack("<d", value.value))})

    def unpack(self, packed: Packed) -> Any:
        import struct

        return Number(struct.unpack("<d", packed.buffers["value"].data)[0])


CODEC = PlainCodec(NumberCodec())


@dataclass
class Gate:
    """What a Block waits for: it says that it came, and goes on once it may."""

    came: Flag = field(default_factory=Flag)
    may_go: Flag = field(default_factory=Flag)


@dataclass
class Bench:
    """The resource of the toy nodes: gates by name, how often each node computed, and what was saved."""

    gates: dict[str, Gate] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    saved: list[float] = field(default_factory=list)
    before_read: Callable[[Path], None] = lambda path: None

    def gate(self, name: str) -> Gate:
        return self.gates.setdefault(name, Gate())


def note(ctx: Context) -> None:
    """Counts a computation, where the run has a Bench."""
    if Bench in ctx.resources:
        ctx.resource(Bench).ran.append(ctx.node)


class Constant(Node, version=1):
    """Give a number."""

    value: float = 1.0

    def run(self, ctx: Context) -> Number:
        note(ctx)
        return Number(self.value)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        value = known.value("value")
        return {"number": {} if value is None else {"size": value}}


class Add(Node, version=1):
    """Add numbers."""

    a: Number
    b: Number | None = None
    plus: float = Field(0.0, ge=0, le=100_000, description="What else to add.")

    def run(self, ctx: Context) -> Number:
        note(ctx)
        return Number(self.a.value + (self.b.value if self.b else 0.0) + self.plus)


class Match(Node, version=1):
    """Take two numbers of one size."""

    a: Number
    b: Number

    def run(self, ctx: Context) -> Number:
        note(ctx)
        return self.a

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        a, b = known.fact("a", "size"), known.fact("b", "size")
        if None not in (a, b) and a != b:
            known.problem("b", f"has size {b}, but input 'a' has size {a}")
        return {"number": known.facts("a")}


class Sum(Node, version=1):
    """Add up a list of numbers."""

    items: list[Number]

    def run(self, ctx: Context) -> Number:
        note(ctx)
        return Number(sum(item.value for item in self.items))


class Halves(NamedTuple):
    """A number in two parts."""

    whole: Number
    rest: Number


class Pair(Node, version=1):
    """Split a number."""

    a: Number

    def run(self, ctx: Context) -> Halves:
        note(ctx)
        return Halves(Number(float(int(self.a.value))), Number(self.a.value % 1))


class Count(Node, version=1):
    """Give the numbers below a bound, as a list."""

    below: int = Field(3, ge=0)

    def run(self, ctx: Context) -> list[Number]:
        note(ctx)
        return [Number(float(index)) for index in range(self.below)]


class Read(Node, version=1):
    """Give the plain value of a number."""

    a: Number

    def run(self, ctx: Context) -> float:
        note(ctx)
        return self.a.value


class Mean(Node, version=1):
    """Give the mean of plain values."""

    values: list[float]

    def run(self, ctx: Context) -> Number:
        note(ctx)
        return Number(sum(self.values) / max(1, len(self.values)))


class Name(Node, version=1):
    """Give a text, chosen by a number's sign."""

    a: Number

    def run(self, ctx: Context) -> str:
        note(ctx)
        return "negative" if self.a.value < 0 else "positive"


class Fail(Node, version=1):
    """Raise."""

    a: Number | None = None
    message: str = "no"

    def run(self, ctx: Context) -> Number:
        note(ctx)
        raise ValueError(self.message)


class Block(Node, version=1):
    """Wait at a gate, and take one step behind it."""

    gate: str
    a: Number | None = None

    def run(self, ctx: Context) -> Number:
        note(ctx)
        gate = ctx.resource(Bench).gate(self.gate)
        gate.came.set()
        if not gate.may_go.wait(PATIENCE_SECONDS):
            raise TimeoutError(f"nobody opened the gate {self.gate!r}")
        ctx.progress(1, 2)
        return Number(self.a.value if self.a else 0.0)


class BlockOnDevice(Block, version=1, lane="device"):
    """Wait at a gate on the device lane."""


class OnDevice(Node, version=1, lane="device"):
    """Add one on the device lane."""

    a: Number | None = None

    def run(self, ctx: Context) -> Number:
        note(ctx)
        return Number((self.a.value if self.a else 0.0) + 1)


class Save(Node, version=1, effect=True, lane="io"):
    """Save a number."""

    a: Number
    name: str = "it"

    def run(self, ctx: Context) -> None:
        note(ctx)
        ctx.resource(Bench).saved.append(self.a.value)
        ctx.saved(ctx.output_dir / self.name)


class Mutate(Node, version=1):
    """Change its inputs, which is forbidden, and give what it got."""

    a: Number
    items: list[int] = Field(default_factory=lambda: [1])

    def run(self, ctx: Context) -> Number:
        note(ctx)
        got = self.a.value + sum(self.items)
        self.a.value = -1000.0
        self.items.append(1000)
        return Number(got)


class Load(Node, version=1, cached=False):
    """Give a handle."""

    def run(self, ctx: Context) -> Handle:
        note(ctx)
        return Handle()


class Use(Node, version=1):
    """Make a number with a handle."""

    handle: Handle
    value: float = 1.0

    def run(self, ctx: Context) -> Number:
        note(ctx)
        return Number(self.value)


class FileLength(Node, version=1, lane="io"):
    """Give the number in a file."""

    file: Annotated[Path, FileInput("text")]

    def run(self, ctx: Context) -> Number:
        note(ctx)
        if Bench in ctx.resources:
            ctx.resource(Bench).before_read(self.file)
        return Number(float(self.file.read_text("utf-8")))


class Kinds(Node, version=1):
    """Take every kind of literal."""

    word: str = "a"
    count: int = Field(1, ge=1, le=10, multiple_of=1)
    share: float = 0.5
    flag: bool = False
    mode: Literal["slow", "fast"] = "slow"
    sizes: list[int] = Field(default_factory=list)
    either: int | str = 0
    maybe: int | None = None

    def run(self, ctx: Context) -> Number:
        note(ctx)
        return Number(float(self.count))


REGISTRY = Registry(
    [
        Constant,
        Add,
        Match,
        Sum,
        Pair,
        Count,
        Read,
        Mean,
        Name,
        Fail,
        Block,
        BlockOnDevice,
        OnDevice,
        Save,
        Mutate,
        Load,
        Use,
        FileLength,
        Kinds,
    ]
)


def graph_of(nodes: str, *, params: Mapping[str, Any] | None = None, file: Path | None = None) -> Graph:
    """Returns the graph of a document that begins with its version; `nodes` is the rest of it."""
    return build_graph(parse_document(f"latentgraph: 1\n{nodes}", file=file), REGISTRY, params=params)


def plan_of(graph: Graph, cache: Cache | None = None, fingerprints: Fingerprints | None = None) -> Plan:
    """Returns the plan for a graph with what the cache has."""
    return make_plan(
        graph, cache_keys(graph, fingerprints or Fingerprints()), (NoCache() if cache is None else cache).tier
    )


@contextmanager
def scheduler_of(
    cache: Cache | None = None, bench: Bench | None = None, fingerprints: Fingerprints | None = None, **lanes: int
) -> Iterator[Scheduler]:
    """Gives a scheduler with few threads, and closes it."""
    with Scheduler(
        NoCache() if cache is None else cache,  # an empty cache is false
        CODEC,
        fingerprints=fingerprints,
        lanes={"device": 1, "cpu": 2, "io": 1, **lanes},  # type: ignore[dict-item]
        resources={Bench: bench or Bench()},
    ) as scheduler:
        try:
            yield scheduler
        finally:
            if bench is not None:  # a failing test must not hang in `close`
                for gate in bench.gates.values():
                    gate.may_go.set()


def run_all(
    graph: Graph,
    cache: Cache | None = None,
    bench: Bench | None = None,
    *,
    events: list[Event] | None = None,
    fingerprints: Fingerprints | None = None,
) -> RunResult:
    """Runs a graph with a scheduler of its own."""
    prints = fingerprints or Fingerprints()
    plan = plan_of(graph, cache, prints)
    with scheduler_of(cache, bench, prints) as scheduler:
        run = scheduler.start(plan, on_event=None if events is None else events.append)
        return run.wait(PATIENCE_SECONDS)


def plain(value: Any) -> Any:
    """Returns Numbers as floats, in lists too."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.value if isinstance(value, Number) else value


def outputs_of(result: RunResult) -> dict[str, Any]:
    """Returns the outputs of a run as plain values."""
    return {name: plain(value) for name, value in result.outputs.items()}
