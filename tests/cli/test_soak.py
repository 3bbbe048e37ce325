"""Many small jobs through a real server and its worker: neither grows.

LATENTGRAPH_SOAK=10000 pytest tests/cli/test_soak.py makes the run; it takes some minutes, and is left out otherwise. One job in
ten saves a picture, the others come from the cache; the server's streams, long polls and lists are asked now and then.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

JOBS = int(os.environ.get("LATENTGRAPH_SOAK", "0"))
WARM_UP = 2_000
MIB = 1 << 20

SMALL: dict[str, Any] = {
    "latentgraph": 1,
    "params": {"width": 64},
    "nodes": {"empty": {"type": "EmptyLatent", "width": "$params.width"}},
    "outputs": {"latent": "$empty"},
}
PICTURE: dict[str, Any] = {
    "latentgraph": 1,
    "params": {"value": 0.5},
    "nodes": {"mask": {"type": "SolidMask", "value": "$params.value", "width": 16, "height": 16}},
    "outputs": {"mask": "$mask"},
}


class Soaked:
    """A running server, asked through one connection."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.pid = process.pid
        self._connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=600)

    def ask(self, method: str, path: str, tree: Any = None) -> Any:
        """Returns what an answer holds as JSON, or its text."""
        body = None if tree is None else json.dumps(tree)
        self._connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status < 300, text
        return json.loads(text) if answer.headers.get_content_type() == "application/json" else text

    def close(self) -> None:
        self._connection.close()

    def run(self, first: int, count: int) -> None:
        """Has jobs run; each has ended when the next but fifty is sent."""
        hrefs: list[str] = []
        for number in range(first, first + count):
            picture = number % 10 == 0
            params = {"value": number % 7 / 7} if picture else {"width": 64 + 8 * (number % 5)}
            body = {"document": PICTURE if picture else SMALL, "params": params}
            hrefs.append(self.ask("POST", "/v1/jobs", body)["href"])
            if len(hrefs) > 50:
                self._end(hrefs.pop(0), number)
        for href in hrefs:
            self._end(href, first)

    def _end(self, href: str, number: int) -> None:
        job = self.ask("GET", f"{href}?wait=60")
        assert job["state"] == "succeeded", job
        if number % 20 == 0:
            assert b"event: finished" in self.ask("GET", f"{href}/events")
            self.ask("GET", "/v1/jobs?limit=20")
            self.ask("GET", "/metrics")

    def memory(self) -> tuple[int, int]:
        """Returns the bytes that the server and its worker have in use."""
        (worker,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text("ascii").split()
        return _rss(self.pid), _rss(int(worker))


@pytest.mark.skipif(not JOBS, reason="set LATENTGRAPH_SOAK to the number of jobs")
def test_neither_the_server_nor_its_worker_grows_over_many_jobs(tmp_path: Path) -> None:
    with soaked(tmp_path) as server:
        server.run(0, WARM_UP)
        before, seen = server.memory(), [server.memory()]
        for first in range(WARM_UP, WARM_UP + JOBS, 1_000):
            server.run(first, min(1_000, WARM_UP + JOBS - first))
            seen.append(server.memory())
        told = ["server, worker in MiB:", *(f"{one / MIB:.1f}, {other / MIB:.1f}" for one, other in seen)]
        sys.stderr.write("\n".join(told) + "\n")
        after = server.memory()
        assert after[0] - before[0] < 20 * MIB, told
        assert after[1] - before[1] < 50 * MIB, told


@contextlib.contextmanager
def soaked(folder: Path) -> Iterator[Soaked]:
    command = [sys.executable, "-m", "latentgraph.cli", "serve", "--port", "0", "--device", "cpu"]
    command += ["--data", str(folder / "data"), "--models", str(folder / "m"), "--cache-dir", str(folder / "c")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            with contextlib.closing(Soaked(process, process.stdout.readline().split()[-1])) as server:
                yield server
        finally:
            process.kill()


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
