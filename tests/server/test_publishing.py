"""From the folder of an attempt to outputs: what is published, what is refused, and what a fault or a crash leaves."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from latentgraph.server.errors import OutputRefused
from latentgraph.server.jobs import publishing
from latentgraph.server.jobs.publishing import (
    attempt_folder,
    discard_attempt,
    make_attempt_folder,
    outputs_folder,
    publish,
)
from latentgraph.server.jobs.values import OutputFile

from .system_calls import Crash, at_call

JOB = "0123456789abcdef" * 2
Tree = dict[str, bytes]


def write(data: Path, attempt: int, tree: Tree) -> Path:
    (data / "outputs").mkdir(parents=True, exist_ok=True)  # as the store does
    folder = make_attempt_folder(data, JOB, attempt)
    for name, content in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def published(data: Path) -> Tree | None:
    """Returns what is in the place of the job's outputs."""
    folder = outputs_folder(data, JOB)
    if not folder.exists():
        return None
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def picture(format: str, size: tuple[int, int] = (7, 5)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, format)
    return file.getvalue()


def test_named_files_are_described_by_their_bytes(tmp_path: Path) -> None:
    tree = {
        "a.png": picture("PNG"),
        "deep/er/b.png": picture("JPEG", (640, 2)),
        "c.txt": b"<svg>",
        "unnamed.bin": b"\0",
    }
    write(tmp_path, 1, tree)
    files = publish(tmp_path, JOB, 1, {"image": ["a.png", "deep/er/b.png"], "text": ["c.txt"]})
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in tree.items()}
    assert files == {
        "image": (
            OutputFile("a.png", len(tree["a.png"]), digests["a.png"], "image/png", 7, 5),
            OutputFile("deep/er/b.png", len(tree["deep/er/b.png"]), digests["deep/er/b.png"], "image/jpeg", 640, 2),
        ),
        "text": (OutputFile("c.txt", 5, digests["c.txt"], "image/svg+xml"),),
    }
    assert published(tmp_path) == tree
    assert not attempt_folder(tmp_path, JOB, 1).exists()


def test_a_picture_that_is_cut_short_has_a_type_and_no_size(tmp_path: Path) -> None:
    write(tmp_path, 1, {"a.png": picture("PNG")[:12]})
    (file,) = publish(tmp_path, JOB, 1, {"image": ["a.png"]})["image"]
    assert (file.media_type, file.width, file.height) == ("image/png", None, None)


def test_a_job_without_files_has_no_folder(tmp_path: Path) -> None:
    write(tmp_path, 1, {})
    assert publish(tmp_path, JOB, 1, {}) == {}
    assert published(tmp_path) is None


@pytest.mark.parametrize("tree", [{"new.txt": b"new"}, {}])
def test_what_a_lost_attempt_left_is_replaced(tmp_path: Path, tree: Tree) -> None:
    write(tmp_path, 1, {"old.txt": b"old"})
    publish(tmp_path, JOB, 1, {})
    write(tmp_path, 2, tree)
    publish(tmp_path, JOB, 2, {})
    assert published(tmp_path) == (tree or None)
    discard_attempt(tmp_path, JOB, 2)
    assert list((tmp_path / "attempts").iterdir()) == []


def test_the_folder_of_an_attempt_is_empty_whatever_was_there(tmp_path: Path) -> None:
    write(tmp_path, 1, {"deep/left.txt": b"left"})
    assert list(make_attempt_folder(tmp_path, JOB, 1).iterdir()) == []


@pytest.mark.parametrize(
    "name", ["missing.png", "../../secret", "/etc/hostname", "deep", "", ".", "a\0b", "deep/../a.txt"]
)
def test_a_name_of_no_file_in_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, 1, {"a.txt": b"a", "deep/b.txt": b"b"})
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(OutputRefused, match="wrote no such file"):
        publish(tmp_path, JOB, 1, {"image": [name]})
    assert published(tmp_path) is None


@pytest.mark.parametrize("kind", ["link", "folder link", "dangling link", "pipe", "socket"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, 1, {"a.txt": b"a"})
    (tmp_path / "secret").write_text("secret")
    monkeypatch.chdir(folder)  # the path of a socket must be short
    match kind:
        case "link":
            Path("b").symlink_to(tmp_path / "secret")
        case "folder link":
            Path("b").symlink_to(tmp_path)
        case "dangling link":
            Path("b").symlink_to("nowhere")
        case "pipe":
            os.mkfifo("b")
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind("b")
    with pytest.raises(OutputRefused, match="'b' is no plain file"):
        publish(tmp_path, JOB, 1, {"image": ["a.txt"]})
    assert published(tmp_path) is None


def test_a_job_can_not_publish_files_without_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "MAX_FILES", 5)
    write(tmp_path, 1, {f"{number}.txt": b"" for number in range(6)})
    with pytest.raises(OutputRefused, match="more than 5"):
        publish(tmp_path, JOB, 1, {})


NEW = {"a.txt": b"new", "deep/b.txt": b"b" * 100_000}
OLD = {"a.txt": b"old", "gone.txt": b"gone"}


def trip(data: Path, number: int, fault: Callable[[], BaseException]) -> str | None:
    """Publishes a second attempt and has a call fail; returns which, or None if there were not so many."""
    write(data, 2, NEW)
    with at_call(number, fault) as made:
        try:
            publish(data, JOB, 2, {"text": ["a.txt", "deep/b.txt"]})
        except (OSError, Crash):
            return made[number]
    assert len(made) <= number, "a fault was swallowed"
    return None


@pytest.mark.parametrize("before", [None, OLD])
@pytest.mark.parametrize(
    "fault",
    [lambda: OSError(errno.ENOSPC, "no space left"), lambda: OSError(errno.EIO, "input/output error"), lambda: Crash()],
    ids=["full disk", "broken disk", "crash"],
)
def test_a_fault_at_any_call_leaves_no_torn_output_and_the_next_attempt_publishes(
    tmp_path: Path, fault: Callable[[], BaseException], before: Tree | None
) -> None:
    failed: list[str] = []
    for number in range(100):
        data = tmp_path / str(number)
        if before is not None:
            write(data, 1, before)
            publish(data, JOB, 1, {})
        call = trip(data, number, fault)
        if call is None:
            break
        failed.append(call)
        assert published(data) in (before, None, NEW)
        write(data, 3, NEW)
        files = publish(data, JOB, 3, {"text": ["a.txt"]})
        assert published(data) == NEW
        assert files["text"][0].sha256 == hashlib.sha256(b"new").hexdigest()
    assert published(data) == NEW
    assert failed.count("fsync") >= 5  # two files, two folders, the parent
    assert failed.count("rename") >= 1 + (before is not None)


def test_all_is_durable_before_it_is_in_its_place(tmp_path: Path) -> None:
    write(tmp_path, 2, NEW)
    with at_call(-1, Crash) as made:
        publish(tmp_path, JOB, 2, {"text": ["a.txt"]})
    renamed = made.index("rename", made.index("rename") + 1)  # the first looks for what a lost attempt left
    assert made[:renamed].count("fsync") == 4
    assert made[renamed + 1 :].count("fsync") == 1
