"""From a prompt to chunks of weighted tokens, as long as a text encoder reads at a time.

Knows no text model. A token is an id of the encoder's vocabulary, or a vector that stands in for one (textual inversion).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..families.text_specs import Dialogue, Framing
from .prompt import parse_weights

if TYPE_CHECKING:
    from torch import Tensor

SPLITTABLE = 8  # a group of at least so many tokens may be cut at the end of a chunk; as in ComfyUI 0.8.0 (behaviour)

TextIds = Callable[[str], list[int]]
"""Gives the ids of a text in a vocabulary, without any that mark its beginning or end."""

VectorLookup = Callable[[str], "Tensor | None"]
"""Gives the vectors (K, D) of a named embedding, or None if there is none of that name."""


class Token(NamedTuple):
    """What stands at one position, and its weight."""

    value: int | Tensor
    weight: float = 1.0


Chunk = tuple[Token, ...]


@dataclass(frozen=True, eq=False, slots=True)
class TokenizedPrompt:
    """A prompt as chunks, at least one. missing: embeddings that were named but not found; found: those that were."""

    chunks: tuple[Chunk, ...]
    missing: tuple[str, ...]
    found: tuple[str, ...] = ()


def tokenize(
    prompt: str, framing: Framing, *, ids: TextIds, find_vectors: VectorLookup | None = None
) -> TokenizedPrompt:
    """Returns the prompt's tokens, each with the weight that its brackets give it.

    Text of one weight is one group, and so are the vectors of an `embedding:name`, which counts only at the beginning
    of such a text or after a space or line break. A group of fewer than 8 tokens is never cut: it moves to the next
    chunk. Each text is looked up in the vocabulary by itself. A missing embedding is left out. As in ComfyUI 0.8.0 (behaviour).
    """
    missing: list[str] = []
    found: list[str] = []
    groups: list[list[Token]] = []
    for item, weight in parse_weights(prompt):
        for text in _BEFORE_EMBEDDING.split(item):
            if text.startswith(_EMBEDDING):
                name, vectors, text = _read_embedding(text.removeprefix(_EMBEDDING), find_vectors)
                if vectors is None:
                    missing.append(name)
                else:
                    found.append(name)
                    groups.append([Token(vector, weight) for vector in vectors])
            encodable = text.encode("utf-8", "replace").decode("utf-8")  # JSON can carry lone surrogates
            groups.append([Token(token_id, weight) for token_id in ids(encodable)])
    return TokenizedPrompt(pack(groups, framing), tuple(missing), tuple(found))


def tokenize_dialogue(prompt: str, dialogue: Dialogue, *, ids: TextIds) -> TokenizedPrompt:
    """Returns a prompt as a language model is told it: within its dialogue, as it is written, in one chunk of any length.

    Brackets weigh nothing and no embedding is looked up, as in ComfyUI 0.8.0 and diffusers (behaviour).
    """
    text = (dialogue.before + prompt + dialogue.after).encode("utf-8", "replace").decode("utf-8")
    told = tuple(Token(token_id) for token_id in ids(text))
    padding = (Token(dialogue.pad),) * (dialogue.least - len(told))
    return TokenizedPrompt((padding + told if dialogue.pad_left else told + padding,), ())


def embedding_names(prompt: str) -> list[tuple[str, ...]]:
    """Returns, for each `embedding:name` of the prompt, the names to look for: as written, then without commas around it."""
    texts = (text for item, _ in parse_weights(prompt) for text in _BEFORE_EMBEDDING.split(item))
    named = (text.removeprefix(_EMBEDDING) for text in texts if text.startswith(_EMBEDDING))
    written = (re.match(r"\S*", text).group() for text in named)  # type: ignore[union-attr]  # it always matches
    return list(dict.fromkeys(tuple(dict.fromkeys((name, name.strip(",")))) for name in written))


def pack(groups: Iterable[Sequence[Token]], framing: Framing) -> tuple[Chunk, ...]:
    """Lays groups of tokens into framed chunks; no group gives an empty chunk. Without a limit there is one chunk."""
    chunks: list[Chunk] = []
    head = [] if framing.begin is None else [Token(framing.begin)]
    chunk = list(head)
    for group in groups:
        rest = list(group)
        while framing.chunk is not None and (room := framing.chunk - 1 - len(chunk)) < len(rest):
            if len(group) >= SPLITTABLE:
                chunk += rest[:room]
                rest = rest[room:]
            chunks.append(_closed(chunk, framing))
            chunk = list(head)
        chunk += rest
    return (*chunks, _closed(chunk, framing))


_EMBEDDING = "embedding:"
_BEFORE_EMBEDDING = re.compile(rf"[ \n](?={_EMBEDDING})")  # the space or line break is consumed


def _closed(chunk: list[Token], framing: Framing) -> Chunk:
    return (*chunk, Token(framing.end), *[Token(framing.pad)] * (framing.least - 1 - len(chunk)))


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
