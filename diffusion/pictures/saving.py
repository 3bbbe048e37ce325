"""Files written into a folder under numbers: whole or not at all, never over one another. Pictures become PNG files.

Several threads and processes may write into one folder at a time.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from ..types import Image
from .files import to_8bit


def save_pictures(
    image: Image,
    folder: Path,
    *,
    prefix: str,
    text: Mapping[str, str] | None = None,
    compress_level: int = 4,
) -> list[Path]:
    """Writes each picture of the batch as `{prefix}_{number:05}_.png` and returns the paths in order.

    Numbers continue from the highest one of that prefix. The prefix may name a folder below `folder` and hold
    %width%, %height%, %batch_num%, %year%, %month%, %day%, %hour%, %minute% and %second%; it may not lead out of
    `folder`. text: text chunks by keyword, such as the workflow. Names, 8-bit conversion and compression are as in
    ComfyUI 0.8.0 (behaviour).
    """
    info = PngInfo()
    for keyword, value in (text or {}).items():
        info.add_text(keyword, value)
    _, height, width, _ = image.pixels.shape
    paths = []
    for i, pixels in enumerate(to_8bit(image.pixels)):
        picture = Pillow.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
        known = {"width": str(width), "height": str(height), "batch_num": str(i)}
        with numbered_file(folder, prefix=prefix, suffix=".png", values=known) as file:
            picture.save(file.file, "PNG", pnginfo=info, compress_level=compress_level)
        paths.append(file.path)
    return paths


@dataclass(slots=True)
class NumberedFile:
    """A file that is being written, and the path that it has once it is whole."""

    file: BinaryIO
    path: Path


@contextmanager
def numbered_file(
    folder: Path, *, prefix: str, suffix: str, values: Mapping[str, str] | None = None
) -> Iterator[NumberedFile]:
    """Yields a new file, which becomes `{prefix}_{number:05}_{suffix}` when the block ends, and nothing if it fails.

    values: what stands for %name% in the prefix beside the parts of the time; see `save_pictures`.
    """
    base = _resolve(folder, _fill_in(prefix, values or {}))
    base.parent.mkdir(parents=True, exist_ok=True)
    temporary = base.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            written = NumberedFile(file, temporary)
            yield written
        written.path = _move_to_next_number(temporary, base, suffix)
    finally:
        temporary.unlink(missing_ok=True)


def _fill_in(prefix: str, known: Mapping[str, str]) -> str:
    now = datetime.now()  # local time: the name is for people
    values = dict(known)
    values |= {name: f"{getattr(now, name):02}" for name in ("year", "month", "day", "hour", "minute", "second")}
    for name, value in values.items():
        prefix = prefix.replace(f"%{name}%", value)
    return prefix


def _resolve(folder: Path, prefix: str) -> Path:
    """The file name, without number, that the prefix stands for; links are followed before it is judged."""
    relative = PurePosixPath(prefix.replace("\\", "/"))  # the prefix may have been written on Windows
    if relative.name in ("", "..") or "\0" in prefix:
        raise ValueError(f"prefix {prefix!r} names no file; expected a name such as 'cat', or 'cats/cat'.")
    root, parent = folder.resolve(), (folder / relative.parent).resolve()
    if not parent.is_relative_to(root):
        raise ValueError(f"prefix {prefix!r} leads out of the output folder {root}; expected a name below it.")
    return parent / relative.name


def _move_to_next_number(temporary: Path, base: Path, suffix: str) -> Path:
    """Gives the finished file the next free number. A number is taken with the whole file, so a crash leaves no empty one."""
    pattern = re.compile(rf"{re.escape(base.name)}_(\d+)_.*", re.DOTALL)
    taken = [int(match[1]) for path in base.parent.iterdir() if (match := pattern.fullmatch(path.name))]
    number = max(taken, default=0) + 1
    while True:
        target = base.with_name(f"{base.name}_{number:05}_{suffix}")
        try:
            target.hardlink_to(temporary)
        except FileExistsError:
            number += 1
        except OSError:  # a file system without hard links: the number is taken by an empty file first
            try:
                target.open("xb").close()
            except FileExistsError:
                number += 1
            else:
                return temporary.replace(target)
        else:
            return target
