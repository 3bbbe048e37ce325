"""Pictures written into a folder as numbered PNG files: whole or not at all, never over one another.

Several threads and processes may write into one folder at a time.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath

from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from .pictures import to_8bit
from .types import Image


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
        base = _resolve(folder, _fill_in(prefix, width=width, height=height, batch_num=i))
        base.parent.mkdir(parents=True, exist_ok=True)
        temporary = base.parent / f".{secrets.token_hex(8)}.tmp"
        try:
            with temporary.open("xb") as file:
                picture = Pillow.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
                picture.save(file, "PNG", pnginfo=info, compress_level=compress_level)
            paths.append(_move_to_next_number(temporary, base))
        finally:
            temporary.unlink(missing_ok=True)
    return paths


def _fill_in(prefix: str, *, width: int, height: int, batch_num: int) -> str:
    now = datetime.now()  # local time: the name is for people
    values = {"width": str(width), "height": str(height), "batch_num": str(batch_num)}
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


def _move_to_next_number(temporary: Path, base: Path) -> Path:
    """Gives the finished file the next free number. A number is taken with the whole file, so a crash leaves no empty one."""
    pattern = re.compile(rf"{re.escape(base.name)}_(\d+)_.*", re.DOTALL)
    taken = [int(match[1]) for path in base.parent.iterdir() if (match := pattern.fullmatch(path.name))]
    number = max(taken, default=0) + 1
    while True:
        target = base.with_name(f"{base.name}_{number:05}_.png")
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
