"""The vocabularies of text encoders: CLIP's, which comes with the package, and those of T5 and BERT, from files of the user's.

Each is run by the tokenizers library. Files: tokenizer.json (that library's own), spiece.model (SentencePiece's), vocab.txt
(BERT's), and text encoders that have theirs with them: GGUF, and ComfyUI's safetensors. No tokenizer is downloaded, and none
of them can run code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..checkpoints.gguf import read_gguf_arrays
from ..checkpoints.headers import read_bytes, read_header
from ..checkpoints.parts import FileId
from ..checkpoints.tokenizer_files import GGML_MODEL, GGML_PAIRS, KEPT_PIECES, KEPT_TEKKEN
from .byte_pairs import BytePairs, byte_letters, read_ggml, read_tekken
from .sentencepiece import UNKNOWN, UnigramModel, read_unigram
from .tokens import TextIds


class VocabularyError(ValueError):
    """A tokenizer file that can't be used: which, what was found, what was expected."""


def clip_ids(text: str) -> list[int]:
    """Returns the ids of a text in CLIP's vocabulary."""
    ids: list[int] = _clip_tokenizer().encode(text, add_special_tokens=False).ids
    return ids


@lru_cache(maxsize=8)
def load_vocabulary(file: FileId, model: str) -> TextIds:
    """Returns what gives ids in the vocabulary of a file. Raises VocabularyError for one that is none.

    model: how it must cut words, as the tokenizers library calls it.
    """
    path = file.path
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise VocabularyError(f"{path}: found {path.suffix or 'no suffix'}, expected one of {', '.join(_READERS)}.")
    try:
        tokenizer = read(path)
    except OSError as error:
        raise VocabularyError(f"{path}: the file can't be read ({error.strerror or error}).") from error
    except VocabularyError:
        raise
    except Exception as error:
        raise VocabularyError(f"{path}: no tokenizer ({error}). Download it again.") from error

    if (found := type(tokenizer.model).__name__) != model:
        raise VocabularyError(f"{path}: found a {found} tokenizer, expected {model}; it is another model's.")

    def ids(text: str) -> list[int]:
        numbers: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return numbers

    return ids


def _read_json(path: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _read_sentencepiece(path: Path) -> Any:
    return _unigram(read_unigram(path.read_bytes(), str(path)))


def _read_gguf(path: Path) -> Any:
    """What llama.cpp keeps of T5's Unigram model, or of a language model's byte pairs."""
    names = ("tokens", "scores", "token_type", "precompiled_charsmap", "merges")
    found = read_gguf_arrays(path, [f"tokenizer.ggml.{name}" for name in names])
    arrays = {name: found.get(f"tokenizer.ggml.{name}", []) for name in names}
    header = read_header(path)
    if header.metadata.get(GGML_MODEL) == GGML_PAIRS:
        return _byte_pairs(read_ggml(arrays, header.metadata.get("tokenizer.ggml.pre"), str(path)))
    pieces, scores, kinds, rules, _ = arrays.values()
    if not pieces or len(pieces) != len(scores) or len(pieces) != len(kinds) or UNKNOWN not in kinds:
        raise VocabularyError(f"{path}: found no whole vocabulary of SentencePiece in it. Download it again.")
    vocabulary = tuple((str(piece), float(score)) for piece, score in zip(pieces, scores, strict=True))
    return _unigram(UnigramModel(vocabulary, kinds.index(UNKNOWN), bytes(int(byte) & 0xFF for byte in rules)))


def _read_safetensors(path: Path) -> Any:
    """What ComfyUI keeps of a tokenizer among a text encoder's weights: the bytes of its file."""
    header = read_header(path)
    key = next((key for key in _KEPT if key in header.tensors), None)
    if key is None:
        raise VocabularyError(f"{path}: found no tokenizer in it, expected {' or '.join(_KEPT)}.")
    return _KEPT[key](read_bytes(header, key), str(path))


_KEPT: Mapping[str, Callable[[bytes, str], Any]] = {
    KEPT_TEKKEN: lambda data, name: _byte_pairs(read_tekken(data, name)),
    KEPT_PIECES: lambda data, name: _unigram(read_unigram(data, name)),
}


def _byte_pairs(model: BytePairs) -> Any:
    """A tokenizer as transformers makes it for language models; marks are told from text wherever they stand."""
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    tokenizer = Tokenizer(BPE({**model.words, **model.marks}, list(model.merges), ignore_merges=True))
    if model.composed:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(model.pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in model.marks])
    return tokenizer


def _unigram(model: UnigramModel) -> Any:
    """A tokenizer as transformers makes it for T5: words are split at white space, and each begins with a mark."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import Unigram

    tokenizer = Tokenizer(Unigram(list(model.pieces), unk_id=model.unknown, byte_fallback=False))
    if model.normalizer:
        tokenizer.normalizer = normalizers.Precompiled(model.normalizer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always", split=True)]
    )
    return tokenizer


def _read_bert(path: Path) -> Any:
    """A WordPiece tokenizer of BERT's uncased kind. Devlin et al. 2019, arXiv:1810.04805."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import WordPiece

    words = path.read_text(encoding="utf-8").splitlines()
    vocabulary = {word: number for number, word in enumerate(words)}
    if "[UNK]" not in vocabulary:
        raise VocabularyError(f"{path}: found no line [UNK], expected a vocabulary of BERT's, a word a line.")
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


_READERS: Mapping[str, Callable[[Path], Any]] = {
    ".json": _read_json,
    ".model": _read_sentencepiece,
    ".txt": _read_bert,
    ".gguf": _read_gguf,
    ".safetensors": _read_safetensors,
}


@cache
def _clip_tokenizer() -> Any:
    """CLIP's tokenizer as the tokenizers library runs it. Encoding changes nothing in it, so threads may share it."""
    from transformers import CLIPTokenizer

    lines = files(__package__).joinpath("clip_merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [(left, right) for left, right in (line.split(" ") for line in lines[1:] if line)]
    letters = sorted(byte_letters())  # CLIP's, as GPT-2's, begin with those that stand for themselves
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(left + right for left, right in merges)]
    vocabulary = {word: token_id for token_id, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges).backend_tokenizer
