"""The catalogue of what a server has: its node types and its API, written once when they are first asked for, in a thread.

Neither changes while a server runs; the stored workflows do, and are added each time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from latentgraph.graph import Registry

from .catalogue_views import NodeTypesView, NodeTypeView
from .openapi import openapi_document, with_workflows
from .routing import Route
from .views import WorkflowView


@dataclass(frozen=True)
class Catalogue:
    """The node types of a registry, and the routes of an app, as JSON."""

    registry: Registry
    routes: Sequence[Route]

    async def write(self) -> None:
        """Writes what is not written yet, which takes some tenths of a second."""
        if "_nodes" not in self.__dict__ or "_api" not in self.__dict__:
            await asyncio.to_thread(lambda: (self._nodes, self._api))

    async def nodes(self) -> tuple[bytes, str]:
        """Returns all node types, and their ETag."""
        await self.write()
        return self._nodes

    async def api(self, workflows: Sequence[WorkflowView]) -> dict[str, Any]:
        """Returns the OpenAPI of the routes, with a path for each of some workflows."""
        await self.write()
        return with_workflows(self._api, workflows)

    @cached_property
    def _nodes(self) -> tuple[bytes, str]:
        items = [NodeTypeView.of(cls.spec) for cls in self.registry.values()]
        text = NodeTypesView(items=items).model_dump_json().encode()
        return text, f'"{hashlib.sha256(text).hexdigest()}"'

    @cached_property
    def _api(self) -> dict[str, Any]:
        return openapi_document(self.routes)
