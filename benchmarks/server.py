"""What a server costs beside what it computes: a real `latentgraph serve` with a worker and a data folder on disk, on loopback.

    python -m benchmarks.server [--folder DIR] [--repeat N]

Durable writes cost what the disk's fsync costs, so that is measured in the same run, before and after the rest, and printed
beside the figures. Every load is bounded: some thousands of requests, from at most sixteen connections. DIR is where the data
folder is made, and removed again; it should be on the disk that a server would use.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

TXT2IMG = yaml.safe_load((Path(__file__).parent.parent / "workflows" / "txt2img.yaml").read_text("utf-8"))
"""A workflow of usual size: eight parameters, seven nodes, and a checkpoint whose header is looked at."""

NOTHING = {"latentgraph": 1, "nodes": {"empty": {"type": "EmptyLatent"}}, "outputs": {"latent": "$empty"}}
"""A graph of one node that costs nothing, and comes from the cache from the second run on."""

LINES = 16  # connections at once


@dataclass(frozen=True)
class Answer:
    """What came back: the status and the bytes of the body."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


class Line:
    """A kept connection that asks one thing at a time, as cheaply as can be: the load must not be what is measured."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, method: str, path: str, tree: Any = None) -> Answer:
        """Returns the answer to a request; a tree goes along as JSON."""
        body = b"" if tree is None else json.dumps(tree).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        return Answer(int(head.split(maxsplit=2)[1]), await self._reader.readexactly(length))

    def close(self) -> None:
        """Ends the connection."""
        self._writer.close()


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.host, _, port = address.removeprefix("http://").rpartition(":")
        self.port = int(port)

    @contextlib.asynccontextmanager
    async def lines(self, count: int) -> AsyncIterator[list[Line]]:
        """Opens connections for as long as the context lasts."""
        lines = [Line(*await asyncio.open_connection(self.host, self.port)) for _ in range(count)]
        try:
            yield lines
        finally:
            for line in lines:
                line.close()

    async def wait_ready(self) -> None:
        """Returns once a worker is warm."""
        async with self.lines(1) as (line,):
            while (await line.ask("GET", "/readyz")).status != 200:
                await asyncio.sleep(0.02)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Starts a server on a new data folder; the context begins once it takes submits."""
    command = [sys.executable, "-m", "latentgraph.cli", "serve", "--port", "0", "--device", "cpu"]
    command += [
        "--data",
        str(folder / "data"),
        "--models",
        str(folder / "models"),
        "--cache-dir",
        str(folder / "cache"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(process, process.stdout.readline().split()[-1])
        finally:
            process.terminate()
            process.wait()


@dataclass(frozen=True)
class Times:
    """Seconds that something took, over and over."""

    seconds: Sequence[float]

    def part(self, share: float) -> float:
        """Returns what a share of them stayed within, in milliseconds."""
        return sorted(self.seconds)[min(int(share * len(self.seconds)), len(self.seconds) - 1)] * 1e3

    def __str__(self) -> str:
        return f"{self.part(0.5):.2f} ms, {self.part(0.99):.2f} ms"


async def timed(work: Callable[[], Awaitable[Answer]], *statuses: int) -> float:
    """Returns the seconds until an answer came, which must have one of some statuses."""
    begun = time.perf_counter()
    answer = await work()
    seconds = time.perf_counter() - begun
    if answer.status not in statuses:
        raise RuntimeError(f"expected {statuses}, got {answer.status}: {answer.body[:500]!r}")
    return seconds


def fsyncs(folder: Path, count: int = 200) -> Times:
    """Returns how long it takes to append 4 KiB to a file and have them on the disk."""
    seconds = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(count):
            begun = time.perf_counter()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - begun)
    return Times(seconds)


async def start_times(folder: Path, repeat: int) -> tuple[float, float]:
    """Returns the median seconds from the command to taking submits, and to a warm worker."""
    taking, warm = [], []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            begun = time.perf_counter()
            with serving(Path(place)) as server:
                taking.append(time.perf_counter() - begun)
                await server.wait_ready()
                warm.append(time.perf_counter() - begun)
    return statistics.median(taking), statistics.median(warm)


async def submits(server: Server, path: str, body: Any, count: int) -> Times:
    """Returns how long submits take, one after another."""
    async with server.lines(1) as (line,):
        return Times([await timed(lambda: line.ask("POST", path, body), 202) for _ in range(count)])


async def submits_a_second(server: Server, path: str, body: Any, seconds: float) -> tuple[float, Times]:
    """Returns the rate at which submits are taken from `LINES` connections, and how long each takes then."""
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def go_on(line: Line, until: float) -> None:
        while loop.time() < until:
            times.append(await timed(lambda: line.ask("POST", path, body), 202))

    async with server.lines(LINES) as lines:
        begun = loop.time()
        await asyncio.gather(*(go_on(line, begun + seconds) for line in lines))
        return len(times) / (loop.time() - begun), Times(times)


async def fill(server: Server) -> None:
    """Submits until the queue is full."""

    async def go_on(line: Line) -> None:
        while (await line.ask("POST", "/v1/workflows/nothing", {})).status == 202:
            pass

    async with server.lines(LINES) as lines:
        await asyncio.gather(*(go_on(line) for line in lines))


async def read_times(server: Server, picture: Any) -> dict[str, Times]:
    """Returns how long reads take while a worker paints, by what is read: a hundred a second, from four connections."""
    async with server.lines(5) as (first, *lines):
        job = (await first.ask("POST", "/v1/jobs", picture)).json["href"]
        while not (await first.ask("GET", job)).json["progress"]:
            await asyncio.sleep(0.01)
        paths = {"a job": job, "50 jobs": "/v1/jobs?limit=50", "node types": "/v1/nodes"}
        times: dict[str, list[float]] = {name: [] for name in paths}
        todo = iter([name for _ in range(200) for name in paths])

        async def go_on(line: Line) -> None:
            for name in todo:
                times[name].append(await timed(partial(line.ask, "GET", paths[name]), 200))
                await asyncio.sleep(0.04)

        await asyncio.gather(*(go_on(line) for line in lines))
        if (await first.ask("GET", job)).json["ended"]:
            raise RuntimeError("the picture was done before the reads were")
        await first.ask("DELETE", job)
        while not (await first.ask("GET", job)).json["ended"]:
            await asyncio.sleep(0.05)
        return {name: Times(several) for name, several in times.items()}


async def measure(folder: Path, repeat: int, row: Callable[[str, str, str], None]) -> None:
    """Measures everything; tells each figure to `row`."""
    row("processes that want a core: 1 minute before", f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} cores", "-")
    row("fsync of 4 KiB, before: p50, p99", str(fsyncs(folder)), "-")
    taking, warm = await start_times(folder, repeat)
    row("from the command to taking submits", f"{taking:.2f} s", "1 s")
    row("from the command to a warm worker", f"{warm:.2f} s", "-")
    with tempfile.TemporaryDirectory(dir=folder) as place, serving(Path(place)) as server:
        async with server.lines(1) as (line,):
            await timed(lambda: line.ask("PUT", "/v1/workflows/nothing", NOTHING), 201)
            await timed(lambda: line.ask("PUT", "/v1/workflows/txt2img", TXT2IMG), 200, 201)
            await server.wait_ready()
            ends = [await timed(lambda: line.ask("POST", "/v1/workflows/nothing?wait=30", {}), 200) for _ in range(300)]
            row("graph of one cached node, submit to end: p50, p99", str(Times(ends[100:])), "10 ms, -")
            reads = await read_times(server, {"document": TXT2IMG, "params": {"steps": 1000}})
            for name, times in reads.items():
                row(f"GET {name} while a picture is made: p50, p99", str(times), "-, 20 ms")
            await timed(lambda: line.ask("POST", "/v1/queue/pause"), 200)
        bodies = {"a document": ("/v1/jobs", {"document": TXT2IMG}), "a stored workflow": ("/v1/workflows/txt2img", {})}
        for name, (path, body) in bodies.items():
            await submits(server, path, body, 50)
            row(f"durable submit of {name}: p50, p99", str(await submits(server, path, body, 500)), "3 ms, 10 ms")
        for name, (path, body) in bodies.items():
            rate, times = await submits_a_second(server, path, body, 3.0)
            row(f"submits of {name}, {LINES} connections", f"{rate:.0f} / s ({times})", "500 / s")
        await fill(server)
        async with server.lines(1) as (line,):
            refused = [await timed(lambda: line.ask("POST", "/v1/workflows/txt2img", {}), 429) for _ in range(200)]
        row("refusal by a full queue: p50, p99", str(Times(refused)), "-, 10 ms")
    row("fsync of 4 KiB, after: p50, p99", str(fsyncs(folder)), "-")


def main() -> None:
    """Measures everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the data folder is made (the folder for temporary files)")
    parser.add_argument("--repeat", type=int, default=5, help="how often a server is started")
    options = parser.parse_args()
    table = Table("figure", "measured", "to reach", box=None)
    folder = options.folder or Path(tempfile.gettempdir())
    asyncio.run(measure(folder, options.repeat, table.add_row))
    Console().print(table)


if __name__ == "__main__":
    main()
