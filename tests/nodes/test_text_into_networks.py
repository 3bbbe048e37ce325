"""Text encoders with the networks that they are for: whole runs of SD3 and FLUX, and pairings that are wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from safetensors.torch import save_file

from latentgraph.diffusion.families.text_sets import KLEIN_TEXT, DecoderReading
from latentgraph.diffusion.families.text_specs import DecoderSpec
from latentgraph.diffusion.layouts.text_layout import text_layout
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.graph import Context, Graph, InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.autoencoders import VAEDecode
from latentgraph.nodes.latents import EmptyLatent
from latentgraph.nodes.loading import LoadCheckpoint, LoadDiffusionModel
from latentgraph.nodes.sampling import KSampler
from latentgraph.nodes.saving import SaveCheckpoint
from latentgraph.nodes.text import TextEncode
from latentgraph.nodes.text_encoders import LoadTextEncoder, LoadTextEncoders

(LAYOUT,) = KLEIN_TEXT.encoders
assert isinstance(LAYOUT.reading, DecoderReading)
KLEIN = DecoderSpec(
    key="qwen3",
    hidden=2560,
    read=LAYOUT.reading.read,
    heads=4,
    key_heads=2,
    head_width=16,
    intermediate=24,
    vocab=151700,
    query_norm=True,
    rope_base=LAYOUT.reading.rope_base,
    epsilon=LAYOUT.reading.epsilon,
    dialogue=LAYOUT.reading.dialogue,
)
SETS = {"sd3": ("clip_l", "clip_g", "t5xxl"), "flux": ("clip_l", "t5xxl"), "sdxl": ("clip_l", "clip_g")}


@pytest.fixture(scope="module")
def folder(tiny_dits: ModuleType, tiny_texts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoders apart, networks with a VAE and no text, and an SD3 checkpoint with all of it."""
    place = tiny_texts.write_encoders(tmp_path_factory.mktemp("text"))
    save_file(tiny_dits.checkpoint(tiny_dits.FLUX, vae_prefix="vae."), place / "flux.safetensors")
    sd3 = tiny_dits.checkpoint(tiny_dits.SD3, vae_prefix="first_stage_model.")
    save_file(sd3, place / "sd3.safetensors")
    save_file(sd3 | in_checkpoint(tiny_texts), place / "sd3_with_text.safetensors")
    return place


def in_checkpoint(tiny_texts: ModuleType) -> dict[str, Any]:
    models = {"clip_l": tiny_texts.clip_l(), "clip_g": tiny_texts.clip_g(), "t5xxl": tiny_texts.t5()}
    return {
        key: tensor
        for name, model in models.items()
        for key, tensor in tiny_texts.weights(model, f"text_encoders.{name}.transformer.").items()
    }


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_picture_is_made_from_files_of_network_and_encoders(family: str, folder: Path, context: Context) -> None:
    loaded = LoadCheckpoint(file=folder / f"{family}.safetensors").run(context)
    assert loaded.clip is None
    files = dict(
        zip(("first", "second", "third"), (folder / f"{key}.safetensors" for key in SETS[family]), strict=False)
    )
    clip = LoadTextEncoders(**files, family=family).run(context)
    prompt, nothing = (TextEncode(clip=clip, text=text).run(context) for text in ("a cat", ""))
    latent = KSampler(
        model=loaded.model,
        positive=prompt,
        negative=nothing,
        latent=EmptyLatent(width=32, height=32).run(context),
        seed=1,
        steps=2,
        cfg=2.0,
        scheduler="simple",
    ).run(context)
    assert VAEDecode(vae=loaded.vae, latent=latent).run(context).pixels.isfinite().all()


def test_a_checkpoint_with_its_encoders_saved_and_loaded_says_the_same(
    folder: Path, tiny_texts: ModuleType, tmp_path: Path
) -> None:
    context = Context(resources={WeightMemory: WeightMemory(precision="exact")}, output_dir=tmp_path)
    loaded = LoadCheckpoint(file=folder / "sd3_with_text.safetensors").run(context)
    SaveCheckpoint(model=loaded.model, clip=loaded.clip, vae=loaded.vae, prefix="again", format="float32").run(context)
    (saved,) = tmp_path.glob("*.safetensors")
    (tmp_path / "spiece.model").write_bytes(tiny_texts.SPIECE.read_bytes())
    again = LoadCheckpoint(file=saved).run(context)
    first, second = (
        TextEncode(clip=clip, text="a (cat:1.2)").run(context).entries[0] for clip in (loaded.clip, again.clip)
    )
    assert first.embedding.equal(second.embedding)
    assert first.pooled.equal(second.pooled)


RUN = """
  network: {type: LoadCheckpoint, file: <folder>/<network>.safetensors}
  text: {type: LoadTextEncoders, family: <family>, <files>}
  prompt: {type: TextEncode, clip: $text, text: a cat}
  empty: {type: EmptyLatent, width: 64, height: 64}
  last: {type: KSampler, model: $network.model, positive: $prompt, negative: $prompt, latent: $empty}
"""
WRONG = {
    (
        "flux",
        "sd3",
    ): "is text encoded for the flux family (24 numbers for all of it), but input 'model' is of the sd3 family",
    (
        "sd3",
        "flux",
    ): "is text encoded for the sd3 family (40 numbers for all of it), but input 'model' is of the flux family",
    (
        "sdxl",
        "sd3",
    ): "is text encoded for the sdxl family (16 numbers for all of it), but input 'model' is of the sd3 family",
}


@pytest.mark.parametrize(("family", "network"), [*WRONG, ("sd3", "sd3"), ("flux", "flux")])
def test_text_of_one_family_is_refused_for_the_network_of_another(family: str, network: str, folder: Path) -> None:
    names = zip(("first", "second", "third"), SETS[family], strict=False)
    files = ", ".join(f"{place}: {folder}/{name}.safetensors" for place, name in names)
    nodes = RUN.replace("<files>", files).replace("<family>", family).replace("<network>", network)
    found = problems(nodes, folder)
    wanted = WRONG.get((family, network))
    assert len(found) == (2 if wanted else 0), found
    assert all(wanted in message for message in found if wanted)


def test_a_language_model_goes_with_flux2_and_not_into_its_checkpoints(
    tiny: ModuleType, tiny_dits: ModuleType, tiny_texts: ModuleType, context: Context, tmp_path: Path
) -> None:
    shapes = {f"model.{key}": shape for key, shape in text_layout(replace(KLEIN, hidden=16)).items()}
    tiny.write(tmp_path / "qwen3.safetensors", tiny.fill(shapes))
    tiny_texts.vocabulary("qwen3").save(str(tmp_path / "tokenizer.json"))
    save_file(tiny_dits.original(tiny_dits.FLUX2, tiny_dits.weights(tiny_dits.FLUX2)), tmp_path / "flux2.safetensors")
    nodes = """
  network: {type: LoadDiffusionModel, file: <folder>/flux2.safetensors}
  text: {type: LoadTextEncoder, file: <folder>/qwen3.safetensors}
  prompt: {type: TextEncode, clip: $text, text: a cat}
  empty: {type: EmptyLatent, width: 64, height: 64}
  last: {type: KSampler, model: $network, positive: $prompt, negative: $prompt, latent: $empty}
"""
    assert problems(nodes, tmp_path) == []
    (message,) = problems(f"{nodes}  save: {{type: SaveCheckpoint, model: $network, clip: $text}}\n", tmp_path)
    assert "input 'clip' has no place in checkpoints of the flux2 family; save without it" in message
    model = LoadDiffusionModel(file=tmp_path / "flux2.safetensors").run(context)
    clip = LoadTextEncoder(file=tmp_path / "qwen3.safetensors").run(context)
    prompt = TextEncode(clip=clip, text="a cat").run(context)
    empty = EmptyLatent(width=72, height=64).run(context)  # FLUX.2's cells have 16 pixels: 8 of them are left over
    facts = graph_of(nodes.replace("width: 64", "width: 72"), tmp_path).nodes["last"].facts["latent"]
    assert (facts["width"], facts["height"]) == (64, 64)
    sampled = KSampler(
        model=model, positive=prompt, negative=prompt, latent=empty, seed=1, steps=2, cfg=1.0, scheduler="simple"
    ).run(context)
    assert sampled.samples.shape == (1, 128, 4, 4)
    assert sampled.samples.isfinite().all()


def test_a_checkpoints_text_without_its_tokenizer_is_missed_where_it_is_used(
    folder: Path, tiny_texts: ModuleType, tmp_path: Path
) -> None:
    lone = tmp_path / "sd3.safetensors"
    lone.write_bytes((folder / "sd3_with_text.safetensors").read_bytes())
    nodes = """
  network: {type: LoadCheckpoint, file: <folder>/sd3.safetensors}
  last: {type: TextEncode, clip: $network.clip, text: a cat}
"""
    (message,) = problems(nodes, tmp_path)
    assert "the tokenizer of t5xxl is not there" in message
    (tmp_path / "spiece.model").write_bytes(tiny_texts.SPIECE.read_bytes())
    assert problems(nodes, tmp_path) == []


def graph_of(nodes: str, folder: Path) -> Graph:
    text = f"latentgraph: 1\nnodes:\n{nodes.replace('<folder>', str(folder))}\noutputs: {{last: $last}}\n"
    return build_graph(parse_document(text), default_registry())


def problems(nodes: str, folder: Path) -> list[str]:
    found = []
    try:
        graph_of(nodes, folder)
    except InvalidWorkflow as error:
        found = [problem for problem in error.problems if problem.severity == "error"]
    assert all(problem.place.mark is not None for problem in found)
    return [problem.message for problem in found]
