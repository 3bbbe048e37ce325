"""Tokens, weights and chunks of prompts, against ComfyUI 0.8.0's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from latentgraph.diffusion.families.text_specs import CLIP_BEGIN, CLIP_END, Framing
from latentgraph.diffusion.text.tokens import Token, TokenizedPrompt, embedding_names, pack, tokenize
from latentgraph.diffusion.text.vocabularies import clip_ids

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "tokens.json").read_text(encoding="utf-8"))
CASES = [
    *((prompt, chunks) for key in ("clip_l", "clip_g", "clip_h(sd2)") for prompt, chunks in VECTORS[key].items()),
    *VECTORS["clip_l embedding"].items(),
    ("word " * 80, VECTORS['clip_l long: "word " repeated 80']),
    (VECTORS["clip_l boundary prompt"]["prompt"], VECTORS["clip_l boundary prompt"]["chunks"]),
]


CLIP_G = Framing(CLIP_BEGIN, CLIP_END, 0, chunk=77, least=77)


def find_tv(name: str) -> torch.Tensor | None:
    return torch.zeros(2, 768) if name == "tv" else None


@pytest.mark.parametrize(("prompt", "expected"), CASES)
def test_tokens_and_weights_are_those_of_the_reference(prompt: str, expected: list[dict[str, Any]]) -> None:
    pad_id = expected[0]["pad"]
    chunks = tokenize(prompt, replace(CLIP_G, pad=pad_id), ids=clip_ids, find_vectors=find_tv).chunks
    assert len(chunks) == len(expected)
    for chunk, wanted in zip(chunks, expected, strict=True):
        padding = wanted["len"] - len(wanted["tokens"])
        assert values(chunk) == wanted["tokens"] + [pad_id] * padding
        assert [token.weight for token in chunk] == pytest.approx(wanted["weights"] + [1.0] * padding)


def test_a_short_group_moves_whole_to_the_next_chunk() -> None:
    first, second = pack([[Token(1)] * 70, [Token(2, 1.5)] * 7], CLIP_G)
    assert values(first) == [CLIP_BEGIN, *[1] * 70, CLIP_END, *[0] * 5]
    assert values(second) == [CLIP_BEGIN, *[2] * 7, CLIP_END, *[0] * 68]
    assert second[1].weight == 1.5


def test_a_group_that_fills_a_chunk_exactly_needs_no_second_one() -> None:
    (chunk,) = pack([[Token(1)] * 75], CLIP_G)
    assert values(chunk) == [CLIP_BEGIN, *[1] * 75, CLIP_END]


def test_an_embedding_that_is_not_found_is_left_out_and_reported() -> None:
    tokenized = tokenize("a embedding:nope, b\nembedding:tv", CLIP_G, ids=clip_ids)
    assert tokenized.missing == ("nope", "tv")
    assert values(tokenized.chunks[0])[:5] == [CLIP_BEGIN, 320, 267, 321, CLIP_END]  # a , b


def test_a_name_with_a_comma_is_tried_before_the_name_without() -> None:
    found = tokenize(
        "embedding:tv, c", CLIP_G, ids=clip_ids, find_vectors=lambda name: torch.zeros(1, 4) if name == "tv," else None
    )
    assert values(found.chunks[0])[:4] == [CLIP_BEGIN, "emb", 322, CLIP_END]


def test_each_vector_keeps_its_place() -> None:
    tokenized = tokenize(
        "embedding:ab", CLIP_G, ids=clip_ids, find_vectors=lambda _: torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    )
    first, second = tokenized.chunks[0][1].value, tokenized.chunks[0][2].value
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    assert (first.tolist(), second.tolist()) == ([1.0, 2.0], [3.0, 4.0])


@pytest.mark.parametrize("prompt", ["(" * 100_000, "a" * 100_000, "\ud800", "\0", "<|endoftext|> a"])
def test_odd_prompts_give_chunks_of_the_right_length(prompt: str) -> None:
    tokenized: TokenizedPrompt = tokenize(prompt, CLIP_G, ids=clip_ids)
    assert {len(chunk) for chunk in tokenized.chunks} == {77}


def values(chunk: tuple[Token, ...]) -> list[object]:
    return [token.value if isinstance(token.value, int) else "emb" for token in chunk]


NAMED = {
    "a embedding:tv b": [("tv",)],
    "embedding:tv, c": [("tv,", "tv")],
    "(embedding:tv:1.2) d\nembedding:sub/other": [("tv",), ("sub/other",)],
    "xembedding:tv embedding:tv embedding:tv": [("tv",)],
    "nothing": [],
}


@pytest.mark.parametrize(("prompt", "names"), NAMED.items())
def test_the_embeddings_that_a_prompt_names_are_those_that_are_looked_up(
    prompt: str, names: list[tuple[str, ...]]
) -> None:
    looked_up: list[str] = []
    tokenize(prompt, CLIP_G, ids=clip_ids, find_vectors=looked_up.append)
    assert embedding_names(prompt) == names
    assert list(dict.fromkeys(looked_up)) == [name for candidates in names for name in candidates]
