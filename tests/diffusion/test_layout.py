"""The tensors that a spec foretells are those of the networks that are built from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from latentgraph.diffusion.families.autoencoders import KLSpec, PatchedKLSpec, VaeSpec, VQSpec
from latentgraph.diffusion.families.specs import UNetSpec
from latentgraph.diffusion.families.text_specs import BertSpec, ClipTextSpec, T5Spec, TextEncoderSpec
from latentgraph.diffusion.layouts.autoencoder_layout import vae_layout
from latentgraph.diffusion.layouts.layout import modules_of, unet_layout
from latentgraph.diffusion.layouts.text_layout import text_layout
from latentgraph.diffusion.networks.autoencoders import build_vae
from latentgraph.diffusion.networks.building import build_unet
from latentgraph.diffusion.networks.text_building import build_text_encoder

SD1 = UNetSpec(
    in_channels=4,
    out_channels=4,
    widths=(32, 64, 128, 160),
    res_blocks=(2, 2, 2, 2),
    depths_in=((1, 1), (1, 1), (1, 1), (0, 0)),
    depths_out=((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    depth_middle=1,
    heads=(8, 8, 8, 8),
    context_width=48,
    linear_projection=False,
)
SDXL = UNetSpec(
    in_channels=4,
    out_channels=4,
    widths=(32, 64, 128),
    res_blocks=(2, 2, 2),
    depths_in=((0, 0), (2, 2), (10, 10)),
    depths_out=((10, 10, 10), (2, 2, 2), (0, 0, 0)),
    depth_middle=10,
    heads=(1, 2, 4),
    context_width=96,
    linear_projection=True,
    vector_width=112,
)
UNETS = {
    "sd1": SD1,
    "sd1 for inpainting": replace(SD1, in_channels=9),
    "sd2": replace(SD1, context_width=56, linear_projection=True),
    "sdxl": SDXL,
    "without a middle block": replace(SDXL, depth_middle=None),
    "with a lone block in the middle": replace(SDXL, depth_middle=0),
}
CLIP_L = ClipTextSpec(
    key="clip_l",
    width=768,
    layers=12,
    heads=12,
    intermediate=3072,
    vocab=49408,
    positions=77,
    activation="quick_gelu",
    pad_id=49407,
    default_layer=-1,
    final_norm_on_hidden=True,
    pooled="state",
)


@pytest.mark.parametrize("spec", UNETS.values(), ids=UNETS)
def test_the_tensors_of_a_unet_are_those_of_diffusers(spec: UNetSpec) -> None:
    built = {name: tuple(tensor.shape) for name, tensor in build_unet(spec).state_dict().items()}
    assert dict(unet_layout(spec)) == built


T5 = T5Spec(
    key="t5xxl",
    width=64,
    layers=2,
    heads=3,
    head_width=16,
    intermediate=96,
    vocab=50,
    buckets=32,
    gated=True,
    least=77,
)
BERT = BertSpec(
    key="bert",
    width=64,
    layers=2,
    heads=3,
    head_width=16,
    intermediate=96,
    vocab=50,
    positions=77,
    logits=True,
)
TEXTS: dict[str, TextEncoderSpec] = {
    "clip": CLIP_L,
    "clip with a projection": replace(CLIP_L, projection_width=768),
    "clip with a wider projection": replace(CLIP_L, projection_width=1280),
    "t5": T5,
    "t5 of the first version": replace(T5, gated=False),
    "bert": BERT,
    "bert without logits": replace(BERT, logits=False),
}


@pytest.mark.parametrize("spec", TEXTS.values(), ids=TEXTS)
def test_the_tensors_of_a_text_encoder_are_those_of_transformers(spec: TextEncoderSpec) -> None:
    built = build_text_encoder(spec).state_dict()
    found = {name.removeprefix("text_model."): tuple(tensor.shape) for name, tensor in built.items()}
    assert dict(text_layout(spec)) == found


KL = KLSpec(latent_channels=4, widths=(32, 64, 64), encoder_blocks=2)
VQ = VQSpec(latent_channels=3, codes=16, inner_channels=3, widths=(32, 64), encoder_blocks=1)
AUTOENCODERS: dict[str, VaeSpec] = {
    "kl": KL,
    "kl without convolutions at the bottleneck": replace(KL, latent_channels=16, quant_convs=False),
    "kl that attends": replace(KL, attention=(False, True, True)),
    "kl that attends nowhere": replace(KL, middle_attention=False),
    "vq": VQ,
    "vq with other channels inside": replace(VQ, inner_channels=8, attention=(False, True)),
    "of FLUX.2": PatchedKLSpec(latent_channels=32, widths=(32, 64), decoder_widths=(64, 96), encoder_blocks=2),
}


@pytest.mark.parametrize("spec", AUTOENCODERS.values(), ids=AUTOENCODERS)
def test_the_tensors_of_an_autoencoder_are_those_of_diffusers(spec: VaeSpec) -> None:
    built = {name: tuple(tensor.shape) for name, tensor in build_vae(spec).state_dict().items()}
    assert vae_layout(spec) == built


def test_a_module_is_named_once() -> None:
    assert modules_of({"a.b.weight": (1,), "a.b.bias": (1,), "c.weight": (1,)}) == ["a.b", "c"]
