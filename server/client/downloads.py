"""Downloads: the files of a job in a folder of the client's, each whole under its name or not there at all.

Names come from the server and are not trusted: none leads out of the folder. No file that is there is replaced; one that has
the same content is left as it is, so a download may be repeated, and another is given the next free number.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from ..api.job_views import FileView, JobView
from .errors import ClientError, DamagedDownload
from .transport import Answer, Fleeting, Transport, Tries

_CHUNK = 1 << 18
_NAMES = 100_000
_DAMAGED = 3  # times that a file may come damaged
_NUMBERED = re.compile(r"(.*?)([0-9]{1,9})(_?)")  # as in image_00001_
_ODD = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]' if os.name == "nt" else r"[\x00-\x1f\x7f\\]")


def fetch_files(transport: Transport, job: JobView, folder: Path) -> dict[str, tuple[Path, ...]]:
    """Fetches the files of a job into a folder and returns them by output. Raises ClientError."""
    lying: dict[str, Path] = {}  # by name: a file may belong to several outputs
    for output, files in job.outputs.items():
        for index, file in enumerate(files):
            if file.name not in lying:
                address = f"/v1/jobs/{quote(job.id, safe='')}/outputs/{quote(output, safe='')}"
                lying[file.name] = _fetch(transport, address, index, file, folder)
    return {output: tuple(lying[file.name] for file in files) for output, files in job.outputs.items()}


def _fetch(transport: Transport, address: str, index: int, file: FileView, folder: Path) -> Path:
    """Returns where a file lies once it is there."""
    target = _target(folder, file)
    path, damaged, tries = _find_same(target, file), 0, Tries(transport)
    while path is None:
        try:
            with transport.opened("GET", address, query={"index": index}, headers={"Accept": "*/*"}) as answer:
                path = _save(answer, target, file)
        except Fleeting as failure:
            tries.again(failure)
        except DamagedDownload as error:
            damaged += 1
            if damaged == _DAMAGED:
                raise
            tries.again(Fleeting(error))
    return path


def _target(folder: Path, file: FileView) -> Path:
    """Returns where a file belongs. Raises ClientError for a name that leads elsewhere, or is hidden."""
    parts = file.name.split("/")
    if any(not part or part.startswith(".") or len(os.fsencode(part)) > 255 or _ODD.search(part) for part in parts):
        raise ClientError(
            f"the server names a file {file.name[:80]!r}, which is no name below a folder; it is not written"
        )
    return folder.joinpath(*parts)


def _find_same(target: Path, file: FileView) -> Path | None:
    """Returns the file under a name, or under one that follows it, that has the content already."""
    for path in _names(target):
        if not path.exists():
            return None
        if path.is_file() and path.stat().st_size == file.size and _digest(path) == file.sha256:
            return path
    return None


def _save(answer: Answer, target: Path, file: FileView) -> Path:
    """Writes what comes to where it belongs, or beside what is there; returns the path.

    Raises DamagedDownload if it is not what the server says that the file is, and what reading raises.
    """
    draft = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with draft.open("xb") as out:
            while size <= file.size and (piece := answer.read(min(_CHUNK, file.size + 1 - size))):
                digest.update(piece)
                size += out.write(piece)
            out.flush()
            os.fsync(out.fileno())
        if (size, digest.hexdigest()) != (file.size, file.sha256):
            found = f"{size:,} bytes with SHA-256 {digest.hexdigest()[:12]}..."
            raise DamagedDownload(f"{file.name}: {found} came; expected {file.size:,} with {file.sha256[:12]}...")
        return _place(draft, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ClientError(f"{target} can't be written: {reason}; make room, or name another folder") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def _place(draft: Path, target: Path) -> Path:
    """Gives a complete file the first name that is free, in one step, so that nobody sees or loses half a file."""
    for path in _names(target):
        try:
            path.hardlink_to(draft)
            return path
        except FileExistsError:
            continue
        except OSError:  # a file system without links
            with contextlib.suppress(FileExistsError):
                path.touch(exist_ok=False)
                draft.replace(path)
                return path
    raise ClientError(f"{target}: {_NAMES:,} files have that name and a number; name another folder")


def _names(target: Path) -> Iterator[Path]:
    """Yields a name and those that follow it: image_00001_.png, image_00002_.png; cat.png, cat_2.png."""
    yield target
    match = _NUMBERED.fullmatch(target.stem)
    head, digits, tail = match.groups() if match else (f"{target.stem}_", "1", "")
    for number in range(int(digits) + 1, int(digits) + _NAMES):
        yield target.with_name(f"{head}{number:0{len(digits)}d}{tail}{target.suffix}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
