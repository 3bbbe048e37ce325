"""From a prompt to chunks of 77 weighted tokens, the length that CLIP's text models read at a time.

Knows no text model. A token is an id of CLIP's vocabulary, or a vector that stands in for one (textual inversion).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from .prompt import parse_weights

if TYPE_CHECKING:
    from torch import Tensor

BOS = 49406  # <|startoftext|>
EOS = 49407  # <|endoftext|>
CHUNK_LENGTH = 77  # CLIP's position embeddings
SPLITTABLE = 8  # a group of at least so many tokens may be cut at the end of a chunk; as in ComfyUI 0.8.0 (behaviour)

VectorLookup = Callable[[str], "Tensor | None"]
"""Gives the vectors (K, D) of a named embedding, or None if there is none of that name."""


class Token(NamedTuple):
    """What stands at one position, and its weight."""

    value: int | Tensor
    weight: float = 1.0


Chunk = tuple[Token, ...]


@dataclass(frozen=True, eq=False, slots=True)
class TokenizedPrompt:
    """A prompt as chunks of exactly 77 tokens, at least one. `missing`: embeddings that were named but not found."""

    chunks: tuple[Chunk, ...]
    missing: tuple[str, ...]


def tokenize(prompt: str, *, pad_id: int, find_vectors: VectorLookup | None = None) -> TokenizedPrompt:
    """Returns the prompt's tokens, each with the weight that its brackets give it.

    Text of one weight is one group, and so are the vectors of an `embedding:name`, which counts only at the beginning
    of such a text or after a space or line break. A group of fewer than 8 tokens is never cut: it moves to the next
    chunk. A missing embedding is left out. As in ComfyUI 0.8.0 (behaviour).
    """
    missing: list[str] = []
    groups: list[list[Token]] = []
    for item, weight in parse_weights(prompt):
        for text in _BEFORE_EMBEDDING.split(item):
            if text.startswith(_EMBEDDING):
                name, vectors, text = _read_embedding(text.removeprefix(_EMBEDDING), find_vectors)
                if vectors is None:
                    missing.append(name)
                else:
                    groups.append([Token(vector, weight) for vector in vectors])
            groups.append([Token(token_id, weight) for token_id in _text_ids(text)])
    return TokenizedPrompt(pack(groups, pad_id=pad_id), tuple(missing))


def embedding_names(prompt: str) -> list[tuple[str, ...]]:
    """Returns, for each `embedding:name` of the prompt, the names to look for: as written, then without commas around it."""
    texts = (text for item, _ in parse_weights(prompt) for text in _BEFORE_EMBEDDING.split(item))
    named = (text.removeprefix(_EMBEDDING) for text in texts if text.startswith(_EMBEDDING))
    written = (re.match(r"\S*", text).group() for text in named)  # type: ignore[union-attr]  # it always matches
    return list(dict.fromkeys(tuple(dict.fromkeys((name, name.strip(",")))) for name in written))


def pack(groups: Iterable[Sequence[Token]], *, pad_id: int) -> tuple[Chunk, ...]:
    """Lays groups of tokens into chunks: begin token, up to 75 tokens, end token, padding. No group: an empty chunk."""
    chunks: list[Chunk] = []
    chunk = [Token(BOS)]
    for group in groups:
        rest = list(group)
        while (room := CHUNK_LENGTH - 1 - len(chunk)) < len(rest):
            if len(group) >= SPLITTABLE:
                chunk += rest[:room]
                rest = rest[room:]
            chunks.append(_closed(chunk, pad_id))
            chunk = [Token(BOS)]
        chunk += rest
    return (*chunks, _closed(chunk, pad_id))


_EMBEDDING = "embedding:"
_BEFORE_EMBEDDING = re.compile(rf"[ \n](?={_EMBEDDING})")  # the space or line break is consumed


def _closed(chunk: list[Token], pad_id: int) -> Chunk:
    return (*chunk, Token(EOS), *[Token(pad_id)] * (CHUNK_LENGTH - 1 - len(chunk)))


def _read_embedding(text: str, find_vectors: VectorLookup | None) -> tuple[str, Tensor | None, str]:
    """The name that `text` begins with, its vectors, and the text left over.

    Commas around a name are left over too, unless an embedding is so called.
    """
    name, rest = re.match(r"(\S*)\s*(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]  # it always matches
    if find_vectors is not None and (vectors := find_vectors(name)) is not None:
        return name, vectors, rest
    bare = name.strip(",")
    vectors = find_vectors(bare) if find_vectors is not None and bare != name else None
    return bare, vectors, f"{',' * (len(name) - len(bare))} {rest}"


def _text_ids(text: str) -> list[int]:
    encodable = text.encode("utf-8", "replace").decode("utf-8")  # JSON can carry lone surrogates
    ids: list[int] = _backend().encode(encodable, add_special_tokens=False).ids
    return ids


@cache
def _backend() -> Any:
    """CLIP's tokenizer as the tokenizers library runs it. Encoding changes nothing in it, so threads may share it."""
    from transformers import CLIPTokenizer

    lines = files(__package__).joinpath("clip_merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [(left, right) for left, right in (line.split(" ") for line in lines[1:] if line)]
    letters = _byte_letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(left + right for left, right in merges)]
    vocabulary = {word: token_id for token_id, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges).backend_tokenizer


def _byte_letters() -> list[str]:
    """A visible character for each byte, in the order of CLIP's (and GPT-2's) vocabulary.

    Visible Latin-1 characters stand for themselves; the other bytes take characters from U+0100 on.
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(visible)
    return [chr(byte) for byte in visible] + [chr(256 + i) for i in range(others)]
