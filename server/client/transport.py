"""Transport: requests to one server over HTTP, tried again where that can help, within bounds.

It knows no job. Whatever goes through it may be sent twice: reads, cancels, uploads by content, and submits, which carry an
idempotency key. Tried again are connections that break, 429, and the 502, 503 and 504 of a server that restarts; nothing else.
No redirection is followed and no proxy is asked, so a token goes to the server that was named and nowhere else.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from .errors import ClientError, NotUnderstood, Unreachable, refusal

AGAIN = frozenset((429, 502, 503, 504))
"""Statuses that are worth another try."""

_TOKEN = re.compile(r"[!-~]{1,500}")
_BROKE_OFF = "the connection broke off before the answer was complete"
_IDLE = 4  # connections that are kept for later


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client tries, in seconds.

    total: one request, all its tries together, or a stream that tells nothing new. first: the same, as long as no server has
    ever answered; it is most likely that none runs. connect, answer: how long one try waits for a connection, and for more to
    come; an answer that is asked for later gets that much more. pause, longest_pause: between tries, doubled each time; a
    server that names a time is asked then, or, if that is too late, not at all.
    """

    total: float = 120.0
    first: float = 3.0
    connect: float = 10.0
    answer: float = 60.0
    pause: float = 0.2
    longest_pause: float = 5.0


class Fleeting(Exception):
    """A try failed in a way that another may not. error: what is raised if there is none."""

    def __init__(self, error: ClientError, retry_after_seconds: float | None = None, *, at_once: bool = False) -> None:
        self.error, self.retry_after_seconds, self.at_once = error, retry_after_seconds, at_once
        super().__init__(str(error))


class Tries:
    """The tries of one request. Waits between them, and ends them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.went_well()

    def went_well(self) -> None:
        """Something came of it: from here on it is tried as long as from the beginning."""
        self._begun, self._waited, self._failures = self._transport.now(), 0.0, 0

    def again(self, failure: Fleeting, *, at_least: float = 0.0) -> None:
        """Waits until the next try. Raises what failed if there is no time for one."""
        if failure.at_once:
            return
        patience = self._transport.patience
        pause = min(patience.pause * 2.0 ** min(self._failures, 30), patience.longest_pause)
        pause = max(pause * random.uniform(0.5, 1.0), at_least, failure.retry_after_seconds or 0.0)
        spent = max(self._transport.now() - self._begun, self._waited)
        if spent + pause > (patience.total if self._transport.answered else patience.first):
            raise failure.error from failure.__cause__
        self._failures += 1
        self._waited += pause
        self._transport.sleep(pause)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class Answer:
    """An answer whose body is still to be read. What breaks off raises Fleeting."""

    def __init__(self, url: str, response: http.client.HTTPResponse) -> None:
        self._url, self._response = url, response
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.getheaders()}
        self.media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def read(self, size: int) -> bytes:
        """Returns `size` bytes, less at the end."""
        data = self._read(self._response.read, size)
        if len(data) < size and self._response.length:
            raise Fleeting(Unreachable(self._url, _BROKE_OFF))
        return data

    def read_some(self, size: int = 1 << 16) -> bytes:
        """Returns what has come, at least a byte; nothing at the end."""
        return self._read(self._response.read1, size)

    def _read(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            return read(size)
        except http.client.HTTPException as error:
            raise Fleeting(Unreachable(self._url, _BROKE_OFF)) from error
        except OSError as error:
            raise Fleeting(Unreachable(self._url, error)) from error


class Transport:
    """Requests to one server. Safe to use from several threads."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        patience: Patience = Patience(),
        *,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._at = _address(url)
        self.url = f"{self._at.scheme}://{self._at.netloc}{self._at.path}"
        self.patience, self.sleep, self.now = patience, sleep, now
        self.answered = False  # whether a server ever has
        self._headers = {"User-Agent": "latentgraph", "Accept": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {_checked_token(token)}"
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        """Closes the connections that are kept. It may be repeated."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        later_seconds: float = 0.0,
        largest: int = 64 << 20,
        also: frozenset[int] = frozenset(),
    ) -> Reply:
        """Returns the answer to a request. also: statuses besides those of 200 to 299 that are no failure.

        later_seconds: how much later the answer is asked for. Raises ClientError.
        """
        tries = Tries(self)
        while True:
            try:
                with self.opened(
                    method, path, query=query, headers=headers, body=body, later_seconds=later_seconds, also=also
                ) as answer:
                    data = answer.read(largest + 1)
                    if len(data) > largest:
                        raise NotUnderstood(self.url, f"an answer of more than {largest:,} bytes")
                    return Reply(answer.status, answer.headers, data)
            except Fleeting as failure:
                tries.again(failure)

    @contextlib.contextmanager
    def opened(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        later_seconds: float = 0.0,
        also: frozenset[int] = frozenset(),
    ) -> Iterator[Answer]:
        """Sends a request once and gives its answer while the body is read. Raises Fleeting, ClientError."""
        request = _Request(method, self._at.path + path, {**self._headers, **(headers or {})}, body)
        if query:
            request = replace(request, target=f"{request.target}?{urlencode(query, doseq=True, quote_via=quote)}")
        connection, kept = self._connection()
        with contextlib.ExitStack() as leaving:
            leaving.callback(connection.close)
            response = self._exchange(connection, kept, request, later_seconds)
            leaving.callback(response.close)
            if response.version >= 11 and response.length is None and not response.chunked:
                raise Fleeting(Unreachable(self.url, _BROKE_OFF))  # in its head, or there would be one of the two
            answer = Answer(self.url, response)
            self.answered = True
            if not (200 <= answer.status < 300 or answer.status in also):
                raise self._refused(answer)
            yield answer
            if response.isclosed() and not response.will_close:
                leaving.pop_all()
                self._keep(connection)

    def _exchange(
        self, connection: http.client.HTTPConnection, kept: bool, request: _Request, later_seconds: float
    ) -> http.client.HTTPResponse:
        """Sends a request and returns the head of its answer."""
        try:
            if not kept:
                connection.connect()
            connection.sock.settimeout(self.patience.answer + later_seconds)
            request.send(connection)
            return connection.getresponse()
        except http.client.RemoteDisconnected as error:
            raise Fleeting(Unreachable(self.url, _BROKE_OFF), at_once=kept) from error
        except http.client.HTTPException as error:  # another server, or one whose answer is cut in its first line
            raise Fleeting(NotUnderstood(self.url, f"an answer that is no HTTP ({type(error).__name__})")) from error
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(self.url, error) from error
        except OSError as error:
            raise Fleeting(Unreachable(self.url, error), at_once=kept) from error

    def _refused(self, answer: Answer) -> ClientError | Fleeting:
        after = _seconds(answer.headers.get("retry-after"))
        data = answer.read(4 << 20)
        error = refusal(self.url, answer.status, answer.media_type, data, retry_after_seconds=after)
        return Fleeting(error, after) if answer.status in AGAIN else error

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """Returns a connection, and whether it was used before; then the server may have closed it."""
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        host, port, timeout = self._at.hostname or "", self._at.port, self.patience.connect
        if self._at.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout), False
        return http.client.HTTPConnection(host, port, timeout=timeout), False

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < _IDLE:
                self._idle.append(connection)
                return
        connection.close()


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None

    def send(self, connection: http.client.HTTPConnection) -> None:
        """Sends it. A server that answers before it has all of it may have closed its end; its answer counts."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(self.method, self.target, self.body, self.headers)


def _address(url: str) -> SplitResult:
    """Returns the parts of a server's address. Raises ClientError for what is none."""
    try:
        at = urlsplit(url.strip())
        port = at.port
    except ValueError as error:
        raise ClientError(
            f"{url!r} is no address of a server: {error}; expected such as http://127.0.0.1:8188"
        ) from None
    if at.scheme not in ("http", "https") or not at.hostname or port == 0 or not url.isascii():
        raise ClientError(f"{url!r} is no address of a server; expected such as http://127.0.0.1:8188")
    if at.username is not None or at.query or at.fragment or re.search(r"[\x00-\x20\x7f]", url.strip()):
        raise ClientError(
            f"{at.hostname}: an address of a server holds no name, password, '?' or '#'; give a token instead"
        )
    return at._replace(path=at.path.rstrip("/"))


def _checked_token(token: str) -> str:
    token = token.strip()
    if not _TOKEN.fullmatch(token):
        raise ClientError("the token is empty or holds characters that no token has; expected lg_ and 43 more")
    return token


def _seconds(retry_after: str | None) -> float | None:
    """Returns what a Retry-After says, in seconds from now."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None
