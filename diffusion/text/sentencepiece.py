"""A Unigram model of SentencePiece, read from its file without the sentencepiece package.

The file is a message of protocol buffers (sentencepiece_model.proto); of it, the pieces with their scores and the compiled
rules of normalisation are needed. Kudo 2018, arXiv:1804.10959.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

UNIGRAM = 1  # TrainerSpec.ModelType
UNKNOWN = 2  # SentencePiece.Type

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto
_MODEL_TYPE, _CHARSMAP = 3, 2  # of TrainerSpec, and of NormalizerSpec


class UnigramModel(NamedTuple):
    """Pieces with their log probabilities in the order of their ids, the id of the unknown piece, compiled normalisation."""

    pieces: tuple[tuple[str, float], ...]
    unknown: int
    normalizer: bytes


def read_unigram(data: bytes, name: str) -> UnigramModel:
    """Returns the model of a file's bytes. Raises ValueError, with the file's name, for anything else."""
    pieces: list[tuple[str, float]] = []
    unknown: int | None = None
    normalizer = b""
    kind = UNIGRAM
    try:
        for field, value in _fields(data):
            if field == _PIECES:
                parts = dict(_fields(_bytes(value)))
                if parts.get(3) == UNKNOWN:
                    unknown = len(pieces)
                pieces.append((_bytes(parts[1]).decode(), struct.unpack("<f", _bytes(parts.get(2, bytes(4))))[0]))
            elif field == _TRAINER:
                found = dict(_fields(_bytes(value))).get(_MODEL_TYPE, UNIGRAM)
                kind = found if isinstance(found, int) else kind
            elif field == _NORMALIZER:
                normalizer = _bytes(dict(_fields(_bytes(value))).get(_CHARSMAP, b""))
    except (KeyError, IndexError, struct.error, UnicodeDecodeError, TypeError):
        raise ValueError(f"{name} is no model of SentencePiece, or damaged") from None
    if kind != UNIGRAM or unknown is None or not pieces:
        raise ValueError(f"{name} is no Unigram model of SentencePiece, which T5 uses")
    return UnigramModel(tuple(pieces), unknown, normalizer)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise TypeError("a number where bytes belong")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields the fields of a message, by number: a number, or bytes for texts, messages and floating-point numbers."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            number, at = _varint(data, at)
            yield tag >> 3, number
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise IndexError("a field that goes on behind the end")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError("a number of over ten bytes")
