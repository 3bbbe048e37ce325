"""What a node is given when it runs: its literals, its files, and the values that its links bring."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from .cache import Ports
from .dag import Link, Links
from .errors import LatentGraphError
from .run import Task
from .values import ValueCodec

Inputs = Mapping[str, tuple[Ports, bool]]
"""By node id the values that a task reads, and whether they are its own, which nobody else reads."""


def input_values(task: Task, inputs: Inputs, codec: ValueCodec) -> dict[str, Any]:
    """Returns the value of each input. Raises LatentGraphError for a literal that came by a link and does not fit."""
    node = task.node
    values: dict[str, Any] = {
        name: deepcopy(literal) if isinstance(literal, list | dict) else literal
        for name, literal in node.literals.items()
    }
    values.update(node.files)
    for name, links in node.links.items():
        values[name] = _accepted(task, name, _linked(task, links, inputs, codec))
    return values


def wanted_links(task: Task, inputs: Inputs, codec: ValueCodec) -> tuple[Link, ...]:
    """Returns the links among a lazy node's maps that it wants."""
    node = task.node
    maps = {name: links for name, links in node.links.items() if isinstance(links, Mapping)}
    given = {name: _linked(task, links, inputs, codec) for name, links in node.links.items() if name not in maps}
    wanted = node.cls.wanted({**node.literals, **given, **maps})
    if wanted is None:
        wanted = maps
    return tuple(maps[name][entry] for name, entries in wanted.items() for entry in entries)


def _linked(task: Task, links: Links, inputs: Inputs, codec: ValueCodec) -> Any:
    """Returns what an input is linked to. A value that others read too is copied, so that nobody can change theirs."""

    def read(link: Link) -> Any:
        ports, own = inputs[link.node]
        return ports[link.port] if own else codec.copy(ports[link.port])

    if isinstance(links, Link):
        return read(links)
    if isinstance(links, Mapping):
        taken = links.values() if task.chosen is None else task.chosen
        return {name: read(link) if link in taken else None for name, link in links.items()}
    items: list[Any] = []
    for link in links:
        output = task.run.tasks[link.node].node.cls.spec.output(link.port)
        if output is not None and output.many:
            items.extend(read(link))
        else:
            items.append(read(link))
    return items


def _accepted(task: Task, name: str, value: Any) -> Any:
    """Returns a linked value as its input takes it; a literal that came by a link is checked now that it is known."""
    port = task.node.cls.spec.inputs[name]
    if not port.literal:
        return value
    value, code = port.accept(value)
    if code:
        raise LatentGraphError(f"input {name!r} was given {value!r} by its link; expected {port.expected}")
    return value
