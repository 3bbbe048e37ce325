"""`latentgraph serve` and `latentgraph token`: what is refused, and a server as a process of its own."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from latentgraph.cli.main import app
from latentgraph.cli.serving import ServeOptions

OPTIONS = ServeOptions(
    host="127.0.0.1",
    port=0,
    data=Path("data"),
    devices=("cpu",),
    models=Path("models"),
    precision="auto",
    cache_dir=Path("cache"),
    hosts=frozenset(),
    webhook_networks=(),
)


def serve(*arguments: str) -> tuple[int, str]:
    """Returns the exit code of a server that must not start, and what it said."""
    shown = CliRunner().invoke(app, ["serve", "--port", "0", *arguments])
    return shown.exit_code, shown.output


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url

    def get(self, path: str, token: str | None = None) -> tuple[int, Any]:
        """Returns the status of an answer, and its JSON."""
        return self._ask(path, None, {"Authorization": f"Bearer {token}"} if token else {})

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Returns the status of the answer to a JSON body, and its JSON."""
        return self._ask(path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _ask(self, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, body, headers), timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "latentgraph.cli", "serve", "--port", "0", "--device", "cpu"]
    command += ["--data", str(tmp_path / "data"), "--models", str(tmp_path / "m"), "--cache-dir", str(tmp_path / "c")]
    log = (tmp_path / "log").open("w")
    with log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            assert process.stdout is not None
            said = re.fullmatch(r"latentgraph serves (http://127\.0\.0\.1:\d+)\n", process.stdout.readline())
            assert said is not None
            yield Server(process, said[1])
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("host", "hosts", "exposed"),
    [
        ("127.0.0.1", (), False),
        ("127.8.9.1", (), False),
        ("::1", (), False),
        ("localhost", (), False),
        ("127.0.0.1", ("studio.example",), True),
        ("0.0.0.0", (), True),
        ("::", (), True),
        ("192.0.2.7", (), True),
        ("studio.example", (), True),
    ],
)
def test_others_reach_a_server_by_its_address_or_by_a_name(host: str, hosts: tuple[str, ...], exposed: bool) -> None:
    assert replace(OPTIONS, host=host, hosts=frozenset(hosts)).exposed is exposed


def test_pages_of_elsewhere_may_use_a_server_that_names_them_and_needs_tokens() -> None:
    settings = replace(OPTIONS, origins=frozenset({"https://app.example"})).settings
    assert (settings.origins, settings.open_on_loopback) == (frozenset({"https://app.example"}), False)
    assert (OPTIONS.settings.origins, OPTIONS.settings.open_on_loopback) == (frozenset(), True)


@pytest.mark.parametrize(
    "options", [("--host", "0.0.0.0"), ("--name", "studio.example"), ("--origin", "https://app.example")]
)
def test_without_a_token_no_server_is_opened_to_others(options: tuple[str, str], tmp_path: Path) -> None:
    code, said = serve(*options, "--data", str(tmp_path))
    assert code == 2
    assert options[1] in said
    assert f"latentgraph token create --scope submit --data {tmp_path}" in said.replace("\n", " ")


def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, said = serve("--port", port, "--data", str(tmp_path))
    assert code == 2
    assert f"127.0.0.1, port {port}, can't be listened on" in said


def test_a_server_answers_without_torch_refuses_a_second_one_and_ends_when_told(server: Server, tmp_path: Path) -> None:
    assert server.get("/healthz")[0] == 200
    early = server.post(
        "/v1/explain", {"document": {"latentgraph": 1, "nodes": {"e": {"type": "EmptyLatent"}}, "outputs": {"e": "$e"}}}
    )
    assert (early[0], early[1]["code"]) == (503, "no-worker")
    assert "KSampler" in {node["type"] for node in server.get("/v1/nodes?limit=1000")[1]["items"]}
    assert {"name": "emoji", "kind": "checkpoint", "family": "sd1", "problem": None} in server.get("/v1/models")[1][
        "items"
    ]
    maps = Path(f"/proc/{server.process.pid}/maps")
    assert not maps.exists() or "libtorch" not in maps.read_text()

    code, said = serve("--data", str(tmp_path / "data"))
    assert (code, str(server.process.pid) in said) == (2, True)

    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=120) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {(line["logger"], line["message"]) for line in lines} >= {
        ("latentgraph.server.requests", "GET /healthz 200"),
        ("latentgraph.server.requests", "POST /v1/explain 503"),
    }


def test_a_token_made_beside_a_running_server_is_needed_from_then_on(server: Server, tmp_path: Path) -> None:
    assert server.get("/v1/jobs")[0] == 200
    data = ("--data", str(tmp_path / "data"))
    create = ["token", "create", "--scope", "read", "--name", "me", "--max-upload-megabytes", "1", *data]
    token = CliRunner().invoke(app, create).output.strip()
    assert token.startswith("lg_")
    assert (server.get("/v1/jobs")[0], server.get("/v1/jobs", token)[0]) == (401, 200)

    (row,) = json.loads(CliRunner().invoke(app, ["token", "list", "--json", *data]).output)
    assert (row["name"], row["scopes"], row["revoked"]) == ("me", ["read"], False)
    assert CliRunner().invoke(app, ["token", "revoke", row["id"], *data]).exit_code == 0
    assert server.get("/v1/jobs", token)[0] == 401
    unknown = CliRunner().invoke(app, ["token", "revoke", "t0", *data])
    assert (unknown.exit_code, "there is no token 't0'" in unknown.output) == (2, True)
    assert (tmp_path / "data").stat().st_mode & 0o77 == 0
