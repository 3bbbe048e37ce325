"""Vision towers in every layout that people have them in, against transformers' own classes with the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, SiglipVisionConfig, SiglipVisionModel

from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.checkpoints.opening import open_vision
from latentgraph.diffusion.checkpoints.vision import describe_vision
from latentgraph.diffusion.layouts.vision_structure import read_vision
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.types import Image
from latentgraph.diffusion.vision.encoding import encode_pictures, preprocess

Picture = Callable[[int, int], Image]
WIDTH, LAYERS, SIDE = 64, 3, 28


def test_the_towers_in_use_are_told_from_their_shapes() -> None:
    shapes = {
        "ViT-L": tower_shapes(1024, 24, 14, 257, projection=768),
        "ViT-L/336": tower_shapes(1024, 24, 14, 577, projection=768),
        "ViT-H": tower_shapes(1280, 32, 14, 257, projection=1024),
        "ViT-bigG": tower_shapes(1664, 48, 14, 257, projection=1280),
        "SigLIP so400m/384": tower_shapes(1152, 27, 14, 729, projection=None),
    }
    found = {name: read_vision(each) for name, each in shapes.items()}
    assert {name: (spec.heads, spec.side, spec.activation, spec.embedding_width) for name, spec in found.items()} == {
        "ViT-L": (16, 224, "quick_gelu", 768),
        "ViT-L/336": (16, 336, "quick_gelu", 768),
        "ViT-H": (16, 224, "gelu", 1024),
        "ViT-bigG": (16, 224, "gelu", 1280),
        "SigLIP so400m/384": (16, 384, "gelu_pytorch_tanh", 1152),
    }
    assert {found[name].mean for name in found if "SigLIP" in name} == {(0.5, 0.5, 0.5)}


@pytest.mark.parametrize("layout", ["transformers", "whole", "bare", "open_clip", "unclip"])
def test_every_layout_of_a_clip_tower_gives_what_transformers_gives(
    layout: str, tower: CLIPVisionModelWithProjection, picture: Picture, tmp_path: Path
) -> None:
    file = tmp_path / "tower.safetensors"
    save_file(LAYOUTS[layout](tower.state_dict()), file)
    vision = open_vision(file, WeightMemory(precision="exact"))
    output = encode_pictures(vision, picture(SIDE, SIDE))
    last, penultimate, embeds = by_hand(tower, preprocess(picture(SIDE, SIDE), vision.spec))
    assert torch.equal(output.last_hidden, last)
    assert torch.equal(output.penultimate, penultimate)
    assert torch.equal(output.image_embeds, embeds)
    assert output.image_embeds.shape == (1, 32)
    assert output.last_hidden.shape == (1, vision.spec.tokens, WIDTH)


def test_only_the_vision_half_of_a_clip_model_counts_as_weights(
    tower: CLIPVisionModelWithProjection, tmp_path: Path
) -> None:
    save_file(LAYOUTS["whole"](tower.state_dict()), tmp_path / "whole.safetensors")
    values = sum(tensor.numel() for tensor in tower.state_dict().values())
    assert describe_vision(tmp_path / "whole.safetensors").part.values == values


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_siglip_gives_its_normed_tokens_with_and_without_its_pooling_head(
    head: bool, prefix: str, picture: Picture, tmp_path: Path
) -> None:
    config = SiglipVisionConfig(**SMALL, hidden_act="gelu_pytorch_tanh", vision_use_head=head)
    model = filled(SiglipVisionModel._from_config(config, attn_implementation="eager"))
    save_file({prefix + key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "s.safetensors")
    vision = open_vision(tmp_path / "s.safetensors", WeightMemory(precision="exact"))
    output = encode_pictures(vision, picture(40, 30))
    with torch.no_grad():
        expected = model(preprocess(picture(40, 30), vision.spec), output_hidden_states=True)
    assert vision.spec.pooling_head is head
    assert torch.equal(output.image_embeds, expected.last_hidden_state)
    assert torch.equal(output.last_hidden, output.image_embeds)
    assert torch.equal(output.penultimate, expected.hidden_states[-2])


def test_a_folder_states_heads_and_activation(tower: CLIPVisionModelWithProjection, tmp_path: Path) -> None:
    tower.save_pretrained(tmp_path / "image_encoder")
    (tmp_path / "model_index.json").write_text(
        json.dumps({"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]})
    )
    for folder in (tmp_path, tmp_path / "image_encoder"):
        spec = describe_vision(folder).spec
        assert (spec.heads, spec.activation, spec.layers) == (2, "gelu", LAYERS)


def test_exact_rounds_the_blocks_to_float16_and_leaves_the_outer_norms_and_the_projection(
    tower: CLIPVisionModelWithProjection, picture: Picture, tmp_path: Path
) -> None:
    weights = {name: tensor + 1e-5 for name, tensor in tower.state_dict().items()}
    save_file(weights, tmp_path / "fine.safetensors")
    vision = open_vision(tmp_path / "fine.safetensors", WeightMemory(precision="exact"))
    with vision.weights.use() as network:
        loaded = network.state_dict()
    kept = {name for name, tensor in loaded.items() if torch.equal(tensor, weights[name])}
    outer = ("pre_layrnorm", "post_layernorm", "visual_projection")
    assert kept == {name for name in loaded if any(part in name for part in outer)}


def test_pictures_are_cut_or_squeezed_to_the_side_that_a_tower_reads(picture: Picture) -> None:
    spec = read_vision(tower_shapes(64, 2, 14, 5, projection=8))
    pixels = picture(30, 52)
    cut, squeezed = preprocess(pixels, spec), preprocess(pixels, spec, crop="none")
    assert cut.shape == squeezed.shape == (1, 3, 28, 28)
    x = pixels.pixels.movedim(-1, 1)
    whole = torch.nn.functional.interpolate(x, size=(28, 49), mode="bicubic", antialias=True)  # 28 / 30 * 52 is 48.5
    assert torch.equal(cut, normalised(whole[..., 10:38]))
    stretched = torch.nn.functional.interpolate(x, size=(28, 28), mode="bicubic", antialias=True)
    assert torch.equal(squeezed, normalised(stretched))


def test_pictures_of_the_right_size_keep_their_pixels_and_lose_their_alpha(picture: Picture) -> None:
    spec = read_vision(tower_shapes(64, 2, 14, 5, projection=8))
    opaque = picture(28, 28)
    clear = Image(torch.cat([opaque.pixels, torch.zeros(1, 28, 28, 1)], dim=-1))
    assert torch.equal(preprocess(clear, spec), normalised(opaque.pixels.movedim(-1, 1)))


def test_files_that_hold_no_vision_tower_are_refused_with_what_they_are(tiny_sd1: Path, tmp_path: Path) -> None:
    with pytest.raises(HeaderError, match="found no vision model in it, expected keys such as vision_model"):
        describe_vision(tiny_sd1)
    save_file({"text_model.embeddings.token_embedding.weight": torch.zeros(9, 8)}, tmp_path / "text.safetensors")
    with pytest.raises(HeaderError, match=r"a text encoder alone .* Name a CLIP vision or SigLIP model"):
        describe_vision(tmp_path / "text.safetensors")


def test_a_tower_that_lacks_its_projection_is_refused(tower: CLIPVisionModelWithProjection, tmp_path: Path) -> None:
    weights = {name: tensor for name, tensor in tower.state_dict().items() if name != "visual_projection.weight"}
    save_file(weights, tmp_path / "bare.safetensors")
    with pytest.raises(HeaderError, match=r"'visual_projection.weight' is missing"):
        describe_vision(tmp_path / "bare.safetensors")


def test_positions_that_are_no_square_are_refused() -> None:
    with pytest.raises(ValueError, match="6 positions are no square grid of patches"):
        read_vision(tower_shapes(64, 2, 14, 6, projection=8))


SMALL: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 1,
    "image_size": SIDE,
    "patch_size": 14,
}


@pytest.fixture
def tower(request: pytest.FixtureRequest) -> CLIPVisionModelWithProjection:
    """A CLIP tower as a file of its shapes is read: one head of 64 and quick_gelu. A folder's config may say otherwise."""
    stated = {"num_attention_heads": 2, "hidden_act": "gelu"} if "folder" in request.node.name else {}
    config = CLIPVisionConfig(**{**SMALL, "hidden_act": "quick_gelu", "projection_dim": 32, **stated})
    return filled(CLIPVisionModelWithProjection._from_config(config, attn_implementation="eager"))


def filled(model: Any) -> Any:
    """Returns a model with made-up weights that float16 holds exactly."""
    draws = torch.Generator().manual_seed(3)
    state = {
        key: torch.randn(w.shape, generator=draws).mul(0.1).half().float() for key, w in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def by_hand(tower: CLIPVisionModelWithProjection, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Last and penultimate states and the embedding, block by block."""
    core = tower.vision_model
    x = core.pre_layrnorm(core.embeddings(x))
    before = x
    for block in core.encoder.layers:
        before, x = x, block(x, None)
    return x, before, tower.visual_projection(core.post_layernorm(x[:, 0]))


def normalised(x: Tensor) -> Tensor:
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    return ((255.0 * x).clamp(0, 255).round() / 255.0 - mean) / std


def tower_shapes(
    width: int, layers: int, patch: int, positions: int, *, projection: int | None
) -> dict[str, tuple[int, ...]]:
    """The keys by which a tower is told, in transformers' layout."""
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": (positions, width),
    }
    shapes |= {f"vision_model.encoder.layers.{n}.mlp.fc1.weight": (4 * width, width) for n in range(layers)}
    if projection is not None:
        shapes["vision_model.embeddings.class_embedding"] = (width,)
        shapes["visual_projection.weight"] = (projection, width)
    return shapes


def whole_clip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    text = {"text_model.final_layer_norm.weight": torch.ones(8), "text_projection.weight": torch.ones(8, 8)}
    return (
        weights | text | {"logit_scale": torch.ones(()), "vision_model.embeddings.position_ids": torch.arange(5)[None]}
    )


def open_clip(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The layout of OpenCLIP's VisionTransformer, written down from its own names."""
    core = {key.removeprefix("vision_model."): value for key, value in weights.items()}
    tensors = {
        "class_embedding": core["embeddings.class_embedding"],
        "conv1.weight": core["embeddings.patch_embedding.weight"],
        "positional_embedding": core["embeddings.position_embedding.weight"],
        "proj": core["visual_projection.weight"].T.contiguous(),
    }
    for leaf in ("weight", "bias"):
        tensors[f"ln_pre.{leaf}"] = core[f"pre_layrnorm.{leaf}"]
        tensors[f"ln_post.{leaf}"] = core[f"post_layernorm.{leaf}"]
        for n in range(LAYERS):
            layer, block = f"encoder.layers.{n}", f"transformer.resblocks.{n}"
            qkv = [core[f"{layer}.self_attn.{name}_proj.{leaf}"] for name in "qkv"]
            tensors[f"{block}.attn.in_proj_{leaf}"] = torch.cat(qkv)
            tensors[f"{block}.attn.out_proj.{leaf}"] = core[f"{layer}.self_attn.out_proj.{leaf}"]
            tensors[f"{block}.ln_1.{leaf}"] = core[f"{layer}.layer_norm1.{leaf}"]
            tensors[f"{block}.ln_2.{leaf}"] = core[f"{layer}.layer_norm2.{leaf}"]
            tensors[f"{block}.mlp.c_fc.{leaf}"] = core[f"{layer}.mlp.fc1.{leaf}"]
            tensors[f"{block}.mlp.c_proj.{leaf}"] = core[f"{layer}.mlp.fc2.{leaf}"]
    return {prefix + key: value for key, value in tensors.items()}


LAYOUTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "transformers": dict,
    "whole": whole_clip,
    "bare": lambda weights: {key.removeprefix("vision_model."): value for key, value in weights.items()},
    "open_clip": lambda weights: {
        **open_clip(weights, "visual."),
        "token_embedding.weight": torch.ones(4, 8),
        "positional_embedding": torch.ones(4, 8),
        "text_projection": torch.ones(8, 8),
        "logit_scale": torch.ones(()),
    },
    "unclip": lambda weights: {
        **open_clip(weights, "embedder.model.visual."),
        "model.diffusion_model.out.2.bias": torch.ones(4),
    },
}
