"""DiskCache: results on disk, shared by processes, verified when they are read.

One safetensors file a result, named by its key. It is written beside its place and renamed, so a reader sees all of it or
none; its metadata holds a digest over everything else, so a file that was cut, flipped or written by something else is a
miss. Nothing is synced: what a power cut takes away is a miss, too. No lock is needed between processes, because a key always
stands for the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from .cache import Hit, Ports
from .values import Buffer, Packed, ValueCodec

_log = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
_DRAFT = ".tmp"
_STALE_SECONDS = 3600.0  # a draft this old belongs to a process that died
_METADATA = "latentgraph"


class DiskUse(NamedTuple):
    """What a cache folder holds."""

    entries: int
    bytes: int


class DiskCache:
    """Results below a folder, at most `cap_bytes` of them; the ones not used for longest go first."""

    name = "disk"

    def __init__(self, folder: Path, codec: ValueCodec, cap_bytes: int) -> None:
        self.folder = folder
        self.cap_bytes = cap_bytes
        self._codec = codec
        self._used: int | None = None  # bytes as of the last look, and what this process wrote since
        self._unseen = 0  # bytes that this process wrote since the last look; others may have written, too
        self._lock = Lock()

    def path(self, key: str) -> Path:
        """Returns where the result of a key is, or would be."""
        return self.folder / key[:2] / (key[2:] + _SUFFIX)

    def tier(self, key: str) -> str | None:
        """See Cache."""
        return self.name if os.path.exists(self.path(key)) else None  # noqa: PTH110 - pathlib's raises on a folder without rights

    def get(self, key: str) -> Hit | None:
        """See Cache. A damaged entry is removed, logged, and a miss."""
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("cache entry %s can't be read (%s); it is computed again", path, error)
            return None
        try:
            ports, seconds = _read_entry(data, key, self._codec)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the entry, it is a miss
            _log.warning("cache entry %s is damaged (%s); it is removed and computed again", path, error)
            _remove(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of last use, for pruning
        return Hit(ports, self.name, seconds)

    def put(self, key: str, ports: Ports, seconds: float) -> None:
        """See Cache. Values that can't be written down are left out; a full or read-only disk is a log line."""
        packed: dict[str, Packed] = {}
        for name, value in ports.items():
            one = self._codec.pack(value)
            if one is None:
                return
            packed[name] = one
        path = self.path(key)
        if self.tier(key) is not None:
            return
        data = _entry(key, packed, seconds)
        if len(data) > self.cap_bytes:
            return
        try:
            _write(path, data)
        except OSError as error:
            _log.warning("cache entry %s can't be written (%s); the run goes on without it", path, error)
            return
        self._count(len(data))

    def use(self) -> DiskUse:
        """Returns how many entries and bytes the folder holds."""
        sizes = [stat.st_size for _, stat in self._entries()]
        return DiskUse(len(sizes), sum(sizes))

    def prune(self, cap_bytes: int | None = None) -> DiskUse:
        """Removes the entries not used for longest until at most `cap_bytes` are left; returns what was removed."""
        cap = self.cap_bytes if cap_bytes is None else cap_bytes
        entries = sorted(self._entries(), key=lambda entry: entry[1].st_mtime_ns)
        used = sum(stat.st_size for _, stat in entries)
        removed = freed = 0
        for path, stat in entries:
            if used <= cap:
                break
            if _remove(path):
                used -= stat.st_size
                removed, freed = removed + 1, freed + stat.st_size
        with self._lock:
            self._used, self._unseen = used, 0
        self._remove_stale_drafts()
        return DiskUse(removed, freed)

    def clear(self) -> DiskUse:
        """Removes every entry; returns what was removed."""
        return self.prune(-1)

    def _count(self, nbytes: int) -> None:
        """Counts a written entry, looks at the folder now and then, and prunes to nine tenths when it is over the cap."""
        with self._lock:
            self._unseen += nbytes
            used = None if self._unseen > self.cap_bytes // 20 or self._used is None else self._used + nbytes
            self._used = used
        if used is None:
            used = self.use().bytes
            with self._lock:
                self._used, self._unseen = used, 0
        if used > self.cap_bytes:
            self.prune(self.cap_bytes * 9 // 10)

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob(f"??/*{_SUFFIX}"):
            with contextlib.suppress(OSError):  # another process removed it
                yield path, path.stat()

    def _remove_stale_drafts(self) -> None:
        before = time.time() - _STALE_SECONDS
        for draft in self.folder.glob(f"??/*{_DRAFT}"):
            with contextlib.suppress(OSError):
                if draft.stat().st_mtime < before:
                    draft.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    """Writes a file so that no reader ever sees a part of it. Raises OSError and leaves nothing behind."""
    draft = path.with_suffix(f".{secrets.token_hex(8)}{_DRAFT}")
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(path)
    except OSError:
        _remove(draft)
        raise


def _remove(path: Path) -> bool:
    """Returns whether a file is gone now; on a folder that may not be written it stays."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _entry(key: str, packed: Mapping[str, Packed], seconds: float) -> bytes:
    """Returns the bytes of one entry: a safetensors file whose metadata holds the data, the digest and the cost.

    The format is written here rather than by its library, whose serializer takes raw addresses and not bytes.
    """
    buffers = {f"{port}/{name}": buffer for port, one in packed.items() for name, buffer in one.buffers.items()}
    data = {port: one.data for port, one in packed.items()}
    text = json.dumps({"key": key, "seconds": seconds, "ports": data, "digest": _digest(key, data, seconds, buffers)})
    header: dict[str, Any] = {"__metadata__": {_METADATA: text}}
    at = 0
    for name, buffer in buffers.items():
        header[name] = {
            "dtype": buffer.dtype,
            "shape": tuple(buffer.shape),
            "data_offsets": (at, at + len(buffer.data)),
        }
        at += len(buffer.data)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)  # tensors begin at a multiple of 8, as the format wants
    return b"".join([struct.pack("<Q", len(head)), head, *(buffer.data for buffer in buffers.values())])


def _read_entry(data: bytes, key: str, codec: ValueCodec) -> tuple[Ports, float]:
    """Returns the values of an entry and the seconds that they took. Raises if anything is not as it was written."""
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    entry = json.loads(header.pop("__metadata__")[_METADATA])
    if entry["key"] != key:
        raise ValueError("it belongs to another key")
    body = memoryview(data)[8 + size :]
    if len(body) != max((tensor["data_offsets"][1] for tensor in header.values()), default=0):
        raise ValueError("it is not as long as it says")
    buffers = {
        name: Buffer(tensor["dtype"], tuple(tensor["shape"]), bytes(body[slice(*tensor["data_offsets"])]))
        for name, tensor in header.items()
    }
    seconds = float(entry["seconds"])
    if entry["digest"] != _digest(key, entry["ports"], seconds, buffers):
        raise ValueError("its digest does not fit")
    ports = {
        port: codec.unpack(
            Packed(one, {n.removeprefix(f"{port}/"): b for n, b in buffers.items() if n.startswith(f"{port}/")})
        )
        for port, one in entry["ports"].items()
    }
    return ports, seconds


def _digest(key: str, data: Mapping[str, Any], seconds: float, buffers: Mapping[str, Buffer]) -> str:
    digest = hashlib.sha256(json.dumps([key, data, seconds], sort_keys=True).encode())
    for name in sorted(buffers):
        buffer = buffers[name]
        digest.update(f"\0{name}\0{buffer.dtype}\0{tuple(buffer.shape)}\0".encode())
        digest.update(buffer.data)
    return digest.hexdigest()
