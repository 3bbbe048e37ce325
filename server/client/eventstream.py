"""The event stream format as a client reads it: from pieces of bytes to events, whatever the pieces are.

What is not complete when a stream ends is no event. See "Server-sent events" in the HTML standard; lines end with LF or CRLF.
"""

from __future__ import annotations

from dataclasses import dataclass

LARGEST = 32 << 20
"""Bytes that one event may have."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event of a stream: its kind, and its data. A comment, by which a server shows that it lives, has no kind."""

    kind: str
    data: str = ""


class StreamTooLarge(ValueError):
    """An event has more bytes than any has."""


class StreamReader:
    """Makes events of pieces. retry_seconds: how long the server wants to be left alone before the next connection."""

    def __init__(self) -> None:
        self.retry_seconds = 0.0
        self._rest = bytearray()
        self._size = 0
        self._kind = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[Told]:
        """Returns the events that a piece completes. Raises StreamTooLarge."""
        *lines, rest = piece.split(b"\n")
        told: list[Told] = []
        for line in lines:
            self._take(line)
            text = self._rest.removesuffix(b"\r").decode("utf-8", "replace")
            self._rest.clear()
            if (event := self._line(text)) is not None:
                told.append(event)
        self._take(rest)
        return told

    def _take(self, part: bytes) -> None:
        self._rest += part
        self._size += len(part)
        if self._size > LARGEST:
            raise StreamTooLarge(f"an event of more than {LARGEST:,} bytes")

    def _line(self, line: str) -> Told | None:
        if not line:
            event = Told(self._kind or "message", "\n".join(self._data)) if self._data else None
            self._kind, self._data, self._size = "", [], 0
            return event
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            return Told("")
        if name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        elif name == "retry" and value.isascii() and value.isdecimal():
            self.retry_seconds = min(int(value[:9]) / 1000, 60.0)
        return None
