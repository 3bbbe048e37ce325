"""The catalogue of node types: written once, when it is first asked for, since it never changes while a server runs."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from functools import cached_property

from latentgraph.graph import Registry

from .views import NodeTypesView, NodeTypeView


@dataclass(frozen=True)
class Catalogue:
    """The node types of a registry, as JSON."""

    registry: Registry

    @cached_property
    def _text(self) -> bytes:
        items = [NodeTypeView.of(cls.spec) for cls in self.registry.values()]
        return NodeTypesView(items=items).model_dump_json().encode()

    async def text(self) -> tuple[bytes, str]:
        """Returns all node types as JSON, and its ETag."""
        text = await asyncio.to_thread(lambda: self._text)
        return text, f'"{hashlib.sha256(text).hexdigest()}"'
