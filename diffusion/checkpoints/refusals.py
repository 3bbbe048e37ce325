"""Refusing files: what they are instead, in words. Kinds of strangers are data in `strangers`; here is the comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..layouts.structure import StructureError
from .headers import Header, HeaderError
from .recognise import network_prefix
from .strangers import IMPOSTORS, PARTS, Stranger, without_cures


def refuse_strangers(
    path: Path,
    headers: Sequence[Header],
    kinds: Sequence[Stranger],
    *,
    expected: str = "a checkpoint",
    cure: str = "Name a checkpoint, which holds a denoising network.",
) -> None:
    """Raises HeaderError if the file is of one of these kinds; `cure` is for those that have none of their own."""
    keys = [key for header in headers for key in header.tensors]
    for kind in kinds:
        if of_kind := kind.keys_of(keys):
            counted = f"{len(of_kind)} {kind.counted}" if len(of_kind) > 1 else f"1 {kind.counted.removesuffix('s')}"
            found = f"{kind.title} ({counted}, such as {of_kind[0]})"
            raise HeaderError(path, found, expected=expected, cure=kind.cure or cure)


def refuse_others(
    path: Path, headers: Sequence[Header], own: Sequence[Stranger] = (), *, expected: str, cure: str
) -> None:
    """Raises HeaderError if the file is a checkpoint, or of a known kind other than `own`, where no checkpoint is asked for."""
    if network_prefix([key for header in headers for key in header.tensors]) is not None:
        raise HeaderError(path, "a checkpoint", expected=expected, cure=cure)
    others = without_cures(kind for kind in (*IMPOSTORS, *PARTS) if kind not in own)
    refuse_strangers(path, headers, others, expected=expected, cure=cure)


def key_groups(keys: Iterable[str], most: int = 6) -> str:
    """Returns in words which groups of keys a file has."""
    groups = Counter(".".join(key.split(".")[:2]) for key in keys)
    if not groups:
        return "a file without tensors"
    shown = ", ".join(f"{group} ({number})" for group, number in groups.most_common(most))
    return f"a file of unknown kind, with keys below {shown}{', ...' if len(groups) > most else ''}"


def unbuildable(path: Path, error: StructureError) -> HeaderError:
    """Returns the error for a file whose tensors make up no whole network."""
    return HeaderError(
        path, f"a network that can't be built: {error}", expected="a whole network", cure="Get it again."
    )
