"""Requests that are tried again where that helps, no longer than there is patience, and never where it does not."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from latentgraph.server.client.errors import (
    Busy,
    ClientError,
    Conflict,
    InvalidRequest,
    NotAllowed,
    NotThere,
    NotUnderstood,
    Refused,
    ServerFailed,
    Unreachable,
    WorkflowRefused,
)
from latentgraph.server.client.transport import Patience, Transport

from .live_fakes import free_port, scripted

OK = (200, {}, b'"ok"')


def problem(
    status: int, code: str = "a-code", headers: Mapping[str, str] | None = None, **more: object
) -> tuple[int, Mapping[str, str], bytes]:
    body = {"type": "urn:x", "title": "A title", "status": status, "detail": "A detail.", "code": code, **more}
    return status, {"Content-Type": "application/problem+json", **(headers or {})}, json.dumps(body).encode()


class Pauses(list[float]):
    """Sleeps that are noted and not slept."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


Make = Callable[..., Transport]


@pytest.fixture
def transport() -> Iterator[Make]:
    """Makes transports and closes them."""
    made: list[Transport] = []

    def make(url: str, pauses: Pauses | None = None, token: str | None = None, **patience: float) -> Transport:
        sleep = Pauses() if pauses is None else pauses
        made.append(Transport(url, token, Patience(**patience), sleep=sleep, now=lambda: 0.0))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_server_that_is_busy_or_restarts_is_asked_again(transport: Make, status: int) -> None:
    pauses = Pauses()
    with scripted(problem(status), (status, {}, b"<html>"), OK) as script:
        assert transport(script.url, pauses).call("GET", "/x").data == b'"ok"'
    assert len(script.requests) == 3
    assert 0.1 <= pauses[0] <= 0.2
    assert 0.2 <= pauses[1] <= 0.4


def test_a_server_that_says_when_is_asked_then(transport: Make) -> None:
    pauses = Pauses()
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)
    with scripted(
        problem(429, headers={"Retry-After": "7"}), problem(503, headers={"Retry-After": later}), OK
    ) as script:
        transport(script.url, pauses).call("POST", "/x", body=b"1")
    assert pauses[0] == 7.0
    assert 0.0 < pauses[1] <= 51.0
    assert [body for *_, body in script.requests] == [b"1", b"1", b"1"]


def test_a_server_that_wants_more_time_than_there_is_patience_is_not_asked_again(transport: Make) -> None:
    pauses = Pauses()
    with scripted(problem(429, "quota-exceeded", {"Retry-After": "3600"})) as script, pytest.raises(Busy) as caught:
        transport(script.url, pauses).call("GET", "/x")
    assert (caught.value.code, caught.value.retry_after_seconds, pauses) == ("quota-exceeded", 3600.0, [])


def test_patience_has_an_end(transport: Make) -> None:
    pauses = Pauses()
    with scripted(problem(503)) as script, pytest.raises(Busy, match=r"A title: A detail\."):
        transport(script.url, pauses, total=20.0, longest_pause=4.0).call("GET", "/x")
    assert 16.0 <= sum(pauses) <= 20.0
    assert max(pauses) <= 4.0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, NotAllowed),
        (403, NotAllowed),
        (404, NotThere),
        (409, Conflict),
        (413, InvalidRequest),
        (422, InvalidRequest),
        (500, ServerFailed),
    ],
)
def test_what_is_not_worth_another_try_gets_none(transport: Make, status: int, kind: type[Refused]) -> None:
    with scripted(problem(status)) as script, pytest.raises(kind, match=r"^A title: A detail\.$") as caught:
        transport(script.url).call("POST", "/x")
    assert (caught.value.status, caught.value.code, len(script.requests)) == (status, "a-code", 1)


def test_a_report_is_told_whole(transport: Make) -> None:
    findings = [
        {"code": "unknown-type", "severity": "error", "message": "no type.", "line": 3, "column": 5, "node": "a"},
        {"code": "odd", "severity": "warning", "message": "odd.", "near": "b", "file": 7, "line": "x", "input": None},
    ]
    refused = problem(422, "invalid-workflow", problems=[*findings, "none"])
    with scripted(refused) as script, pytest.raises(WorkflowRefused) as caught:
        transport(script.url).call("POST", "/x")
    assert [str(one) for one in caught.value.problems] == [
        "<document>:3:5: error: no type. [unknown-type]",
        "<document>: warning: odd. Did you mean 'b'? [odd]",
    ]


@pytest.mark.parametrize(
    "answer",
    [
        (418, {}, b"{}"),
        (404, {"Content-Type": "application/problem+json"}, b"[1]"),
        (404, {"Content-Type": "application/problem+json"}, b"no json"),
        (413, {"Content-Type": "text/html"}, b"<html>"),
    ],
)
def test_a_refusal_that_says_nothing_is_told_as_such(
    transport: Make, answer: tuple[int, Mapping[str, str], bytes]
) -> None:
    with scripted(answer) as script, pytest.raises(Refused, match=rf"answers {answer[0]} .*a proxy before the server"):
        transport(script.url).call("GET", "/x")


def test_a_redirection_is_not_followed_and_the_token_stays(transport: Make) -> None:
    with (
        scripted(OK) as other,
        scripted((307, {"Location": other.url}, b"")) as script,
        pytest.raises(NotUnderstood, match="redirection"),
    ):
        transport(script.url, token="lg_secret").call("GET", "/x")
    assert other.requests == []
    assert script.requests[0][2]["authorization"] == "Bearer lg_secret"


def test_what_is_no_http_is_told_as_such(transport: Make) -> None:
    class Greeting(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeting) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with pytest.raises(NotUnderstood, match="no HTTP"):
            transport(f"http://127.0.0.1:{server.server_address[1]}").call("GET", "/x")
        server.shutdown()
        thread.join()


def test_an_answer_that_has_no_end_is_not_read_to_it(transport: Make) -> None:
    with scripted((200, {}, b"x" * 2000)) as script, pytest.raises(NotUnderstood, match="more than 1,000 bytes"):
        transport(script.url).call("GET", "/x", largest=1000)


def test_an_answer_that_breaks_off_is_asked_for_again(transport: Make) -> None:
    with scripted((200, {"Content-Length": "9", "Connection": "close"}, b'"half'), OK) as script:
        assert transport(script.url).call("GET", "/x").data == b'"ok"'


def test_a_server_that_never_answered_is_given_up_soon_with_what_to_check(transport: Make) -> None:
    pauses = Pauses()
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable) as caught:
        transport(url, pauses).call("GET", "/x")
    assert str(caught.value) == (
        f"{url} can't be reached: nothing listens there; "
        "check that the server runs (`latentgraph serve`), and its address and port"
    )
    assert 0 < sum(pauses) <= 3.0


def test_a_server_that_has_answered_is_waited_for(transport: Make) -> None:
    pauses = Pauses()
    with scripted((200, {"Connection": "close"}, b"")) as script:
        sender = transport(script.url, pauses)
        sender.call("GET", "/x")
    with pytest.raises(Unreachable):
        sender.call("GET", "/x")
    assert 100.0 < sum(pauses) <= 120.0


def test_a_name_that_stands_for_nothing_is_told_as_such(transport: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(Unreachable, match=r"name can't be resolved.*check the address for typing errors"):
        transport("http://nowhere.invalid").call("GET", "/x")


def test_plain_http_where_tls_was_expected_is_told_as_such(transport: Make) -> None:
    with scripted(OK) as script, pytest.raises(Unreachable, match="begins with http:// or https://"):
        transport(script.url.replace("http:", "https:")).call("GET", "/x")


def test_a_connection_is_used_again_and_one_that_the_server_closed_is_no_failure(transport: Make) -> None:
    pauses = Pauses()
    with scripted(OK) as script:
        sender = transport(script.url, pauses)
        for _ in range(3):
            sender.call("GET", "/x")
        sender._idle[0].sock.shutdown(socket.SHUT_RDWR)
        sender.call("POST", "/x", body=b"1")
        sender.close()
        sender.call("GET", "/x")
        sender.close()
    assert (len(script.requests), pauses) == (5, [])


def test_a_server_below_a_path_is_asked_there(transport: Make) -> None:
    with scripted(OK) as script:
        transport(script.url + "/studio/").call("GET", "/v1/jobs", query={"state": ["a", "b c"], "limit": 3})
    assert script.requests[0][1] == "/studio/v1/jobs?state=a&state=b%20c&limit=3"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8188", "expected such as"),
        ("ftp://host", "expected such as"),
        ("http://", "expected such as"),
        ("http://host:0", "expected such as"),
        ("http://host:99999", "expected such as"),
        ("http://hö.example", "expected such as"),
        ("http://me:secret@host", "give a token instead"),
        ("http://host/?q=1", "give a token instead"),
        ("http://host/a b", "give a token instead"),
    ],
)
def test_an_address_that_is_none_is_refused_without_telling_a_password(url: str, words: str) -> None:
    with pytest.raises(ClientError, match=words) as caught:
        Transport(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "  ", "lg_a b", "lg_\r\nX-Forged: 1", "lg_ä"])
def test_a_token_that_is_none_is_refused_without_telling_it(token: str) -> None:
    with pytest.raises(ClientError, match="the token is empty or holds") as caught:
        Transport("http://host", token)
    assert "Forged" not in str(caught.value)
