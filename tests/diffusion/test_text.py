"""Prompts through small CLIP text models with random weights, against ComfyUI 0.8.0 and transformers' own forward."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from latentgraph.diffusion.families.text_joins import ClipSpec, Slot, side_by_side
from latentgraph.diffusion.families.text_specs import ClipTextSpec, TextEncoderSpec
from latentgraph.diffusion.text.encoding import encode_chunks, encode_prompt
from latentgraph.diffusion.text.tokens import Chunk, tokenize
from latentgraph.diffusion.text.vocabularies import clip_ids
from latentgraph.diffusion.types import Clip

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "clip_encode.json").read_text(encoding="utf-8"))
SD1 = ClipTextSpec(
    key="clip_l",
    width=32,
    layers=4,
    heads=4,
    intermediate=64,
    vocab=49408,
    positions=77,
    activation="quick_gelu",
    pad_id=49407,
    default_layer=-1,
    final_norm_on_hidden=True,
    pooled="state",
    projection_width=32,
)
SDXL = replace(SD1, default_layer=-2, final_norm_on_hidden=False, pooled="projected")
CASES: dict[str, tuple[str, ClipTextSpec, int | None]] = {
    'plain "a cat"': ("a cat", SD1, None),
    'weighted "a (cat:1.3)"': ("a (cat:1.3)", SD1, None),
    'two chunks ("cat " * 80)': ("cat " * 80, SD1, None),
    'clip skip -2 (final LN applied) "a cat"': ("a cat", SD1, -2),
    'clip skip -1 "a cat"': ("a cat", SD1, -1),
    'SDXL-style: hidden -2, no final LN, projected pooled, "a (cat:1.3)"': ("a (cat:1.3)", SDXL, None),
    'pad token 0 "a (cat:1.3)"': ("a (cat:1.3)", replace(SD1, pad_id=0), None),
    'fp16 weights "a (cat:1.3)"': ("a (cat:1.3)", SD1, None),
    'negative weight "a (cat:-0.5)"': ("a (cat:-0.5)", SD1, None),
}


@pytest.fixture(scope="module")
def model() -> CLIPTextModelWithProjection:
    return make_model(width=32)


@pytest.mark.parametrize("case", VECTORS)
def test_encoding_is_that_of_the_reference(case: str, model: CLIPTextModelWithProjection) -> None:
    prompt, spec, layer = CASES[case]
    if case.startswith("fp16"):
        model = make_model(width=32)
        model.load_state_dict({key: weight.half().float() for key, weight in model.state_dict().items()})
    wanted = VECTORS[case]
    encoded = encode_chunks(model, chunks_of(prompt, spec), spec, layer=layer)
    assert list(encoded.states.shape) == wanted["shape"]
    for row in (1, 2, 76):
        close(encoded.states[0, row, :6], wanted[f"row{row}_first6"])
    assert float(encoded.states.abs().mean()) == pytest.approx(wanted["mean_abs"], abs=2e-6)
    assert encoded.pooled is not None
    close(encoded.pooled[0, :6], wanted["pooled_first6"])


@pytest.mark.parametrize("layer", [-1, -2, -4])
def test_hidden_layers_are_bit_for_bit_those_of_transformers(layer: int, model: CLIPTextModelWithProjection) -> None:
    chunks = chunks_of("a cat on a mat", SDXL)
    encoded = encode_chunks(model, chunks, SDXL, layer=layer)
    with torch.no_grad():
        output = model(torch.tensor([[token.value for token in chunk] for chunk in chunks]), output_hidden_states=True)
    assert torch.equal(encoded.states, output.hidden_states[layer])
    assert torch.equal(encoded.pooled, output.text_embeds)


def test_a_layer_before_the_first_means_the_final_normed_state(model: CLIPTextModelWithProjection) -> None:
    chunks = chunks_of("a cat", SDXL)
    assert torch.equal(encode_chunks(model, chunks, SDXL, layer=-5).states, encode_chunks(model, chunks, SD1).states)


def test_a_layer_that_counts_from_the_front_is_refused(model: CLIPTextModelWithProjection) -> None:
    with pytest.raises(ValueError, match="layer is 0; expected -1"):
        encode_chunks(model, chunks_of("", SDXL), SD1, layer=0)


def test_an_embedding_equal_to_a_word_gives_what_the_word_gives(model: CLIPTextModelWithProjection) -> None:
    word = model.get_input_embeddings().weight[2368].detach()  # "cat"
    embedded = encode_prompt(clip_of(sd1=model), "a (embedding:tv:1.3)", find_vectors=lambda *_: word.unsqueeze(0))
    spelt = encode_prompt(clip_of(sd1=model), "a (cat:1.3)")
    assert torch.equal(embedded.conditioning.entries[0].embedding, spelt.conditioning.entries[0].embedding)
    assert embedded.missing == ()


def test_an_embedding_of_another_width_counts_as_missing(model: CLIPTextModelWithProjection) -> None:
    encoded = encode_prompt(clip_of(sd1=model), "a embedding:tv", find_vectors=lambda *_: torch.zeros(1, 768))
    assert encoded.missing == ("tv",)


def test_two_encoders_lie_side_by_side_and_the_projected_one_pools(model: CLIPTextModelWithProjection) -> None:
    clip = clip_of(sdxl_l=model, sdxl_g=make_model(width=48))
    (condition,) = encode_prompt(clip, "a (cat:1.3)").conditioning.entries
    assert condition.embedding.shape == (1, 77, 32 + 48)
    assert condition.pooled is not None
    assert condition.pooled.shape == (1, 32)
    close(condition.embedding[0, 2, :6], VECTORS[next(case for case in CASES if "SDXL" in case)]["row2_first6"])


def test_the_shorter_of_two_encodings_limits_the_length(model: CLIPTextModelWithProjection) -> None:
    def only_l(name: str, spec: TextEncoderSpec) -> torch.Tensor | None:
        return torch.zeros(80, 32) if spec.key == "clip_l" else None

    clip = clip_of(sdxl_l=model, sdxl_g=make_model(width=48))
    (condition,) = encode_prompt(clip, "embedding:long", find_vectors=only_l).conditioning.entries
    assert condition.embedding.shape == (1, 77, 80)


def test_a_model_without_projection_pools_its_end_state() -> None:
    plain = CLIPTextModel(config(32)).eval()
    encoded = encode_chunks(plain, chunks_of("a", SDXL), replace(SD1, projection_width=None))
    assert torch.equal(encoded.pooled, encoded.states[:, 2])


def test_half_precision_models_give_float32(model: CLIPTextModelWithProjection) -> None:
    half = make_model(width=32).to(torch.bfloat16)
    chunks = chunks_of("a (cat:1.3)", SD1)
    encoded = encode_chunks(half, chunks, SD1)
    assert encoded.states.dtype == torch.float32
    assert float((encoded.states - encode_chunks(model, chunks, SD1).states).abs().mean()) < 0.02


def chunks_of(prompt: str, spec: ClipTextSpec) -> tuple[Chunk, ...]:
    return tokenize(prompt, spec.framing, ids=clip_ids).chunks


def close(actual: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=0.0, atol=1e-6)


def config(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=32,
        hidden_act="quick_gelu",
        attn_implementation="eager",
    )


def make_model(*, width: int) -> CLIPTextModelWithProjection:
    """The model of clip_encode.json: weights of 0.05 randn in sorted order of their names, norms around 1."""
    model = CLIPTextModelWithProjection(config(width)).eval()
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, weight in sorted(model.state_dict().items()):
        centre = 1.0 if "norm" in key and key.endswith("weight") else 0.0
        weights[key] = 0.05 * torch.randn(weight.shape, generator=generator) + centre
    model.load_state_dict(weights)
    return model


def clip_of(**models: CLIPTextModelWithProjection) -> Clip:
    """A Clip around models in memory; the name tells the spec: sd1, sdxl_l, sdxl_g."""
    keys: dict[str, Any] = {"sd1": "clip_l", "sdxl_l": "clip_l", "sdxl_g": "clip_g"}
    bases = {"sd1": SD1, "sdxl_l": replace(SDXL, pooled=None), "sdxl_g": replace(SDXL, pad_id=0)}
    specs = [replace(bases[name], key=keys[name], width=model.config.hidden_size) for name, model in models.items()]

    @contextmanager
    def use() -> Iterator[dict[str, CLIPTextModelWithProjection]]:
        yield {keys[name]: model for name, model in models.items()}

    weights: Any = SimpleNamespace(use=use)
    join = side_by_side(*(Slot(spec.key, spec.width, spec.pooled_width) for spec in specs))
    return Clip(ClipSpec("test", tuple(specs), join), weights)
