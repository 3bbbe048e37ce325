"""Words of bytes that pairs are merged into, as language models have them: from Mistral's own file, and from GGUF.

A word is written with a letter for each byte (see `byte_letters`). Sennrich et al. 2016, arXiv:1508.07909. Files: tekken.json
of mistral-common, whose merges follow from the ranks of its words, and llama.cpp's notes of a vocabulary.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

MARK_KINDS = (3, 4)  # llama.cpp's: marks of control, and words that were added to a vocabulary
PATTERNS = {  # by llama.cpp's name of how text is cut before bytes are merged
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


class BytePairs(NamedTuple):
    """words: ids by letters. merges: pairs of words, the first to be merged first. marks: ids of what is no text.

    pattern: how text is cut into pieces, in each of which bytes are merged. composed: whether text is brought to Unicode's NFC.
    """

    words: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    marks: Mapping[str, int]
    pattern: str
    composed: bool = False


def read_tekken(data: bytes, name: str) -> BytePairs:
    """Returns what a tekken.json says. Raises ValueError, with the file's name, for anything else."""
    try:
        file = json.loads(data)
        config = file["config"]
        before = config["default_num_special_tokens"]
        marks = {mark["token_str"]: mark["rank"] for mark in file["special_tokens"]}
        listed = file["vocab"][: config["default_vocab_size"] - before]
        ranks = {base64.b64decode(word["token_bytes"]): int(word["rank"]) for word in listed}
        pattern = str(config["pattern"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{name} is no tekken.json of Mistral's, or damaged") from None
    letters = byte_letters()

    def spelt(word: bytes) -> str:
        return "".join(letters[byte] for byte in word)

    words = {spelt(word): rank + before for word, rank in ranks.items()}
    return BytePairs(words, [(spelt(a), spelt(b)) for a, b in _merges(ranks)], marks, pattern)


def read_ggml(arrays: Mapping[str, Sequence[Any]], cut: str | None, name: str) -> BytePairs:
    """Returns what llama.cpp notes of a vocabulary of byte pairs; cut: how it says that text is cut. Raises ValueError."""
    tokens, merges, kinds = (arrays.get(each, ()) for each in ("tokens", "merges", "token_type"))
    pairs = [tuple(str(merge).split(" ")) for merge in merges]
    if cut not in PATTERNS or not tokens or len(tokens) != len(kinds) or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{name} has no whole vocabulary of byte pairs that is cut as {' or '.join(PATTERNS)}")
    ids = {str(token): n for n, token in enumerate(tokens)}
    marks = {token: n for token, n in ids.items() if kinds[n] in MARK_KINDS}
    words = {token: n for token, n in ids.items() if token not in marks}
    return BytePairs(words, [(a, b) for a, b in pairs], marks, PATTERNS[cut], composed=True)


@cache
def byte_letters() -> list[str]:
    """A visible character for each byte, by its number, as in GPT-2's vocabulary.

    Visible Latin-1 characters stand for themselves; the other bytes take characters from U+0100 on.
    """
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Returns every pair of words that makes a word, by the rank of what it makes, then by the ranks of the pair."""
    ordered = []
    for word, rank in ranks.items():
        for cut in range(1, len(word)):
            first, second = word[:cut], word[cut:]
            if first in ranks and second in ranks:
                ordered.append((rank, ranks[first], ranks[second], first, second))
    ordered.sort()
    return [(first, second) for *_, first, second in ordered]
