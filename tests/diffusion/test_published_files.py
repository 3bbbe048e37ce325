"""Files at their true size, in the names in which they were published: each is told from its header alone, and is whole.

The files hold no values; see `published` for where the names come from.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from latentgraph.diffusion.checkpoints.describe import describe
from latentgraph.diffusion.checkpoints.headers import HeaderError, read_header

Shapes = dict[str, tuple[int, ...]]
Builders = SimpleNamespace
UNET = "model.diffusion_model."


@dataclass(frozen=True)
class Row:
    """A checkpoint: its tensors, and what is to be told of it. values: of its network, as its makers' code has them."""

    parts: Callable[[Builders], dict[str, Shapes]]
    family: str
    values: int
    prediction: str = "eps"
    latent: tuple[int, int] = (4, 8)  # channels, pixels a cell
    context: int = 768
    pooled: int | None = None
    encoders: tuple[str, ...] = ()
    vae: str | None = "KLSpec"
    in_channels: int | None = None
    format: str = "F32"
    formats: dict[str, str] = field(default_factory=dict)


def sd1(b: Builders, in_channels: int = 4) -> dict[str, Shapes]:
    text = b.clip_l | {"text_model.embeddings.position_ids": (1, 77)}
    unet = b.tiny.unet_shapes(replace(b.sd1, in_channels=in_channels))
    return {UNET: unet, "first_stage_model.": b.kl8, "cond_stage_model.transformer.": text, "": b.published.schedule()}


def sd2(b: Builders, in_channels: int = 4, adm: int | None = None, **more: Shapes) -> dict[str, Shapes]:
    unet = b.tiny.unet_shapes(replace(b.sd2, in_channels=in_channels, adm=adm))
    return {
        UNET: unet,
        "first_stage_model.": b.kl8,
        "cond_stage_model.model.": b.clip_h,
        "": b.published.schedule(),
        **more,
    }


def sdxl(b: Builders) -> dict[str, Shapes]:
    return {
        UNET: b.tiny.unet_shapes(b.sdxl),
        "first_stage_model.": b.kl8,
        "conditioner.embedders.0.transformer.": b.clip_l | {"text_model.embeddings.position_ids": (1, 77)},
        "conditioner.embedders.1.model.": b.tiny.open_clip_shapes(1280, 32, 1280),
        "denoiser.": {"sigmas": (1000,)},
    }


def sd3(b: Builders, network: Shapes, *, clips: bool = False, t5: bool = False) -> dict[str, Shapes]:
    parts = {UNET: network, "first_stage_model.": b.kl16}
    if clips:
        projected = b.clip_l | {"text_projection.weight": (768, 768)}
        parts |= {"text_encoders.clip_l.": {"logit_scale": ()}, "text_encoders.clip_g.": {"logit_scale": ()}}
        parts |= {"text_encoders.clip_l.transformer.": projected, "text_encoders.clip_g.transformer.": b.clip_g}
    if t5:
        parts["text_encoders.t5xxl.transformer."] = b.published.t5_xxl()
    return parts


def flux_in_one(b: Builders) -> dict[str, Shapes]:
    """Comfy-Org's flux1-dev-fp8: all that dev takes, in one file."""
    return {
        UNET: b.published.flux(),
        "vae.": b.kl16,
        "text_encoders.clip_l.": {"logit_scale": (), **b.published.below("transformer.", b.clip_l)},
        "text_encoders.t5xxl.": {"logit_scale": (), **b.published.below("transformer.", b.published.t5_xxl())},
    }


def ldm(b: Builders, unet: Shapes, vae: Shapes, **more: Shapes) -> dict[str, Shapes]:
    return {UNET: unet, "first_stage_model.": vae, "": b.published.schedule(), **more}


def small_ldm(b: Builders, context: int) -> Shapes:
    """The UNet over VQ f4 that is told words, or classes."""
    layout = replace(
        b.sd1,
        channels=192,
        mult=(1, 2, 3, 5),
        depth=(0, 0) + (1,) * 6,
        depth_output=(0,) * 3 + (1,) * 9,
        context=context,
        in_channels=3,
    )
    return b.tiny.unet_shapes(layout) | {"out.2.weight": (3, 192, 3, 3), "out.2.bias": (3,)}


FLOW16 = {"prediction": "flow", "latent": (16, 8), "context": 4096}
SD3_MEDIUM = {"family": "sd3", "values": 2084951104, "pooled": 2048, "format": "F16", **FLOW16}
FLUX = {"family": "flux", "pooled": 768, "vae": None, "format": "BF16", **FLOW16}
FLUX2 = {"family": "flux2", "prediction": "flow", "latent": (128, 16), "vae": None, "format": "BF16"}
H = ("clip_h",)
CHECKPOINTS: dict[str, Row] = {
    "v1-5-pruned-emaonly": Row(sd1, "sd1", 859520964, encoders=("clip_l",)),
    "v1-5-pruned": Row(
        lambda b: (
            sd1(b)
            | {"model_ema": {k.removeprefix("model_ema"): s for k, s in b.published.averaged(sd1(b)[UNET]).items()}}
        ),
        *("sd1", 859520964),
        encoders=("clip_l",),
    ),
    "sd-v1-5-inpainting": Row(lambda b: sd1(b, 9), "sd1", 859535364, encoders=("clip_l",), in_channels=9),
    "instruct-pix2pix": Row(lambda b: sd1(b, 8), "sd1", 859532484, encoders=("clip_l",), in_channels=8),
    "v2-1_512-ema-pruned": Row(sd2, "sd2", 865910724, context=1024, encoders=H),
    "v2-1_768-ema-pruned": Row(sd2, "sd2", 865910724, prediction="v", context=1024, encoders=H),
    "512-inpainting-ema": Row(lambda b: sd2(b, 9), "sd2", 865925124, context=1024, encoders=H, in_channels=9),
    "512-depth-ema": Row(
        lambda b: sd2(b, 5, **{"depth_model.": {"model.pretrained.model.pos_embed": (1, 577, 1024)}}),
        *("sd2", 865913604),
        context=1024,
        encoders=H,
        in_channels=5,
    ),
    "x4-upscaler-ema": Row(
        lambda b: (
            sd2(b)
            | {
                UNET: b.tiny.unet_shapes(b.tiny.PUBLISHED_X4),
                "first_stage_model.": b.tiny.vae_shapes(128, (1, 2, 4), 2),
                "low_scale_model.": b.published.schedule(),
            }
        ),
        *("sd-x4-upscaler", 473398020),
        prediction="v",
        latent=(4, 4),
        context=1024,
        encoders=H,
        in_channels=7,
    ),
    "sd21-unclip-h": Row(
        lambda b: sd2(
            b, adm=2048, **{"embedder.model.visual.": b.vision_h, "noise_augmentor.": b.published.schedule()}
        ),
        *("sd2-unclip", 870173124),
        context=1024,
        encoders=H,
    ),
    "sd_xl_base_1.0": Row(
        sdxl, "sdxl", 2567463684, context=2048, pooled=1280, encoders=("clip_l", "clip_g"), format="F16"
    ),
    "sd_xl_refiner_1.0": Row(
        lambda b: {
            UNET: b.tiny.unet_shapes(b.refiner),
            "first_stage_model.": b.kl8,
            "conditioner.embedders.0.model.": b.tiny.open_clip_shapes(1280, 32, 1280),
        },
        *("sdxl-refiner", 2259526660),
        context=1280,
        pooled=1280,
        encoders=("clip_g",),
        format="F16",
    ),
    "sd3_medium": Row(lambda b: sd3(b, b.published.mmdit(1536, 24, side=192)), **SD3_MEDIUM),
    "sd3_medium_incl_clips": Row(
        lambda b: sd3(b, b.published.mmdit(1536, 24, side=192), clips=True), encoders=("clip_l", "clip_g"), **SD3_MEDIUM
    ),
    "sd3_medium_incl_clips_t5xxlfp8": Row(
        lambda b: sd3(b, b.published.mmdit(1536, 24, side=192), clips=True, t5=True),
        encoders=("clip_l", "clip_g", "t5xxl"),
        formats={"text_encoders.t5xxl.transformer.": "F8_E4M3"},
        **SD3_MEDIUM,
    ),
    "sd3.5_medium": Row(
        lambda b: sd3(b, b.published.mmdit(1536, 24, side=384, norms=True, dual=13)),
        **SD3_MEDIUM | {"values": 2469663936},
    ),
    "sd3.5_large": Row(
        lambda b: sd3(b, b.published.mmdit(2432, 38, side=192, norms=True)), **SD3_MEDIUM | {"values": 8146280768}
    ),
    "flux1-dev": Row(lambda b: {"": b.published.flux()}, values=11901408320, **FLUX),
    "flux1-schnell": Row(lambda b: {"": b.published.flux(guidance=False)}, values=11891178560, **FLUX),
    "flux1-fill-dev": Row(lambda b: {"": b.published.flux(channels=384)}, values=11902391360, in_channels=96, **FLUX),
    "flux1-canny-dev": Row(lambda b: {"": b.published.flux(channels=128)}, values=11901604928, in_channels=32, **FLUX),
    "flux1-dev-fp8 in one file": Row(
        flux_in_one, values=11901408320, encoders=("clip_l", "t5xxl"), **FLUX | {"vae": "KLSpec", "format": "F8_E4M3"}
    ),
    "flux2-dev": Row(
        lambda b: {"": b.published.flux2(6144, 8, 48, 15360, guidance=True)}, values=32223281152, context=15360, **FLUX2
    ),
    "flux-2-klein-4b": Row(
        lambda b: {"": b.published.flux2(3072, 5, 20, 7680, guidance=False)}, values=3875544576, context=7680, **FLUX2
    ),
    "flux-2-klein-9b": Row(
        lambda b: {"": b.published.flux2(4096, 8, 24, 12288, guidance=False)}, values=9078581248, context=12288, **FLUX2
    ),
    "LDM text2img-large": Row(
        lambda b: ldm(
            b,
            b.tiny.unet_shapes(replace(b.sd1, context=1280)),
            b.kl8,
            **{"cond_stage_model.transformer.": b.published.bert()},
        ),
        *("ldm", 872300484),
        context=1280,
        encoders=("bert",),
    ),
    "LDM text2img256": Row(
        lambda b: ldm(b, small_ldm(b, 640), b.vq4, **{"cond_stage_model.transformer.": b.published.bert(640)}),
        *("ldm", 403623939),
        latent=(3, 4),
        context=640,
        encoders=("bert",),
        vae="VQSpec",
    ),
    "LDM cin256-v2": Row(
        lambda b: ldm(b, small_ldm(b, 512), b.vq4, **{"cond_stage_model.": {"embedding.weight": (1001, 512)}}),
        *("ldm-class", 400920579),
        latent=(3, 4),
        context=512,
        encoders=("classes",),
        vae="VQSpec",
    ),
    "LDM celebahq256": Row(
        lambda b: ldm(b, b.tiny.plain_unet_shapes(b.tiny.PlainLayout(224, (1, 2, 3, 4), 2, (1, 2, 3), 3)), b.vq4),
        *("ldm-unconditional", 274056163),
        latent=(3, 4),
        context=0,
        vae="VQSpec",
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_published_checkpoint_is_told_from_its_header(name: str, builders: Builders, tmp_path: Path) -> None:
    row = CHECKPOINTS[name]
    parts = row.parts(builders)
    path = builders.published.write(tmp_path / "file.safetensors", joined(parts), row.format, formats_of(row, parts))
    if row.prediction == "v" and row.family == "sd2":
        spread(path, f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias")
    found = describe(path)
    model = found.model
    assert (found.family, model.prediction) == (row.family, row.prediction)
    assert (model.latent.channels, model.latent.downscale) == row.latent
    assert (model.context_width, model.pooled_width) == (row.context, row.pooled)
    assert model.network.in_channels == (row.in_channels or row.latent[0])
    assert [encoder.key for encoder in found.clip.encoders] == [*row.encoders] if found.clip else not row.encoders
    assert (type(found.vae).__name__ if found.vae else None) == row.vae
    assert found.model_part.values == row.values


def joined(parts: dict[str, Shapes]) -> Shapes:
    return {prefix + key: shape for prefix, shapes in parts.items() for key, shape in shapes.items()}


def formats_of(row: Row, parts: dict[str, Shapes]) -> dict[str, str]:
    """Whole numbers of positions, and what the row says of a part."""
    stated = {prefix + key: format for prefix, format in row.formats.items() for key in parts[prefix]}
    whole = {key: "I64" for key in joined(parts) if key.endswith("position_ids")}
    return stated | whole


def spread(path: Path, key: str) -> None:
    """Gives a tensor of float32 the spread that SD2's v networks have there."""
    header = read_header(path)
    info = header.tensors[key]
    with path.open("r+b") as file:
        file.seek(header.data_start + info.begin)
        file.write(struct.pack(f"<{info.numel}f", *(0.2 * (-1) ** n for n in range(info.numel))))


def test_scales_beside_the_weights_of_a_checkpoint_do_not_count_as_its_weights(
    builders: Builders, tmp_path: Path
) -> None:
    """ComfyUI's names of today (fp8mixed) and of before (fp8_scaled)."""
    published, network = builders.published, builders.published.flux2(3072, 5, 20, 7680, guidance=False)
    for scale, beside, mark in (
        ("weight_scale", {"input_scale": ()}, {}),
        ("scale_weight", {"scale_input": ()}, {"scaled_fp8": (2,)}),
    ):
        shapes, formats = published.scaled(network, "_blocks.", scale=scale, beside=beside)
        path = published.write(tmp_path / "klein.safetensors", shapes | mark, "BF16", formats)
        found = describe(path)
        assert (found.family, found.title, found.model.context_width) == ("flux2", "FLUX.2 klein", 7680)
        assert found.model_part.packed_values > 0.9 * found.model_part.values


def test_latent_diffusion_of_layouts_is_not_taken_for_that_of_text(builders: Builders, tmp_path: Path) -> None:
    text = builders.published.bert(512, words=8192, positions=92, layers=16)
    parts = ldm(builders, small_ldm(builders, 512), builders.vq4, **{"cond_stage_model.transformer.": text})
    path = builders.published.write(tmp_path / "layout2img.safetensors", joined(parts), "F32")
    with pytest.raises(HeaderError, match="bert reads 92 tokens at a time, not 77: it is told where things are"):
        describe(path)
