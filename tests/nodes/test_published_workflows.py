"""Published files of one family at their true size go together in a workflow, and others don't, before a weight is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from latentgraph.graph import InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry

WORKFLOW = """
latentgraph: 1
nodes:
  network: {type: LoadDiffusionModel, file: FOLDER/NETWORK.safetensors}
  text: {type: LoadTextEncoders, FILES}
  vae: {type: LoadVAE, file: FOLDER/VAE.safetensors}
  prompt: {type: TextEncode, clip: $text, text: a cat}
  empty: {type: EmptyLatent, width: 1024, height: 768}
  sample: {type: KSampler, model: $network, positive: $prompt, negative: $prompt, latent: $empty, cfg: 1}
  picture: {type: VAEDecode, vae: $vae, latent: $sample}
outputs: {picture: $picture}
"""


@pytest.fixture(scope="module")
def folder(
    tiny: ModuleType, tiny_texts: ModuleType, published: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Headers alone: some 200 GB of files that take no room."""
    folder = tmp_path_factory.mktemp("published")
    kl = tiny.vae_shapes(128, (1, 2, 4, 4), 2, latent=32)
    clip_g = published.below("text_model.", tiny.clip_shapes(1280, 32)) | {"text_projection.weight": (1280, 1280)}
    files: dict[str, Callable[[], dict[str, tuple[int, ...]]]] = {
        "flux1-dev": published.flux,
        "flux2-dev": lambda: published.flux2(6144, 8, 48, 15360, guidance=True),
        "klein-4b": lambda: published.flux2(3072, 5, 20, 7680, guidance=False),
        "klein-9b": lambda: published.flux2(4096, 8, 24, 12288, guidance=False),
        "sd3.5_large": lambda: published.mmdit(2432, 38, side=192, norms=True),
        "ae": lambda: {k: s for k, s in tiny.vae_shapes(128, blocks=2, latent=16).items() if "quant" not in k},
        "flux2-vae": lambda: published.flux2_vae(kl),
        "clip_l": lambda: (
            published.below("text_model.", tiny.clip_shapes(768, 12)) | {"text_projection.weight": (768, 768)}
        ),
        "clip_g": lambda: clip_g,
        "t5xxl": published.t5_xxl,
        "mistral": lambda: published.language_model(5120, 30, 32768, 131072, query_norm=False, whole=False),
        "qwen_3_4b": lambda: published.language_model(2560, 36, 9728, 151936, query_norm=True),
        "qwen_3_8b": lambda: published.language_model(4096, 36, 12288, 151936, query_norm=True),
    }
    for name, shapes in files.items():
        published.write(folder / f"{name}.safetensors", shapes())
    (folder / "t5xxl.spiece.model").write_bytes(tiny_texts.SPIECE.read_bytes())
    for name, key in (("mistral", "mistral"), ("qwen_3_4b", "qwen3"), ("qwen_3_8b", "qwen3")):
        tiny_texts.vocabulary(key).save(str(folder / f"{name}.tokenizer.json"))
    return folder


def problems(folder: Path, network: str, texts: tuple[str, ...], vae: str) -> list[str]:
    places = zip(("first", "second", "third"), texts, strict=False)
    loader = ", ".join(f"{place}: FOLDER/{name}.safetensors" for place, name in places)
    text = WORKFLOW.replace("FILES", loader).replace("NETWORK", network).replace("VAE.", f"{vae}.")
    if len(texts) == 1:
        text = text.replace("LoadTextEncoders", "LoadTextEncoder").replace("first:", "file:")
    try:
        build_graph(parse_document(text.replace("FOLDER", str(folder))), default_registry())
    except InvalidWorkflow as error:
        return [problem.message for problem in error.problems if problem.severity == "error"]
    return []


FITTING = {
    "FLUX.1 dev": ("flux1-dev", ("clip_l", "t5xxl"), "ae"),
    "SD3.5 large": ("sd3.5_large", ("clip_l", "clip_g", "t5xxl"), "ae"),
    "FLUX.2 dev": ("flux2-dev", ("mistral",), "flux2-vae"),
    "FLUX.2 klein 4B": ("klein-4b", ("qwen_3_4b",), "flux2-vae"),
    "FLUX.2 klein 9B": ("klein-9b", ("qwen_3_8b",), "flux2-vae"),
}


@pytest.mark.parametrize("name", FITTING)
def test_published_files_of_a_family_go_together(name: str, folder: Path) -> None:
    assert problems(folder, *FITTING[name]) == []


WRONG = {
    "the text of another klein": (
        "klein-4b",
        ("qwen_3_8b",),
        "flux2-vae",
        "which takes 7680; its sizes have text encoders of their own",
    ),
    "FLUX.1's text for FLUX.2": ("flux2-dev", ("clip_l", "t5xxl"), "flux2-vae", "text encoded for the flux family"),
    "FLUX.1's autoencoder for FLUX.2": ("flux2-dev", ("mistral",), "ae", "128 channels"),
    "FLUX.2's autoencoder for FLUX.1": ("flux1-dev", ("clip_l", "t5xxl"), "flux2-vae", "16 channels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_published_files_of_different_families_are_refused(name: str, folder: Path) -> None:
    network, texts, vae, words = WRONG[name]
    found = problems(folder, network, texts, vae)
    assert found
    assert all(words in message for message in found), found
