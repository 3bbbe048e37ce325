"""Text encoders, autoencoders, vision towers and ControlNets at their true size, in the names in which they were published.

The files hold no values; see `published` for where the names come from, and `test_published_files` for checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from latentgraph.diffusion.checkpoints.describe_text import describe_text
from latentgraph.diffusion.checkpoints.describe_vae import describe_vae
from latentgraph.diffusion.checkpoints.headers import read_header
from latentgraph.diffusion.checkpoints.parts import find_shapes
from latentgraph.diffusion.checkpoints.vision import describe_vision
from latentgraph.diffusion.control.reading import describe_control
from latentgraph.diffusion.families.autoencoders import VaeSpec
from latentgraph.diffusion.layouts.autoencoder_keys import vae_origins
from latentgraph.diffusion.layouts.vision_keys import vision_origins
from latentgraph.diffusion.networks.autoencoders import build_vae
from latentgraph.diffusion.networks.building import build_vision

Shapes = dict[str, tuple[int, ...]]
Builders = SimpleNamespace


@dataclass(frozen=True)
class Text:
    """A text encoder's file, and what is to be told of it. scales: the name of each float8 matrix's scale, if there are."""

    shapes: Callable[[Builders], Shapes]
    key: str
    layers: int
    width: int
    values: int
    format: str = "F16"
    scales: str | None = None


def mistral(b: Builders, *, pruned: bool) -> Shapes:
    """Comfy-Org's file ends where FLUX.2 stops reading, and has its tokenizer among the weights."""
    shapes = b.published.language_model(5120, 30 if pruned else 40, 32768, 131072, query_norm=False, whole=not pruned)
    return shapes | ({"tekken_model": (19399895,)} if pruned else {})


T5 = ("t5xxl", 24, 4096, 4762310656)
TEXTS: dict[str, Text] = {
    "clip_l": Text(lambda b: b.clip_l, "clip_l", 12, 768, 123060480),
    "clip_l by older transformers": Text(
        lambda b: b.clip_l | {"text_model.embeddings.position_ids": (1, 77), "logit_scale": ()},
        "clip_l",
        12,
        768,
        123060480,
    ),
    "clip_g": Text(lambda b: b.clip_g | {"logit_scale": ()}, "clip_g", 32, 1280, 694659840),
    "open_clip_pytorch_model of ViT-H, whole": Text(
        lambda b: b.clip_h | b.published.below("visual.", b.vision_h), "clip_h", 24, 1024, 354032640
    ),
    "t5xxl_fp16": Text(lambda b: b.published.t5_xxl(), *T5),
    "t5xxl with the table's other name": Text(
        lambda b: b.published.t5_xxl(tokens="encoder.embed_tokens.weight"), *T5, format="BF16"
    ),
    "t5xxl_fp8_e4m3fn": Text(lambda b: b.published.t5_xxl(), *T5, format="F8_E4M3"),
    "t5xxl_fp8_e4m3fn_scaled": Text(
        lambda b: b.published.t5_xxl() | {"scaled_fp8": (0,), "spiece_model": (791656,)}, *T5, scales="scale_weight"
    ),
    "mistral_3_small_flux2_bf16": Text(lambda b: mistral(b, pruned=True), "mistral", 30, 15360, 17343754240, "BF16"),
    "mistral_3_small_flux2_fp8": Text(
        lambda b: mistral(b, pruned=True), "mistral", 30, 15360, 17343754240, "BF16", "weight_scale"
    ),
    "Mistral Small 3, whole": Text(lambda b: mistral(b, pruned=False), "mistral", 30, 15360, 17343754240, "BF16"),
    "qwen_3_4b": Text(
        lambda b: b.published.language_model(2560, 36, 9728, 151936, query_norm=True),
        "qwen3",
        27,
        7680,
        3114088192,
        "BF16",
    ),
    "qwen_3_8b_fp8mixed": Text(
        lambda b: b.published.language_model(4096, 36, 12288, 151936, query_norm=True),
        *("qwen3", 27, 12288, 5831883520, "BF16", "weight_scale"),
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_published_text_encoder_is_told_from_its_header(name: str, builders: Builders, tmp_path: Path) -> None:
    row = TEXTS[name]
    shapes = row.shapes(builders)
    formats = {key: "U8" for key in shapes if key.endswith("_model")} | {
        key: "I64" for key in shapes if key.endswith("position_ids")
    }
    if row.scales:
        shapes, packed = builders.published.scaled(shapes, "layer", scale=row.scales)
        formats |= packed
    found = describe_text([builders.published.write(tmp_path / "text.safetensors", shapes, row.format, formats)])
    (encoder,) = found.spec.encoders
    assert (encoder.key, encoder.layers, encoder.width) == (row.key, row.layers, row.width)
    assert found.parts[0].values == row.values


AUTOENCODERS: dict[str, tuple[Callable[[Builders], Shapes], str, int, int]] = {
    "vae-ft-mse-840000": (lambda b: b.kl8 | {"loss.logvar": ()}, "KLSpec", 4, 8),
    "ae (FLUX.1)": (lambda b: b.kl16, "KLSpec", 16, 8),
    "flux2-vae": (
        lambda b: b.published.flux2_vae(b.tiny.vae_shapes(128, (1, 2, 4, 4), 2, latent=32)), "PatchedKLSpec", 128, 16
    ),
    "vq-f4": (lambda b: b.vq4, "VQSpec", 3, 4),
    "vq-f8": (
        lambda b: b.tiny.vae_shapes(128, (1, 2, 2, 4), 2, latent=4, codes=16384, attention=(3,)), "VQSpec", 4, 8
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_a_published_autoencoder_is_told_from_its_header(name: str, builders: Builders, tmp_path: Path) -> None:
    shapes, kind, channels, downscale = AUTOENCODERS[name]
    path = builders.published.write(tmp_path / "vae.safetensors", shapes(builders), "F32")
    spec = describe_vae(path).spec
    assert (type(spec).__name__, spec.latent_channels, spec.downscale) == (kind, channels, downscale)
    check_vae(spec, find_shapes([read_header(path)], ""))


def check_vae(spec: VaeSpec, shapes: Shapes) -> None:
    """Raises KeyMapError unless a file has every tensor of diffusers' network, and no other."""
    built = {key: tuple(tensor.shape) for key, tensor in build_vae(spec).state_dict().items()}
    origins = vae_origins(spec, "", built, shapes)
    for key, shape in built.items():
        found = shapes[origins[key].key]
        assert tuple(side for side in found if side != 1) == tuple(side for side in shape if side != 1)


def test_a_published_vision_tower_is_told_from_its_header(builders: Builders, tmp_path: Path) -> None:
    whole = builders.clip_h | builders.published.below("visual.", builders.vision_h)
    found = describe_vision(builders.published.write(tmp_path / "open_clip.safetensors", whole))
    spec = found.spec
    assert (spec.width, spec.layers, spec.heads, spec.side, spec.projection_width) == (1280, 32, 16, 224, 1024)
    assert found.part.values == 632076800
    wanted = build_vision(spec).state_dict()
    vision_origins(wanted, find_shapes([read_header(found.path)], "visual.").keys())


@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_a_published_controlnet_is_told_from_its_header(prefix: str, builders: Builders, tmp_path: Path) -> None:
    shapes = builders.published.below(prefix, builders.tiny.control_net_shapes(builders.sd1))
    found = describe_control(builders.published.write(tmp_path / "control_v11p_sd15_canny.safetensors", shapes))
    assert (found.spec.family, found.part.values) == ("sd1", 361279120)
