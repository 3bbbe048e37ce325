"""Uploads into the store: bytes first, then the note of who has them, so that a crash between the two loses nothing noted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from ..errors import StorageFull
from ..files.uploads import Received
from ..jobs.uploads import StoredUpload
from ..tokens import Caller
from .parts import Parts


async def take_upload(
    parts: Parts, caller: Caller, chunks: AsyncIterator[bytes], *, strip: bool
) -> tuple[Received, StoredUpload]:
    """Returns what was sent, kept as the caller's. Raises QuotaExceeded, and what FileStore.receive raises."""
    received = await parts.files.receive(chunks, strip=strip)
    limit = parts.settings.owner_upload_bytes if caller.max_upload_bytes is None else caller.max_upload_bytes
    async with parts.files.changing:
        try:
            stored = await parts.store.uploads.put(
                caller.owner, received.sha256, received.size, received.content.type, max_bytes=limit
            )
        except BaseException:
            if await parts.store.uploads.get(None, received.sha256) is None:
                await parts.files.remove(received.sha256)
            raise
        if not await parts.files.has(received.sha256):  # another owner removed it just before
            await parts.store.uploads.remove(caller.owner, received.sha256)
            raise StorageFull("the file was removed while it came; send it again")
    return received, stored


async def forget_upload(parts: Parts, caller: Caller, sha256: str) -> None:
    """Removes a file of the caller's; its bytes go once nobody has it."""
    async with parts.files.changing:
        if await parts.store.uploads.remove(caller.owner, sha256):
            await parts.files.remove(sha256)


async def owned_of(parts: Parts, owner: str | None, digests: Iterable[str]) -> frozenset[str]:
    """Returns those of some digests that an owner has sent, or anybody if it is None."""
    return frozenset([digest for digest in digests if await parts.store.uploads.get(owner, digest) is not None])
