"""From the folder of an attempt to the outputs of a job: durable, and whole or not at all.

An attempt writes into `attempts/<job>.<n>`. Publishing syncs every file and folder of it, moves it to `outputs/<job>` by one
rename, and syncs the parent; only then may the job be said to have succeeded. Until that is said nobody looks into the
folder, so one that a crash left behind is no output, and the job's next attempt puts its own in the place.

Nothing is published that is no plain file: a link or a device could lead out of the folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..durable import sync_folder
from ..errors import DamagedFile, OutputRefused
from ..files.content import HEAD_BYTES, Content, media_type, read_content
from .values import OutputFile

MAX_FILES = 10_000
"""How many files and folders of a job are published."""

_PIECE_BYTES = 1 << 20


def attempt_folder(data: Path, job: str, attempt: int) -> Path:
    """Returns where an attempt writes."""
    return data / "attempts" / f"{job}.{attempt}"


def outputs_folder(data: Path, job: str) -> Path:
    """Returns where the outputs of a job are, or would be."""
    return data / "outputs" / job


def make_attempt_folder(data: Path, job: str, attempt: int) -> Path:
    """Makes the folder of an attempt and returns it, empty whatever was there."""
    folder = attempt_folder(data, job, attempt)
    discard(folder)
    folder.mkdir(parents=True)
    return folder


def discard_attempt(data: Path, job: str, attempt: int) -> None:
    """Removes what an attempt wrote and what it replaced, as far as that can be done; it may be gone already."""
    folder = attempt_folder(data, job, attempt)
    discard(folder)
    discard(_stale(folder))


def discard(folder: Path) -> None:
    """Removes a folder and what is in it, as far as it can be; it may be gone already."""
    shutil.rmtree(folder, ignore_errors=True)


def publish(
    data: Path, job: str, attempt: int, files: Mapping[str, Sequence[str]]
) -> Mapping[str, tuple[OutputFile, ...]]:
    """Makes what an attempt wrote the outputs of its job, and returns what each named file is.

    files: names inside the attempt's folder, with `/` between folders, by output. What it replaces is left for
    `discard_attempt`. Raises OutputRefused, and OSError where the disk is full or fails: the job has no outputs then, or
    such as its next attempt replaces.
    """
    source, target = attempt_folder(data, job, attempt), outputs_folder(data, job)
    found, folders = _walk(source)
    for name in {name for names in files.values() for name in names}:
        if name not in found:
            raise OutputRefused(f"the job names {name!r} as its output, and wrote no such file")
    described = {name: _settle(source / name, name) for name in found}
    for folder in reversed(folders) if found else ():
        sync_folder(folder)
    _put_in_place(source, target, keep=bool(found))
    return {output: tuple(described[name] for name in names) for output, names in files.items()}


def _walk(top: Path) -> tuple[list[str], list[Path]]:
    """Returns the names of all files below a folder, and all folders, itself included; a folder before those in it."""
    found: list[str] = []
    folders = [top]
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                name = path.relative_to(top).as_posix()
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif entry.is_file(follow_symlinks=False):
                    found.append(name)
                else:
                    raise OutputRefused(f"the output {name!r} is no plain file; links and devices are not published")
                if len(found) + len(folders) > MAX_FILES:
                    raise OutputRefused(f"the job wrote more than {MAX_FILES:,} files and folders")
    return found, folders


def _settle(path: Path, name: str) -> OutputFile:
    """Reads a file, makes it durable, and returns what it is."""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OutputRefused(f"the output {name!r} is no plain file any more")
        size = 0
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            size += len(piece)
        try:
            content = read_content(file)
        except DamagedFile:
            file.seek(0)
            content = Content(media_type(file.read(HEAD_BYTES)))
        os.fsync(descriptor)
    return OutputFile(name, size, digest.hexdigest(), content.type, content.width, content.height)


def _put_in_place(source: Path, target: Path, *, keep: bool) -> None:
    """Moves a synced folder to its place, after what a lost attempt may have left there; without files there is no folder."""
    stale = _stale(source)
    try:
        os.rename(target, stale)  # noqa: PTH104 - one system call, which tests make fail
    except FileNotFoundError:
        if not keep:
            return
    if keep:
        os.rename(source, target)  # noqa: PTH104
    sync_folder(target.parent)


def _stale(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.stale")
