"""Fingerprints: of what, and when one that is remembered may be believed."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from latentgraph.graph import FileNotUsable, Fingerprints

CHUNK = 1 << 20


def test_a_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"x")
    two.write_bytes(b"x")
    prints = Fingerprints()
    assert prints.of(one) == prints.of(two)
    two.write_bytes(b"y")
    assert prints.of(one) != prints.of(two)


def test_a_file_that_was_just_written_is_read_again_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writes within a tick of the file system's clock leave the same size and times, which is simulated here."""
    monkeypatch.setattr("latentgraph.graph.fingerprints._stamp", lambda stat: "the same")
    path = tmp_path / "f"
    prints = Fingerprints()
    seen = set()
    for content in (b"a", b"b", b"c"):
        path.write_bytes(content)
        seen.add(prints.of(path))
    assert len(seen) == 3


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the clock run ahead, so that every file was left alone for long; its time of change can't be set."""
    import time

    now = time.time_ns
    monkeypatch.setattr("latentgraph.graph.fingerprints.time.time_ns", lambda: now() + 10**13)


@pytest.mark.usefixtures("settled")
def test_a_settled_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    prints = Fingerprints()
    first = prints.look(path)
    monkeypatch.setattr(Path, "open", lambda *args, **options: pytest.fail("it was read again"))
    assert prints.look(path) == first


@pytest.mark.usefixtures("settled")
def test_large_files_are_remembered_across_processes_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, notes = tmp_path / "f", tmp_path / "notes"
    path.write_bytes(b"x" * CHUNK)
    first = Fingerprints(notes).of(path)
    with monkeypatch.context() as patched:
        opened = Path.open
        patched.setattr(
            Path, "open", lambda self, *a, **o: pytest.fail("read again") if self == path else opened(self, *a, **o)
        )
        assert Fingerprints(notes).of(path) == first
    path.write_bytes(b"y" * CHUNK)
    assert Fingerprints(notes).of(path) != first


@pytest.mark.parametrize("note", ["", "[]", "[1, 2]", "3", "{}", '["a"]', "[null, null]"])
@pytest.mark.usefixtures("settled")
def test_a_broken_note_is_no_note(tmp_path: Path, note: str) -> None:
    path, notes = tmp_path / "f", tmp_path / "notes"
    path.write_bytes(b"x" * CHUNK)
    first = Fingerprints(notes).of(path)
    (entry,) = notes.iterdir()
    assert isinstance(json.loads(entry.read_text()), list)
    entry.write_text(note)
    assert Fingerprints(notes).of(path) == first


@pytest.mark.usefixtures("settled")
def test_notes_that_can_not_be_kept_cost_nothing_but_time(tmp_path: Path) -> None:
    path, blocked = tmp_path / "f", tmp_path / "blocked"
    path.write_bytes(b"x" * CHUNK)
    blocked.write_text("no folder")
    assert Fingerprints(blocked / "notes").of(path) == Fingerprints().of(path)


def test_a_folder_is_its_files_with_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "w.bin").write_bytes(b"x")
    prints = Fingerprints()
    first = prints.of(folder)
    (folder / "unet" / "w.bin").rename(folder / "unet" / "v.bin")
    second = prints.of(folder)
    (folder / "unet" / "v.bin").write_bytes(b"y")
    assert len({first, second, prints.of(folder)}) == 3


def test_a_file_that_vanished_is_not_usable(tmp_path: Path) -> None:
    with pytest.raises(FileNotUsable, match="can't be read: No such file or directory"):
        Fingerprints().of(tmp_path / "none")


def test_a_file_that_changes_while_it_is_read_is_not_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    opened = Path.open

    def growing(self: Path, *args: object, **options: object) -> object:
        file = opened(self, *args, **options)  # type: ignore[call-overload]
        with opened(self, "ab") as more:
            more.write(b"y")
        return file

    monkeypatch.setattr(Path, "open", growing)
    with pytest.raises(FileNotUsable, match="changed while it was read; run again once it is complete"):
        Fingerprints().of(path)


def test_threads_may_share_fingerprints(tmp_path: Path) -> None:
    paths = [tmp_path / str(index) for index in range(20)]
    for path in paths:
        path.write_bytes(path.name.encode())
    prints, expected = Fingerprints(tmp_path / "notes"), [Fingerprints().of(path) for path in paths]
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append([prints.of(path) for path in paths])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
