"""The grammar of values that begin with or contain a dollar sign. Knows no graph.

`$node.port` and `$node` are links, `$params.name` is a parameter, `${params.name}` inside a longer text is replaced by the
parameter, and `$$` is a literal dollar. Everything else is itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
"""What a node, port, parameter or output may be called."""

PARAMS = "params"
"""The name that no node may have, because `$params.x` speaks of parameters."""

_LINK = re.compile(r"\$([A-Za-z_][A-Za-z0-9_-]*)(?:\.([A-Za-z_][A-Za-z0-9_-]*))?\Z")
_PIECE = re.compile(r"\$\$|\$\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A link as written: `$node` (port is None) or `$node.port`."""

    node: str
    port: str | None = None

    def __str__(self) -> str:
        return f"${self.node}.{self.port}" if self.port else f"${self.node}"


@dataclass(frozen=True, slots=True)
class ParamReference:
    """`$params.name`: the parameter's value, whatever its type."""

    name: str


@dataclass(frozen=True, slots=True)
class Template:
    """A text with `${params.name}` in it: literal pieces and parameter names in turn, beginning with a piece."""

    pieces: tuple[str, ...]
    names: tuple[str, ...]


class BadReference(ValueError):
    """A value begins with a dollar but is no link."""


def parse_value(text: str) -> str | Reference | ParamReference | Template:
    """Returns what a text of a document stands for. Raises BadReference, whose message says what is wrong."""
    if "$" not in text:
        return text
    if text[0] == "$" and text[1:2] not in ("$", "{"):
        match = _LINK.match(text)
        if match is None:
            raise BadReference(
                f"{text!r} begins with a dollar but is no link ($node, $node.port or $params.name); "
                "write $$ for a literal dollar"
            )
        node, port = match[1], match[2]
        if node != PARAMS:
            return Reference(node, port)
        if port is None:
            raise BadReference("'$params' names no parameter; write $params.name")
        return ParamReference(port)
    return _template(text)


def _template(text: str) -> str | Template:
    pieces: list[str] = [""]
    params: list[str] = []
    at = 0
    for match in _PIECE.finditer(text):
        pieces[-1] += text[at : match.start()]
        at = match.end()
        if match[1] is None:
            pieces[-1] += "$"
            continue
        owner, _, name = match[1].strip().partition(".")
        if owner != PARAMS or not NAME.match(name):
            raise BadReference(
                f"{match[0]!r} inside a text is no parameter; only ${{params.name}} can stand there, "
                "and a link to a node stands alone, as $node.port"
            )
        params.append(name)
        pieces.append("")
    pieces[-1] += text[at:]
    return Template(tuple(pieces), tuple(params)) if params else pieces[0]
