"""Files: uploads kept by content, and the names that a document may use for files, which never lead out of their folders.

An upload's name is the digest of its bytes, so it can't be guessed, replaced or aimed. Everything is opened without following
a link out, whatever a name says. Who owns an upload is the store's to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..api.settings import Settings
from ..durable import sync_folder
from ..errors import ContentRefused, FileTooLarge, StorageFull, UnknownFile
from .content import RASTER, Content, read_content
from .stripping import without_metadata

PREFIX = "sha256:"
"""What a content id begins with; 64 hexadecimal digits follow."""

CONTENT_ID = re.compile(r"sha256:([0-9a-f]{64})")

_CHUNK = 1 << 18
_DRAFTS = "incoming"


@dataclass(frozen=True, slots=True)
class Received:
    """An upload that lies in its place: the digest of its bytes, how many there are, and what they are."""

    sha256: str
    size: int
    content: Content

    @property
    def id(self) -> str:
        """The content id that documents name it by."""
        return PREFIX + self.sha256


def digest_of(content_id: str) -> str | None:
    """Returns the digest in a content id, or None for what is none."""
    match = CONTENT_ID.fullmatch(content_id)
    return match[1] if match else None


def upload_path(folder: Path, sha256: str) -> Path:
    """Returns where the upload with a digest lies below the folder of uploads."""
    return folder / sha256[:2] / sha256


class FileStore:
    """The uploads of one data folder, by content."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self._settings = folder, settings
        self.changing = asyncio.Lock()  # held while a file and the store's note of it change together

    async def clean(self, known: Collection[str]) -> None:
        """Throws away drafts, and files whose digests nobody knows. To be called before the first upload."""
        await asyncio.to_thread(self._clean, known)

    async def receive(self, chunks: AsyncIterator[bytes], *, strip: bool = False) -> Received:
        """Keeps what comes and returns it; `strip` drops EXIF and the like.

        Raises ContentRefused for what is no picture of a type that is taken, DamagedFile, FileTooLarge, StorageFull.
        """
        draft = await asyncio.to_thread(self._begin)
        try:
            size, waiting = 0, bytearray()
            async for chunk in chunks:
                size += len(chunk)
                if size > self._settings.upload_bytes:
                    raise FileTooLarge("upload", f"a file may have {self._settings.upload_bytes:,} bytes at most")
                waiting += chunk
                if len(waiting) >= _CHUNK:
                    await asyncio.to_thread(_append, draft, bytes(waiting))
                    waiting.clear()
            return await asyncio.to_thread(self._finish, draft, bytes(waiting), strip)
        finally:
            await asyncio.to_thread(draft.unlink, True)

    async def open(self, sha256: str) -> BinaryIO:
        """Returns an upload, open for reading. Raises UnknownFile."""
        return await asyncio.to_thread(open_inside, self.folder, (sha256[:2], sha256))

    async def has(self, sha256: str) -> bool:
        """Returns whether the bytes of an upload are there."""
        return await asyncio.to_thread(upload_path(self.folder, sha256).is_file)

    async def remove(self, sha256: str) -> None:
        """Removes the bytes of an upload; it may be repeated."""
        await asyncio.to_thread(upload_path(self.folder, sha256).unlink, True)

    def _clean(self, known: Collection[str]) -> None:
        shutil.rmtree(self.folder / _DRAFTS, ignore_errors=True)
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            if path.name not in known:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _begin(self) -> Path:
        folder = self.folder / _DRAFTS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(folder).free < self._settings.free_disk_bytes:
                raise StorageFull("the disk of the server is nearly full; try again later")
            draft = folder / secrets.token_hex(16)
            draft.touch(0o600, exist_ok=False)
        except OSError as error:
            raise _full(error) from error
        return draft

    def _finish(self, draft: Path, rest: bytes, strip: bool) -> Received:
        """Checks a draft that is complete and moves it to its place, durably."""
        _append(draft, rest)
        with draft.open("rb") as file:
            content = read_content(file)
        self._check(content)
        try:
            if strip:
                draft.write_bytes(without_metadata(draft.read_bytes(), content.type))
            sha256, size = _digest(draft)
            place = upload_path(self.folder, sha256)
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                draft.replace(place)
                for folder in (place.parent, place.parent.parent):  # its name, and the folder's own
                    sync_folder(folder)
        except OSError as error:
            raise _full(error) from error
        return Received(sha256, size, content)

    def _check(self, content: Content) -> None:
        if content.type not in RASTER:
            taken = ", ".join(sorted(RASTER))
            raise ContentRefused(f"the file's bytes say {content.type}; expected one of {taken}")
        limit = self._settings.upload_pixels
        if content.pixels > limit:
            claimed = f"{content.width} x {content.height} pixels"
            raise FileTooLarge("pixels", f"the picture's header claims {claimed}; at most {limit:,} pixels are taken")


def open_inside(root: Path, names: Sequence[str]) -> BinaryIO:
    """Returns a regular file below a folder, open for reading; no name of the way is followed if it is a link.

    Raises UnknownFile for whatever is not there like that, `..` and names with slashes included.
    """
    if not names or any(name in ("", ".", "..") or "/" in name or "\0" in name for name in names):
        raise UnknownFile("there is no such file")
    at = -1
    try:
        at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for name in names[:-1]:
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        found = os.open(names[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    except (OSError, ValueError) as error:  # ValueError: a name that no file system takes
        raise UnknownFile("there is no such file") from error
    finally:
        if at >= 0:
            os.close(at)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise UnknownFile("there is no such file")
    return os.fdopen(found, "rb")


def _append(path: Path, data: bytes) -> None:
    try:
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        raise _full(error) from error


def _digest(path: Path) -> tuple[str, int]:
    """Returns the digest and the size of a file whose bytes are on the disk then."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        os.fsync(file.fileno())
        return digest.hexdigest(), file.tell()


def _full(error: OSError) -> StorageFull:
    return StorageFull(f"the file can't be kept ({error.strerror or 'the disk refuses it'}); try again later")
