"""Sweeping: the bytes of uploads go when the last note of them does, and those that have none go when a server starts."""

from __future__ import annotations

from ..jobs.uploads import UploadPolicy, Uploads
from .uploads import FileStore


async def sweep_uploads(uploads: Uploads, files: FileStore, policy: UploadPolicy) -> int:
    """Removes the uploads that nothing needs and the policy does not keep; returns how many notes of them went."""
    removed = 0
    while True:
        async with files.changing:
            notes, gone = await uploads.remove_unused(policy)
            for sha256 in gone:
                await files.remove(sha256)
        if not notes:
            return removed
        removed += notes


async def remove_strays(uploads: Uploads, files: FileStore) -> None:
    """Removes what uploads have left that broke off, or lost their note in a crash. To be called before the first one."""
    await files.clean(await uploads.digests())
