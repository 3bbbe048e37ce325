"""Networks that enlarge a picture: Stable Diffusion's x4 upscaler, and latent diffusion's for super-resolution."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor

from latentgraph.diffusion.checkpoints.describe import describe, describe_network
from latentgraph.diffusion.checkpoints.export import save_checkpoint
from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.families.specs import UNetSpec
from latentgraph.diffusion.latents.batches import to_model_space
from latentgraph.diffusion.layouts.layout import unet_layout
from latentgraph.diffusion.levels.space_spec import DiscreteLevels
from latentgraph.diffusion.model import Guider, Model
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.token_merging import merge_tokens
from latentgraph.diffusion.sampling.conditions import show_small_picture
from latentgraph.diffusion.sampling.extra_channels import extra_channels
from latentgraph.diffusion.sampling.guidance import ClassifierFree
from latentgraph.diffusion.sampling.network_inputs import network_inputs
from latentgraph.diffusion.sampling.run import sample_guided
from latentgraph.diffusion.types import Condition, Image, Latent, Noise, Sampler, Sigmas, SmallPicture

from .unets import SEED, filled, first_latents, kl, opened, text

LEVELS = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}


def euler() -> EulerDiscreteScheduler:
    scheduler = EulerDiscreteScheduler(
        **LEVELS, prediction_type="v_prediction", timestep_spacing="leading", steps_offset=1
    )
    scheduler.set_timesteps(4)
    return scheduler


def x4_pipeline(tiny: ModuleType, unet: Any) -> StableDiffusionUpscalePipeline:
    pipeline = StableDiffusionUpscalePipeline(
        vae=kl(tiny, levels=3, scaling_factor=0.08333),
        unet=unet,
        text_encoder=None,
        tokenizer=None,
        low_res_scheduler=DDPMScheduler(**LEVELS),
        scheduler=euler(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def picture() -> Image:
    return Image(torch.rand(1, 8, 16, 3, generator=torch.Generator().manual_seed(1)))


def enlarged_by_diffusers(pipeline: StableDiffusionUpscalePipeline, level: int) -> Tensor:
    result: Tensor = pipeline(
        image=picture().pixels.movedim(-1, 1),
        prompt_embeds=text(64, 1).entries[0].embedding,
        negative_prompt_embeds=text(64, 2).entries[0].embedding,
        latents=first_latents(pipeline.scheduler, (1, 4, 8, 16)),
        noise_level=level,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed((SEED - 10) % 2**64),
        output_type="latent",
    ).images
    return result


def enlarged(model: Model, share: float, *, for_negative: float | None = None) -> Tensor:
    """share: how noisy the picture is, of the noisiest; for_negative: the same for the negative prompt."""
    positive = show_small_picture(text(64, 1), picture(), noise=share)
    negative = show_small_picture(text(64, 2), picture(), noise=share if for_negative is None else for_negative)
    result = sample_guided(
        Guider(model, {"positive": positive, "negative": negative}, ClassifierFree(5.0)),
        Latent(torch.zeros(1, 4, 8, 16)),
        noise=Noise(SEED),
        sampler=Sampler("euler"),
        sigmas=Sigmas(euler().sigmas),
    )
    return to_model_space(result.latent.samples, model.spec.latent)


@pytest.mark.filterwarnings("ignore")
def test_the_x4_upscaler_enlarges_as_diffusers_pipeline_does(tiny: ModuleType, tmp_path: Path) -> None:
    checkpoint = opened(tiny.write(tmp_path / "x4.safetensors", tiny.x4_tensors()))
    spec = checkpoint.model.spec
    assert isinstance(spec.network, UNetSpec)
    assert checkpoint.vae is not None
    assert checkpoint.clip is not None
    assert (spec.family, spec.prediction, spec.enlarges, spec.inpaint) == ("sd-x4-upscaler", "v", True, False)
    assert (spec.network.text_alone, spec.network.noise_levels) == ((False, True, False), 1000)
    assert spec.network.heads == (8, 8, 8)
    assert spec.levels == DiscreteLevels(beta_start=0.0001, beta_end=0.02)
    assert (spec.latent.scale, spec.latent.downscale, checkpoint.vae.spec.downscale) == (0.08333, 4, 4)
    with checkpoint.model.weights.use() as unet:
        expected = enlarged_by_diffusers(x4_pipeline(tiny, unet), level=105)
        expected_other = enlarged_by_diffusers(x4_pipeline(tiny, unet), level=35)
    torch.testing.assert_close(enlarged(checkpoint.model, 105 / 350), expected, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(enlarged(checkpoint.model, 35 / 350), expected_other, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(expected, expected_other, atol=1e-2)


@pytest.mark.filterwarnings("ignore")
def test_an_x4_folder_of_diffusers_enlarges_as_its_pipeline_does(tiny: ModuleType, tmp_path: Path) -> None:
    unet = UNet2DConditionModel(
        in_channels=7,
        out_channels=4,
        block_out_channels=(32, 128, 256),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        use_linear_projection=True,
        num_class_embeds=1000,
        only_cross_attention=(True, True, False),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )
    pipeline = x4_pipeline(tiny, filled(tiny, unet))
    pipeline.save_pretrained(tmp_path / "x4")
    checkpoint = open_checkpoint(tmp_path / "x4", WeightMemory(precision="fp32"))
    assert checkpoint.model.spec.family == "sd-x4-upscaler"
    assert checkpoint.model.spec.network.heads == (4, 4, 4)  # type: ignore[union-attr]
    expected = enlarged_by_diffusers(pipeline, level=70)
    torch.testing.assert_close(enlarged(checkpoint.model, 70 / 350), expected, atol=2e-4, rtol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_work_is_shared_between_prompts_that_are_told_unlike_noise_without_a_change(
    tiny: ModuleType, tmp_path: Path
) -> None:
    path = tiny.write(tmp_path / "x4.safetensors", tiny.x4_tensors())
    exact, quick = (open_checkpoint(path, WeightMemory(precision=each)).model for each in ("exact", "fp32"))
    for other in (None, 0.5):
        expected = enlarged(exact, 0.2, for_negative=other)
        torch.testing.assert_close(enlarged(quick, 0.2, for_negative=other), expected, atol=1e-4, rtol=1e-4)


def test_a_block_that_reads_text_alone_keeps_its_queries(tiny: ModuleType, tmp_path: Path) -> None:
    two_levels = {
        "mult": (1, 2),
        "blocks": (1, 1),
        "depth": (1, 1),
        "depth_output": (1,) * 4,
        "text_alone": (True, False),
    }
    layout = replace(tiny.X4, channels=128, **two_levels)
    tensors = {tiny.UNET + key: w for key, w in tiny.fill(tiny.unet_shapes(layout)).items()}
    save_file(tensors, tmp_path / "x4.safetensors")
    with opened(tmp_path / "x4.safetensors").model.weights.use() as unet:
        attention = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
        before = attention.processor
        merge_tokens(unet, 0.5)
        assert attention.processor is before


def test_without_noise_the_picture_is_shown_as_it_is_and_without_a_picture_nothing_is(
    tiny: ModuleType, tmp_path: Path
) -> None:
    spec = describe(tiny.write(tmp_path / "x4.safetensors", tiny.x4_tensors())).model
    latent = torch.zeros(2, 4, 8, 16)
    shown = Condition(torch.zeros(1, 77, 64), small=SmallPicture(picture().pixels))
    inputs = network_inputs(shown, spec=spec, latent=latent, seed=SEED)
    assert inputs.concat is not None
    assert inputs.noise_level is not None
    assert torch.equal(inputs.concat, (picture().pixels.movedim(-1, 1) * 2 - 1).expand(2, -1, -1, -1))
    assert inputs.noise_level.tolist() == [0]
    nothing = extra_channels(Condition(torch.zeros(1, 77, 64)), spec=spec, latent=latent)
    assert torch.equal(nothing, torch.zeros(2, 3, 8, 16))
    noisy = replace(shown, small=SmallPicture(picture().pixels, noise=1.0))
    inputs = network_inputs(noisy, spec=spec, latent=latent, seed=SEED)
    assert inputs.noise_level is not None
    assert inputs.noise_level.tolist() == [350]


def test_an_x4_upscaler_is_saved_as_it_was_read(tiny: ModuleType, tmp_path: Path) -> None:
    checkpoint = opened(tiny.write(tmp_path / "x4.safetensors", tiny.x4_tensors()))
    written = save_checkpoint(
        tmp_path, prefix="again", model=checkpoint.model, clip=checkpoint.clip, vae=checkpoint.vae
    )
    again = opened(written)
    assert again.model.spec == checkpoint.model.spec
    with again.model.weights.use() as copy, checkpoint.model.weights.use() as network:
        for name, w in network.state_dict().items():
            assert torch.equal(copy.state_dict()[name], w), name


PUBLISHED = {  # stabilityai/stable-diffusion-x4-upscaler, unet/config.json
    "in_channels": 7,
    "out_channels": 4,
    "block_out_channels": (256, 512, 512, 1024),
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "attention_head_dim": 8,
    "use_linear_projection": True,
    "num_class_embeds": 1000,
    "only_cross_attention": (True, True, True, False),
    "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
    "up_block_types": (*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
}


def test_the_published_x4_upscaler_is_described_at_its_true_size_in_both_layouts(
    tiny: ModuleType, tmp_path: Path
) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**PUBLISHED)
    unet.save_config(tmp_path / "unet")
    shapes = {name: tuple(w.shape) for name, w in unet.state_dict().items()}
    tiny.write_skeleton(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", shapes)
    network = describe_network(tmp_path / "unet").model.network
    assert isinstance(network, UNetSpec)
    assert unet_layout(network) == shapes
    # The innermost level is as wide as text, and attends to the picture; the outermost does not attend at all.
    assert (network.text_alone, network.heads) == ((False, True, True, False), (8, 8, 8, 8))
    single = {tiny.UNET + key: shape for key, shape in tiny.unet_shapes(tiny.PUBLISHED_X4).items()}
    assert describe(tiny.write_skeleton(tmp_path / "x4.safetensors", single)).model.network == network


def test_a_network_of_seven_channels_without_noise_levels_is_no_x4_upscaler(tiny: ModuleType, tmp_path: Path) -> None:
    shapes = tiny.unet_shapes(replace(tiny.X4, classes=None))
    with pytest.raises(HeaderError, match="but with 7 input channels"):
        describe(tiny.write_skeleton(tmp_path / "x4.safetensors", {tiny.UNET + key: s for key, s in shapes.items()}))
