"""Route: what the app serves and what OpenAPI says of it, declared once beside the handler.

No handler is reached by a caller that lacks its scope. An app with a handler that was not declared does not start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_origin

from aiohttp import web
from pydantic import BaseModel, ValidationError

from ..tokens import Scope
from .problems import Refusal

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]
Need = Literal["explain", "models"]
"""A part of the app that may not have been given."""

M = TypeVar("M", bound=BaseModel)

JSON = "application/json"
YAML = "application/yaml"
MULTIPART = "multipart/form-data"
EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of a route: in words, and the model of its JSON or the media types of what is no JSON."""

    words: str
    model: type[BaseModel] | None = None
    types: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Body:
    """What a route takes: a model as JSON, and other forms with words on each."""

    model: type[BaseModel] | None = None
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """A method of a path.

    scope: what a caller must be allowed, None for anybody. problems: the codes of its own refusals. needs: the part without
    which it is not there.
    """

    method: str
    path: str
    handler: Handle
    tag: str
    scope: Scope | None
    answers: Mapping[int, Answer]
    query: type[BaseModel] | None = None
    body: Body | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    needs: Need | None = None

    @property
    def summary(self) -> str:
        """The first sentence of the handler's documentation."""
        return (self.handler.__doc__ or "").strip().partition("\n")[0]

    @property
    def name(self) -> str:
        """What programs call the operation."""
        return self.handler.__name__


def read_query(request: web.Request, model: type[M]) -> M:
    """Returns the query of a request. Raises Refusal for an unknown name, a wrong value, or one that is given twice."""
    many = {name for name, info in model.model_fields.items() if get_origin(info.annotation) is tuple}
    values: dict[str, object] = {}
    for name in request.query:
        given = request.query.getall(name)
        if len(given) > 1 and name not in many:
            raise Refusal("invalid-request", f"The query gives {name[:40]!r} {len(given)} times; give it once.")
        values[name] = given if name in many else given[0]
    return validated(model, values, "the query")


def validated(model: type[M], values: object, where: str) -> M:
    """Returns values as a model. Raises Refusal that names the first that is wrong, and how many more are."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        place = ".".join(str(part)[:40] for part in found[0]["loc"])
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        message = found[0]["msg"].removeprefix("Value error, ")
        words = f"In {where}{f', at {place!r}' if place else ''}: {message}{more}."
        raise Refusal("invalid-request", words) from None


def json_response(view: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Returns a view as an answer."""
    return web.Response(body=view.model_dump_json().encode(), status=status, content_type=JSON, headers=headers)
