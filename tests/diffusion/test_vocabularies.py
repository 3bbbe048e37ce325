"""Tokenizers from files: SentencePiece's, BERT's and the tokenizers library's, against the libraries that made them."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer

from latentgraph.diffusion.checkpoints.parts import file_id
from latentgraph.diffusion.text.sentencepiece import read_unigram
from latentgraph.diffusion.text.vocabularies import VocabularyError, load_vocabulary

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
