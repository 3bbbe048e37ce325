"""Nodes that show a network pictures, and what they refuse before anything runs."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image as Pillow

from latentgraph.diffusion.types import Image, Latent
from latentgraph.graph import Context, InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.image_prompts import ApplyIPAdapter, LoadIPAdapter
from latentgraph.nodes.sampling import KSampler
from latentgraph.nodes.text import TextEncode
from latentgraph.nodes.vision import LoadClipVision


@pytest.fixture(scope="module")
def files(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IP adapters of two families, two vision towers and a picture."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    folder = tmp_path_factory.mktemp("files")
    for name, projection in (("tower", 48), ("other_tower", 32)):
        config = CLIPVisionConfig(
            hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=28, patch_size=14,
            projection_dim=projection,
        )  # fmt: skip
        tiny.write_diffusers(folder / name, CLIPVisionModelWithProjection(config))
    for name, widths, context in (("sd1", tiny.SD1_ATTENTIONS, 64), ("sdxl", tiny.SDXL_ATTENTIONS, 128)):
        tiny.write_ip_adapter(folder / f"{name}.safetensors", "base", widths, context=context, picture=48)
    Pillow.new("RGB", (64, 48), (200, 40, 40)).save(folder / "picture.png")
    return folder


def test_a_picture_changes_what_is_painted(sd1: Any, context: Context, files: Path) -> None:
    text = TextEncode(clip=sd1.clip, text="a cat").run(context)
    model = ApplyIPAdapter(
        model=sd1.model,
        ip_adapter=LoadIPAdapter(file=files / "sd1.safetensors").run(context),
        clip_vision=LoadClipVision(file=files / "tower").run(context),
        image=Image(torch.rand(1, 30, 40, 3, generator=torch.Generator().manual_seed(0))),
    ).run(context)
    latent = Latent(torch.zeros(1, 4, 8, 8))
    found, plain = (
        KSampler(model=each, positive=text, negative=text, latent=latent, steps=2).run(context).samples
        for each in (model, sd1.model)
    )
    assert not torch.allclose(found, plain, atol=1e-3)


NODES = """
  load: {type: LoadCheckpoint, file: <model>}
  adapter: {type: LoadIPAdapter, file: <adapter>}
  tower: {type: LoadClipVision, file: <tower>}
  picture: {type: LoadImage, file: <files>/picture.png}
  show: {type: ApplyIPAdapter, model: $load.model, ip_adapter: $adapter, clip_vision: $tower, image: $picture.image, <options>}
  text: {type: TextEncode, clip: $load.clip, text: a cat}
  empty: {type: EmptyLatent, width: 64, height: 64}
  last: {type: KSampler, model: $show, positive: $text, negative: $text, latent: $empty}
"""


def build(options: str = "weight: 0.5", **names: Path) -> Any:
    nodes = NODES.replace("<options>", options)
    for name, path in names.items():
        nodes = nodes.replace(f"<{name}>", str(path))
    return build_graph(
        parse_document(f"latentgraph: 1\nnodes:\n{nodes}\noutputs: {{last: $last}}\n"), default_registry()
    )


def problem(options: str = "weight: 0.5", **names: Path) -> str:
    with pytest.raises(InvalidWorkflow) as caught:
        build(options, **names)
    (only,) = caught.value.problems
    assert only.place.mark is not None
    return only.message


def test_what_fits_is_welcome_and_facts_flow_through(files: Path, tiny_sd1: Path, tiny_sdxl: Path) -> None:
    for model, adapter in ((tiny_sd1, "sd1"), (tiny_sdxl, "sdxl")):
        names = {"model": model, "adapter": files / f"{adapter}.safetensors", "tower": files / "tower", "files": files}
        assert build(**names).nodes["show"].facts["model"]["family"] == adapter


@pytest.mark.parametrize(("checkpoint", "adapter"), [("tiny_sd1", "sdxl"), ("tiny_sdxl", "sd1"), ("tiny_sd2", "sd1")])
def test_every_wrong_pairing_is_an_error_of_the_document(
    checkpoint: str, adapter: str, files: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(checkpoint)
    message = problem(model=model, adapter=files / f"{adapter}.safetensors", tower=files / "tower", files=files)
    assert "'ip_adapter' is an IP adapter for" in message
    assert f"use one that was made for models of the {checkpoint.removeprefix('tiny_')} family" in message


def test_another_tower_and_an_empty_range_are_errors_of_the_document(files: Path, tiny_sd1: Path) -> None:
    names = {"model": tiny_sd1, "adapter": files / "sd1.safetensors", "files": files}
    assert "'clip_vision' gives CLIP's image embedding of 32 numbers" in problem(tower=files / "other_tower", **names)
    assert "would never be seen" in problem("start: 0.5, end: 0.4", tower=files / "tower", **names)


def test_a_checkpoint_is_no_ip_adapter(files: Path, tiny_sd1: Path) -> None:
    message = problem(model=tiny_sd1, adapter=tiny_sd1, tower=files / "tower", files=files)
    assert "found a checkpoint, expected an IP adapter" in message
