"""Files on the disk: opened name by name, kept whole or not at all, and refused in words when the disk is at its end."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from latentgraph.server.api.settings import Settings
from latentgraph.server.errors import DamagedFile, StorageFull, UnknownFile
from latentgraph.server.files.uploads import FileStore, open_inside, upload_path

from .web_fakes import png


async def chunks(data: bytes, size: int = 7) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "files", Settings())


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_what_comes_in_pieces_is_kept_whole(store: FileStore) -> None:
    received = await store.receive(chunks(png(9, 9)))
    assert (received.size, received.id) == (len(png(9, 9)), f"sha256:{received.sha256}")
    with await store.open(received.sha256) as file:
        assert file.read() == png(9, 9)
    assert files_in(store.folder) == [upload_path(store.folder, received.sha256)]
    assert await store.receive(chunks(png(9, 9))) == received
    await store.remove(received.sha256)
    await store.remove(received.sha256)
    assert not await store.has(received.sha256)


async def test_what_breaks_off_leaves_nothing(store: FileStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield png()
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.receive(broken())
    with pytest.raises(DamagedFile):
        await store.receive(chunks(png()[:30]), strip=True)
    assert files_in(store.folder) == []


@pytest.mark.parametrize("function", ["fsync", "rename", "write", "mkdir"])
async def test_a_disk_at_its_end_is_a_refusal_and_leaves_nothing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if function == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif function == "rename":
        monkeypatch.setattr(Path, "replace", full)
    elif function == "write":
        monkeypatch.setattr("latentgraph.server.files.uploads.secrets.token_hex", lambda size: "x/y")
    else:
        monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(StorageFull, match="try again later"):
        await store.receive(chunks(png()))
    assert files_in(store.folder) == []


def test_a_file_is_opened_by_names_that_are_names(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"x")
    with open_inside(tmp_path, ("a", "b", "c")) as file:
        assert file.read() == b"x"
    wrong: list[tuple[str, ...]] = [
        (), ("a",), ("a", "b"), ("a", "..", "a", "b", "c"), ("a/b/c",), ("", "a"), (".", "a"), ("a", "b\0"), ("none",),
        ("x" * 300,),
    ]  # fmt: skip
    for names in wrong:
        with pytest.raises(UnknownFile):
            open_inside(tmp_path, names)


def test_no_link_on_the_way_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "real" / "file").write_bytes(b"x")
    (root / "folder").symlink_to("real")
    (root / "real" / "link").symlink_to("file")
    os.mkfifo(root / "pipe")
    for names in (("folder", "file"), ("real", "link"), ("pipe",)):
        with pytest.raises(UnknownFile):
            open_inside(root, names)


def test_opening_leaks_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    before = len(list(Path("/dev/fd").iterdir()))
    for names in (("a", "none"), ("a",), ("none", "x")):
        with pytest.raises(UnknownFile):
            open_inside(tmp_path, names)
    assert len(list(Path("/dev/fd").iterdir())) == before
