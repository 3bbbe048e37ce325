"""What a submit sends along: the document as the server reads it, and the local pictures that its parameters name. `packing`
sees to what else a document names.

A name means here what it means to `latentgraph run`: first as seen from the document, then from the working folder. What is
not there is left as it is, since the server may have a picture of that name. Nothing is sent from here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentgraph.graph import Document, FolderResolver, document_from_tree, load_document

from ..files.resolving import UPLOAD_KINDS
from ..files.uploads import PREFIX, digest_of
from .errors import ClientError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""What may be left out of a picture's name."""

LARGEST = 256 << 20
"""Bytes of a picture that are sent; servers take less by default."""

LOCAL = FolderResolver(suffixes=dict.fromkeys(UPLOAD_KINDS, SUFFIXES))
"""What names stand for on this machine."""


@dataclass(frozen=True)
class Sent:
    """A document to send. body: its tree, or its text in YAML, of which the server can say where an error is."""

    document: Document
    body: Mapping[str, Any] | str
    file: Path | None = None


def read_document(source: Path | Mapping[str, Any] | Document) -> Sent:
    """Returns a document to send. Raises InvalidWorkflow for a file that can't be read as one."""
    if isinstance(source, Document):
        return Sent(source, source.tree, source.file)
    if isinstance(source, Path):
        document = load_document(source)
        is_json = source.suffix.lower() == ".json"
        return Sent(document, document.tree if is_json else source.read_text("utf-8-sig"), source)
    return Sent(document_from_tree(dict(source)), source)


def pictures_of(document: Document, params: Mapping[str, Any]) -> dict[str, Path]:
    """Returns the local files that stand for parameters of a document, given or by default."""
    kinds = {name: param.file_kind for name, param in document.params.items() if param.file_kind}
    values = {name: params.get(name, document.params[name].default) for name in kinds}
    return find_pictures(kinds, values, document.file.resolve().parent if document.file else None)


def find_pictures(kinds: Mapping[str, str], values: Mapping[str, Any], base: Path | None) -> dict[str, Path]:
    """Returns the local files that values name, for those parameters whose kind of file may be sent."""
    found: dict[str, Path] = {}
    for name, value in values.items():
        if kinds.get(name) in UPLOAD_KINDS and (path := find_picture(value, base)) is not None:
            found[name] = path
    return found


def find_picture(value: Any, base: Path | None) -> Path | None:
    """Returns the local file that a value names as a picture, None if it is no name of one that is here."""
    if not isinstance(value, str) or digest_of(value):
        return None
    path = LOCAL.find("image", value, base)
    return path if path is not None and path.is_file() else None


def read_picture(source: Path | bytes) -> tuple[bytes, str]:
    """Returns the bytes of a picture, and its content id. Raises ClientError for a file that can't be read or sent."""
    if isinstance(source, Path):
        try:
            size = source.stat().st_size
            data = source.read_bytes() if size <= LARGEST else b""
        except OSError as error:
            raise ClientError(f"the picture {str(source)!r} can't be read: {error.strerror or error}") from error
        if size > LARGEST:
            raise ClientError(f"{source} has {size:,} bytes, more than any server takes; send a smaller picture")
    else:
        data = source
    return data, PREFIX + hashlib.sha256(data).hexdigest()
