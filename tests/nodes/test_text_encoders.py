"""Text encoders as nodes: opened from files of their own, encoding with words for each, and refused before a weight is read."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from latentgraph.cli.folders import make_resolver
from latentgraph.graph import Context, Fingerprints, Graph, InvalidWorkflow, build_graph, cache_keys, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.text import ClipSkip, TextEncode
from latentgraph.nodes.text_encoders import LoadTextEncoder, LoadTextEncoders, TextEncodeFlux, TextEncodeSD3


@pytest.fixture(scope="module")
def files(tiny_texts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_texts.write_encoders(tmp_path_factory.mktemp("models") / "text_encoders")


def test_flux_text_has_words_for_each_encoder_and_carries_its_guidance(files: Path, context: Context) -> None:
    clip = LoadTextEncoders(first=files / "t5xxl.safetensors", second=files / "clip_l.safetensors").run(context)
    encoded = TextEncodeFlux(clip=clip, clip_l="a cat", t5xxl="a cat on a mat", guidance=2.0).run(context)
    (condition,) = encoded.entries
    (plain,) = TextEncode(clip=clip, text="a cat").run(context).entries
    assert condition.guidance == 2.0
    assert condition.embedding.shape == (1, 256, 48)
    assert torch.equal(condition.pooled, plain.pooled)
    assert not torch.equal(condition.embedding, plain.embedding)


def test_sd3_text_passes_encoders_without_words_over_unless_told_otherwise(files: Path, context: Context) -> None:
    names = ("clip_l", "clip_g", "t5xxl")
    first, second, third = (files / f"{name}.safetensors" for name in names)
    clip = LoadTextEncoders(first=first, second=second, third=third).run(context)
    lengths = {}
    for padding in ("none", "empty_prompt"):
        node = TextEncodeSD3(clip=clip, clip_l="", clip_g="", t5xxl="a cat", empty_padding=padding)
        lengths[padding] = node.run(context).entries[0].embedding.shape[1]
    assert lengths == {"none": 77, "empty_prompt": 154}


def test_a_lone_clip_l_is_sd1s_and_can_skip_layers(files: Path, context: Context) -> None:
    clip = LoadTextEncoder(file=files / "clip_l.safetensors").run(context)
    assert clip.spec.family == "sd1"
    last = TextEncode(clip=clip, text="a cat").run(context).entries[0].embedding
    inner = TextEncode(clip=ClipSkip(clip=clip, layer=-2).run(context), text="a cat").run(context).entries[0].embedding
    assert not torch.equal(last, inner)


FLUX = """
  load: {type: LoadTextEncoders, first: <files>/clip_l.safetensors, second: <files>/t5xxl.safetensors, family: <family>}
  last: {type: TextEncodeFlux, clip: $load, clip_l: a, t5xxl: a cat}
"""


def test_what_encoders_give_is_known_from_their_headers(files: Path) -> None:
    graph = build(FLUX.replace("<family>", "auto"), files)
    facts = graph.nodes["last"].facts["conditioning"]
    assert (facts["family"], facts["text_width"]) == ("flux", 48)
    assert graph.nodes["load"].companions == {"t5xxl": files / "spiece.model"}


def test_the_tokenizer_is_part_of_the_key(tiny_texts: ModuleType, tmp_path: Path) -> None:
    folder = tiny_texts.write_encoders(tmp_path)
    keys = []
    for _ in range(2):
        keys.append(cache_keys(build(FLUX.replace("<family>", "flux"), folder), Fingerprints())["last"])
        (folder / "spiece.model").write_bytes(b"another")
    assert keys[0] != keys[1]


def test_a_tokenizer_among_the_models_is_found_wherever_the_encoder_is(tiny_texts: ModuleType, tmp_path: Path) -> None:
    folder = tiny_texts.write_encoders(tmp_path / "elsewhere" / "deep" / "down", tokenizer=False)
    shelf = tmp_path / "models" / "tokenizers"
    shelf.mkdir(parents=True)
    (shelf / "t5.model").write_bytes(tiny_texts.SPIECE.read_bytes())
    graph = build(FLUX.replace("<family>", "flux"), folder, models=tmp_path / "models")
    assert graph.nodes["load"].companions == {"t5xxl": shelf / "t5.model"}


def test_without_a_tokenizer_the_document_is_wrong_and_the_cure_is_said(tiny_texts: ModuleType, tmp_path: Path) -> None:
    message = problem(FLUX.replace("<family>", "flux"), tiny_texts.write_encoders(tmp_path, tokenizer=False))
    assert "t5xxl.safetensors: the tokenizer of t5xxl is not there (tokenizer.json or spiece.model)" in message
    assert "huggingface.co/google/t5-v1_1-xxl" in message
    assert "tokenizers/ of the models folder, as t5.model" in message


WRONG = {
    "T5 missing for FLUX": (
        "{type: LoadTextEncoder, file: <files>/clip_l.safetensors, family: flux}",
        "found clip_l alone, expected clip_l and t5xxl of FLUX.1. Name the file of t5xxl as well",
    ),
    "an encoder twice": (
        "{type: LoadTextEncoders, first: <files>/clip_l.safetensors, second: <files>/clip_l.safetensors}",
        "found clip_l, as in clip_l.safetensors",
    ),
    "SDXL's encoders for SD1": (
        "{type: LoadTextEncoders, family: stable_diffusion, first: <files>/clip_l.safetensors, "
        "second: <files>/clip_g.safetensors}",
        "expected clip_l of Stable Diffusion 1.x",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_encoders_that_do_not_go_together_are_found_before_a_run(case: str, files: Path) -> None:
    node, message = WRONG[case]
    nodes = f"  load: {node}\n  last: {{type: TextEncode, clip: $load, text: a cat}}"
    assert message in problem(nodes, files)


@pytest.mark.parametrize("node", ["TextEncodeFlux", "TextEncodeSD3"])
def test_encoders_of_another_family_are_refused_where_words_for_each_are_given(node: str, files: Path) -> None:
    more = ", clip_g: a" if node == "TextEncodeSD3" else ""
    nodes = f"""
  load: {{type: LoadTextEncoder, file: <files>/clip_l.safetensors}}
  last: {{type: {node}, clip: $load, clip_l: a, t5xxl: a{more}}}
"""
    assert "has clip_l, of the sd1 family, not those of" in problem(nodes, files)


def test_of_encoders_one_of_which_is_not_there_nothing_more_is_said(files: Path) -> None:
    nodes = """
  load: {type: LoadTextEncoders, first: <files>/clip_l.safetensors, second: <files>/t6.safetensors, family: flux}
  last: {type: TextEncode, clip: $load, text: a cat}
"""
    assert problem(nodes, files).startswith("node 'load' (LoadTextEncoders): input 'second': there is no text_encoder")


def build(nodes: str, files: Path, *, models: Path | None = None) -> Graph:
    document = parse_document(
        f"latentgraph: 1\nnodes:\n{nodes.replace('<files>', str(files))}\noutputs: {{last: $last}}\n"
    )
    return build_graph(document, default_registry(), resolver=make_resolver(models or files / "nowhere"))


def problem(nodes: str, files: Path) -> str:
    with pytest.raises(InvalidWorkflow) as caught:
        build(nodes, files)
    errors = [problem for problem in caught.value.problems if problem.severity == "error"]
    assert len(errors) == 1, str(caught.value)
    assert errors[0].place.mark is not None
    return errors[0].message
