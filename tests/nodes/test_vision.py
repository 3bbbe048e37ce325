"""Vision towers as nodes: handles without weights, embeddings, what is known of them beforehand, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image as Pillow
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from latentgraph.diffusion.types import ClipVisionOutput, Image
from latentgraph.graph import Context, Graph, InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.codec import TensorCodec
from latentgraph.nodes.vision import EncodeClipVision, LoadClipVision


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=28, patch_size=14,
        projection_dim=16,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("clip_vision") / "image_encoder"
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def test_pictures_become_embeddings_that_keep_in_a_cache(tower: Path, context: Context) -> None:
    vision = LoadClipVision(file=tower).run(context)
    output = EncodeClipVision(clip_vision=vision, image=Image(torch.rand(2, 40, 30, 3))).run(context)
    assert output.last_hidden.shape == output.penultimate.shape == (2, 5, 64)
    assert output.image_embeds.shape == (2, 16)
    packed = TensorCodec().pack(output)
    assert packed is not None
    kept = TensorCodec().unpack(packed)
    assert isinstance(kept, ClipVisionOutput)
    assert torch.equal(kept.image_embeds, output.image_embeds)


def test_what_a_tower_gives_is_known_from_its_header(tower: Path, tmp_path: Path) -> None:
    Pillow.new("RGB", (40, 30)).save(tmp_path / "cat.png")
    facts = build(tower, tmp_path / "cat.png").nodes["encode"].facts["clip_vision_output"]
    assert (facts["embedding_width"], facts["width"]) == (16, 64)


def test_a_checkpoint_is_no_vision_tower(tiny_sd1: Path, tmp_path: Path) -> None:
    Pillow.new("RGB", (40, 30)).save(tmp_path / "cat.png")
    with pytest.raises(InvalidWorkflow, match=r"sd1\.safetensors: found no vision model in it") as caught:
        build(tiny_sd1, tmp_path / "cat.png")
    assert caught.value.problems[0].place.mark is not None


def build(tower: Path, picture: Path) -> Graph:
    document = parse_document(f"""
latentgraph: 1
nodes:
  load: {{type: LoadClipVision, file: {tower}}}
  image: {{type: LoadImage, file: {picture}}}
  encode: {{type: EncodeClipVision, clip_vision: $load, image: $image.image}}
outputs: {{last: $encode}}
""")
    return build_graph(document, default_registry())
