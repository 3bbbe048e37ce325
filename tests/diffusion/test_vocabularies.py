"""Tokenizers from files: SentencePiece's, BERT's and the tokenizers library's, against the libraries that made them."""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer

from latentgraph.diffusion.checkpoints.parts import file_id
from latentgraph.diffusion.text.byte_pairs import byte_letters
from latentgraph.diffusion.text.sentencepiece import read_unigram
from latentgraph.diffusion.text.vocabularies import VocabularyError, load_vocabulary

from .gguf_files import Entry, File, numbers, string, strings

VECTORS = Path(__file__).parents[1] / "vectors"
SPIECE = VECTORS / "spiece.model"
IDS: dict[str, list[int]] = json.loads((VECTORS / "spiece.json").read_text("utf-8"))["ids"]


@pytest.mark.parametrize("text", IDS)
def test_ids_are_those_of_sentencepiece(text: str) -> None:
    assert load_vocabulary(file_id(SPIECE), "Unigram")(text) == IDS[text]


def test_a_tokenizer_json_gives_the_same_ids_whatever_padding_it_asks_for(tmp_path: Path) -> None:
    model = read_unigram(SPIECE.read_bytes(), "spiece.model")
    tokenizer = Tokenizer(models.Unigram(list(model.pieces), unk_id=model.unknown))
    split = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.enable_padding(length=512)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ids = load_vocabulary(file_id(tmp_path / "tokenizer.json"), "Unigram")
    assert ids("a cat on a mat") == IDS["a cat on a mat"]


def test_ids_of_a_list_of_words_are_those_of_bert(tiny_texts: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(tiny_texts.WORDS), encoding="utf-8")
    ids = load_vocabulary(file_id(tmp_path / "vocab.txt"), "WordPiece")
    bert = BertTokenizer(vocab={word: n for n, word in enumerate(tiny_texts.WORDS)})
    for text in ("a cat, on MATS", "Á cät", "dogs", "", "cat中mat", "x" * 200):
        assert ids(text) == bert(text, add_special_tokens=False).input_ids


MARKS = {"<unk>": 0, "<s>": 1, "[INST]": 3, "[/INST]": 4, "<pad>": 11}
BEFORE = 20  # ids that are kept for marks
PIECE = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"  # as Mistral's, but for upper and lower case
WORDS = [b"at", b" c", b" cat", b"th", b"the", b" m", b" mat", b"on", b"\xc3\xa9", b"  ", b"cat", b"hat", b"t\xc3"]
RANKS = {bytes([n]): n for n in range(256)} | {word: 256 + n for n, word in enumerate(WORDS)}
TEXTS = ["the cat on the mat", "[INST]a cat[/INST]", "caté  that chat", "", "  ", "x<pad>y", "\u732b 7cats"]


def tekken() -> bytes:
    """A tekken.json, with more words than its size lets count."""
    listed = [*RANKS, b"never"]
    vocab = [
        {"rank": n, "token_bytes": base64.b64encode(word).decode(), "token_str": None} for n, word in enumerate(listed)
    ]
    marks = [{"rank": n, "token_str": mark, "is_control": True} for mark, n in MARKS.items()]
    sizes = {"default_num_special_tokens": BEFORE, "default_vocab_size": BEFORE + len(RANKS)}
    return json.dumps({"config": {"pattern": PIECE, **sizes}, "vocab": vocab, "special_tokens": marks}).encode()


def merged(text: str) -> list[int]:
    """Byte pairs by their definition: of all neighbours that make a word, those of the least rank become one."""
    ids = []
    for part in re.split("(" + "|".join(map(re.escape, MARKS)) + ")", text):
        if part in MARKS:
            ids.append(MARKS[part])
            continue
        for piece in PIECES.pre_tokenize_str(part) if part else ():
            word = [bytes([byte]) for byte in piece[0].encode()]
            while pairs := [(RANKS[a + b], n) for n, (a, b) in enumerate(pairwise(word)) if a + b in RANKS]:
                _, n = min(pairs)
                word[n : n + 2] = [word[n] + word[n + 1]]
            ids += [BEFORE + RANKS[each] for each in word]
    return ids


PIECES = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text encoder's file as ComfyUI has it, with the tokenizer among its weights."""
    path = tmp_path_factory.mktemp("mistral") / "text.safetensors"
    kept = torch.frombuffer(bytearray(tekken()), dtype=torch.uint8)
    save_file({"model.embed_tokens.weight": torch.ones(2, 2), "tekken_model": kept}, path)
    return path


@pytest.mark.parametrize("text", TEXTS)
def test_ids_of_a_tekken_model_are_byte_pairs_by_their_ranks(text: str, mistral: Path) -> None:
    assert load_vocabulary(file_id(mistral), "BPE")(text) == merged(text)


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet="acehmnot \u00e9[]/INST<pad>7\n", max_size=30))
def test_byte_pairs_of_any_text_are_merged_by_their_ranks(text: str, mistral: Path) -> None:
    assert load_vocabulary(file_id(mistral), "BPE")(text) == merged(text)


def test_ids_of_a_gguf_file_of_qwen3_are_byte_pairs(tmp_path: Path) -> None:
    letters = byte_letters()
    words = [*letters, "Ġc", "at", "Ġcat", "<|im_start|>", "<think>"]
    kinds = [1] * (len(words) - 2) + [3, 4]
    values = {
        "general.architecture": string("qwen3"),
        "tokenizer.ggml.model": string("gpt2"),
        "tokenizer.ggml.pre": string("qwen2"),
        "tokenizer.ggml.tokens": strings(*words),
        "tokenizer.ggml.token_type": numbers(*kinds),
        "tokenizer.ggml.merges": strings("Ġ c", "a t", "Ġc at"),
    }
    (tmp_path / "qwen3.gguf").write_bytes(File([Entry("token_embd.weight", (2, 2), bytes(16))], values).packed())
    ids = load_vocabulary(file_id(tmp_path / "qwen3.gguf"), "BPE")
    assert ids("<|im_start|>a cat<think>") == [words.index(w) for w in ("<|im_start|>", "a", "Ġcat", "<think>")]
    assert ids("e\u0301") == ids("\u00e9") == [words.index(letters[byte]) for byte in "\u00e9".encode()]
    (tmp_path / "other.gguf").write_bytes(File([], values | {"tokenizer.ggml.pre": string("llama-bpe")}).packed())
    with pytest.raises(VocabularyError, match="no whole vocabulary of byte pairs that is cut as qwen2"):
        load_vocabulary(file_id(tmp_path / "other.gguf"), "BPE")


def test_a_file_without_a_tokenizer_in_it_says_so(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(VocabularyError, match="found no tokenizer in it, expected tekken_model or spiece_model"):
        load_vocabulary(file_id(tmp_path / "w.safetensors"), "BPE")
    save_file({"tekken_model": torch.zeros(2, dtype=torch.uint8)}, tmp_path / "w.safetensors")
    with pytest.raises(VocabularyError, match=r"is no tekken\.json of Mistral's, or damaged"):
        load_vocabulary(file_id(tmp_path / "w.safetensors"), "BPE")


def test_a_sentencepiece_model_among_weights_gives_its_ids(tmp_path: Path) -> None:
    kept = torch.frombuffer(bytearray(SPIECE.read_bytes()), dtype=torch.uint8)
    save_file({"spiece_model": kept}, tmp_path / "t5xxl.safetensors")
    ids = load_vocabulary(file_id(tmp_path / "t5xxl.safetensors"), "Unigram")
    assert ids("a cat on a mat") == IDS["a cat on a mat"]


WRONG: dict[str, tuple[str, bytes, str, str]] = {
    "a tokenizer of another kind": (
        "spiece.model",
        SPIECE.read_bytes(),
        "WordPiece",
        "found a Unigram tokenizer, expected",
    ),
    "a file of another kind": ("tokenizer.zip", b"", "Unigram", r"found \.zip, expected one of \.json"),
    "no JSON": ("tokenizer.json", b"{", "Unigram", "no tokenizer"),
    "no model": ("spiece.model", b"\x0a\xff\xff", "Unigram", "is no model of SentencePiece, or damaged"),
    "an empty file": ("spiece.model", b"", "Unigram", "is no Unigram model of SentencePiece"),
    "no words of BERT's": ("vocab.txt", b"a\nb\n", "WordPiece", r"found no line \[UNK\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_is_no_such_tokenizer_is_refused_with_its_name(case: str, tmp_path: Path) -> None:
    name, content, model, message = WRONG[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VocabularyError, match=message) as caught:
        load_vocabulary(file_id(tmp_path / name), model)
    assert name in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_model_is_read_or_refused_and_never_crashes(data: Any) -> None:
    content = bytearray(SPIECE.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        read_unigram(bytes(content[: data.draw(st.integers(0, len(content)))]), "spiece.model")
