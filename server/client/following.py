"""Following: the events of a job as one stream, however many connections it takes. Each comes once, in order, without gaps.

A server numbers the events of a job from 1 without gaps, and goes on from the number that it is told. Whatever breaks off or
seems to be missing is asked for again; what is told again is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from pydantic import ValidationError

from ..api.job_views import EventView, PreviewView
from .errors import NotUnderstood, Unreachable
from .eventstream import StreamReader, StreamTooLarge, Told
from .transport import Answer, Fleeting, Transport, Tries

LAST = "finished"
"""The kind of the last event of every job."""

_STREAM = "text/event-stream"


def follow(transport: Transport, id: str, after: int, *, previews: bool) -> Iterator[EventView | PreviewView]:
    """Yields what happens to a job from event `after` on, to its end. Raises ClientError."""
    last, tries = after, Tries(transport)
    path, query = f"/v1/jobs/{quote(id, safe='')}/events", {"previews": "true"} if previews else None
    while True:
        reader = StreamReader()
        headers = {"Last-Event-ID": str(last), "Accept": _STREAM}
        try:
            with transport.opened("GET", path, query=query, headers=headers) as answer:
                if answer.status == 204:
                    return  # the job has ended, and there is no event after that number
                for told in _told(transport.url, answer, reader):
                    event = _event(transport.url, told, last)
                    tries.went_well()
                    if event is None:
                        continue
                    if isinstance(event, EventView):
                        last = event.number
                    yield event
                    tries.went_well()  # whoever reads may have taken long
                    if event.kind == LAST:
                        return
        except Fleeting as failure:
            tries.again(failure, at_least=reader.retry_seconds)


def _told(url: str, answer: Answer, reader: StreamReader) -> Iterator[Told]:
    """Yields what comes over a connection. Raises Fleeting when it ends."""
    while piece := answer.read_some():
        if answer.media_type != _STREAM:
            raise NotUnderstood(url, f"{answer.media_type or 'no type'} in place of events")
        try:
            yield from reader.feed(piece)
        except StreamTooLarge as error:
            raise NotUnderstood(url, str(error)) from error
    raise Fleeting(Unreachable(url, "its stream of events ends before the job does"))


def _event(url: str, told: Told, last: int) -> EventView | PreviewView | None:
    """Returns an event that is new, None for what is none. Raises Fleeting if one before it is missing."""
    if not told.kind:
        return None
    try:
        if told.kind == "preview":
            return PreviewView.model_validate_json(told.data)
        event = EventView.model_validate_json(told.data)
    except ValidationError as error:
        raise NotUnderstood(url, "an event that can't be read") from error
    if event.number > last + 1:
        raise Fleeting(NotUnderstood(url, f"event {event.number} after event {last}"))
    return event if event.number > last else None
