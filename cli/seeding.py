"""Seeding: a new server begins with the workflows of the package stored, so that its page has something to show.

It happens once for a data folder: from then on they are the user's, to change, replace and remove, and none comes back. The
pictures that they begin with are stored as uploads, which anybody may use who may read the workflows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from latentgraph.graph import Registry
from latentgraph.server.client.attachments import read_document, read_picture
from latentgraph.server.client.packing import FileKinds, pack
from latentgraph.server.files.resolving import content_digests
from latentgraph.server.files.uploads import FileStore
from latentgraph.server.jobs.records import Seed
from latentgraph.server.jobs.store import JobStore

from .folders import bundled_workflows

_YAML = "application/yaml"


async def seed(store: JobStore, uploads: FileStore, registry: Registry) -> Sequence[str]:
    """Stores the workflows of the package unless that was done before; returns the names of those that are new.

    Raises ServerError if they can't be written; then the next start tries again.
    """
    if await store.workflows.are_seeded():
        return []
    seeds, pictures = await asyncio.to_thread(_read, registry)
    for data in pictures.values():
        received = await uploads.receive(_whole(data))
        await store.uploads.put("", received.sha256, received.size, received.content.type)
    return await store.workflows.seed(seeds)


def _read(registry: Registry) -> tuple[list[Seed], Mapping[str, bytes]]:
    """Returns the workflows of the package, each with all that it needs, and the pictures that they name, by content id."""
    pictures: dict[str, bytes] = {}

    def keep(picture: Path) -> str:
        data, id = read_picture(picture)
        pictures[id] = data
        return id

    def kinds() -> FileKinds:
        return {
            name: {port.name: port.file.kind if port.file else None for port in cls.spec.inputs.values()}
            for name, cls in registry.items()
        }

    seeds: list[Seed] = []
    for name, path in bundled_workflows().items():
        body = pack(read_document(path), kinds, keep, with_defaults=True).body
        if not isinstance(body, str):
            raise TypeError(f"{path} can't be stored as the text that it is")
        seeds.append(Seed(name, body, _YAML, content_digests(body)))
    return seeds, pictures


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data
