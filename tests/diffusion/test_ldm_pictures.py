"""Latent diffusion's networks that are shown a picture: for inpainting, super-resolution and semantic synthesis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import DDIMScheduler, LDMSuperResolutionPipeline
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from latentgraph.diffusion.checkpoints.describe import describe
from latentgraph.diffusion.checkpoints.export import save_checkpoint
from latentgraph.diffusion.checkpoints.opening import Checkpoint
from latentgraph.diffusion.families.plain_unets import PlainUNetSpec
from latentgraph.diffusion.latents.autoencoder import decode, encode
from latentgraph.diffusion.latents.picture_conditions import condition_on_inpaint
from latentgraph.diffusion.levels.space_spec import DiscreteLevels
from latentgraph.diffusion.model import Guider
from latentgraph.diffusion.sampling.conditions import empty, show_small_picture
from latentgraph.diffusion.sampling.extra_channels import extra_channels
from latentgraph.diffusion.sampling.guidance import ClassifierFree
from latentgraph.diffusion.sampling.run import sample_guided
from latentgraph.diffusion.text.encoding import encode_prompt
from latentgraph.diffusion.text.segments import encode_segments
from latentgraph.diffusion.types import Condition, Conditioning, Image, Latent, Mask, Noise, Sampler, Sigmas

from .unets import SEED, ldm_unet, noise, opened, plain_unet, vq, write_folder


def ddim(last_beta: float) -> DDIMScheduler:
    scheduler = DDIMScheduler(
        beta_start=0.0015, beta_end=last_beta, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    scheduler.set_timesteps(4)
    return scheduler


def picture(height: int, width: int) -> Image:
    return Image(torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(1)))


def sampled(checkpoint: Checkpoint, told: Conditioning, x: Tensor, scheduler: DDIMScheduler) -> Latent:
    """Returns the latent of a run by DDIM's steps from x, whose variance is one."""
    sigmas = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()[scheduler.timesteps]
    return sample_guided(
        Guider(checkpoint.model, {"positive": told}, ClassifierFree(1.0)),
        Latent(x * (1 + sigmas[0] ** 2).sqrt()),
        noise=Noise(SEED, silent=True),
        sampler=Sampler("ddim"),
        sigmas=Sigmas(torch.cat([sigmas, torch.zeros(1)])),
    ).latent


def by_the_formula(
    unet: Callable[[Tensor, Tensor], Tensor], x: Tensor, shown: Tensor, scheduler: DDIMScheduler
) -> Tensor:
    """Returns what latent diffusion's own sampling makes: DDIM, with what is shown behind the latent's channels."""
    for t in scheduler.timesteps:
        x = scheduler.step(unet(torch.cat([x, shown], dim=1), t.float()[None]), t, x).prev_sample
    return x


def test_inpainting_of_latent_diffusion_is_that_of_its_formula(tiny: ModuleType, tmp_path: Path) -> None:
    tensors = {key: w for key, w in tiny.ldm_tensors(tiny.LDM_INPAINT).items() if ".mid.attn_1." not in key}
    save_file(tensors, tmp_path / "inpaint.safetensors")
    checkpoint = opened(tmp_path / "inpaint.safetensors")
    spec, vae = checkpoint.model.spec, checkpoint.vae
    assert vae is not None
    assert (spec.family, spec.inpaint, spec.masked_fill) == ("ldm-inpaint", True, "black")
    assert not vae.spec.middle_attention  # type: ignore[union-attr]  # inpainting_big's autoencoder attends nowhere
    assert checkpoint.description.title == "Latent Diffusion, inpainting"
    assert spec.levels == DiscreteLevels(beta_start=0.0015, beta_end=0.0205)
    assert (spec.latent.scale, spec.latent.downscale, spec.network.heads) == (1.0, 4, (8, 8))  # type: ignore[union-attr]
    image, mask = picture(32, 48), torch.zeros(1, 32, 48)
    mask[:, 9:25, 14:33] = 0.9
    told = condition_on_inpaint(vae, empty(0), empty(0), image, Mask(mask), fill="black")
    x = noise(1, 3, 8, 12)
    result = sampled(checkpoint, told.positive, x, ddim(0.0205))

    masked = image.pixels * (mask < 0.5)[..., None]  # as its script for inpainting has it
    channel = functional.interpolate((mask >= 0.5).float()[:, None], size=(8, 12)) * 2 - 1
    shown = torch.cat([encode(vae, Image(masked)).samples, channel], dim=1)
    state = {key.removeprefix(tiny.UNET): w for key, w in tensors.items()}
    expected = by_the_formula(lambda x, t: ldm_unet(state, tiny.LDM_INPAINT, x, t), x, shown, ddim(0.0205))
    torch.testing.assert_close(result.samples, expected, atol=1e-4, rtol=1e-3)
    assert told.latent.noise_mask is not None


def test_with_nothing_to_keep_everything_is_made(tiny: ModuleType, tmp_path: Path) -> None:
    spec = describe(tiny.write(tmp_path / "inpaint.safetensors", tiny.ldm_tensors(tiny.LDM_INPAINT))).model
    latent = torch.zeros(2, 3, 8, 8)
    shown = extra_channels(Condition(torch.zeros(1, 1, 0)), spec=spec, latent=latent)
    assert torch.equal(shown, torch.cat([latent, torch.ones(2, 1, 8, 8)], dim=1))
    half = torch.zeros(1, 3, 8, 8)
    half[..., 4:] = 1.0
    shown = extra_channels(Condition(torch.zeros(1, 1, 0)), spec=spec, latent=latent, noise_mask=half)
    assert torch.equal(shown[:, 3:], (half[:, :1] * 2 - 1).expand(2, -1, -1, -1))


@pytest.mark.filterwarnings("ignore")
def test_super_resolution_of_latent_diffusion_makes_diffusers_picture(tiny: ModuleType, tmp_path: Path) -> None:
    parts = {"unet": plain_unet(tiny, in_channels=6), "vqvae": vq(tiny), "scheduler": ddim(0.0155)}
    pipeline = LDMSuperResolutionPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    small = picture(8, 16)
    expected = pipeline(
        small.pixels.movedim(-1, 1) * 2 - 1,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(SEED),
        output_type="np",
    ).images

    checkpoint = opened(write_folder(tmp_path / "superres", "LDMSuperResolutionPipeline", **parts))
    spec = checkpoint.model.spec
    assert checkpoint.vae is not None
    assert (spec.family, spec.enlarges, spec.knows_noise) == ("ldm-superres", True, False)
    assert (spec.latent.scale, spec.levels) == (1.0, DiscreteLevels(beta_start=0.0015, beta_end=0.0155))
    result = sampled(checkpoint, show_small_picture(empty(0), small), noise(1, 3, 8, 16, seed=SEED), ddim(0.0155))
    pixels = decode(checkpoint.vae, result).pixels
    assert pixels.shape == (1, 32, 64, 3)
    assert (pixels - torch.from_numpy(expected)).abs().median() < 1e-4  # a cell may fall to another code
    assert ((pixels - torch.from_numpy(expected)).abs() < 1e-3).float().mean() > 0.99


def test_super_resolution_of_a_single_file_is_that_of_its_formula_and_saved_as_it_was_read(
    tiny: ModuleType, tmp_path: Path
) -> None:
    tensors = tiny.ldm_tensors(tiny.LDM_SUPERRES)
    save_file(tensors, tmp_path / "superres.safetensors")
    checkpoint = opened(tmp_path / "superres.safetensors")
    assert checkpoint.model.spec.family == "ldm-superres"
    small, x = picture(8, 8), noise(1, 3, 8, 8)
    result = sampled(checkpoint, show_small_picture(empty(0), small), x, ddim(0.0155))
    state = {key.removeprefix(tiny.UNET): w for key, w in tensors.items()}
    shown = small.pixels.movedim(-1, 1) * 2 - 1
    expected = by_the_formula(lambda x, t: ldm_unet(state, tiny.LDM_SUPERRES, x, t), x, shown, ddim(0.0155))
    torch.testing.assert_close(result.samples, expected, atol=1e-4, rtol=1e-3)
    written = save_checkpoint(tmp_path, prefix="again", model=checkpoint.model, vae=checkpoint.vae, format="float32")
    assert describe(written).model == checkpoint.model.spec


def test_semantic_synthesis_of_latent_diffusion_is_that_of_its_formula(tiny: ModuleType, tmp_path: Path) -> None:
    tensors = tiny.segment_tensors()
    save_file(tensors, tmp_path / "segments.safetensors")
    checkpoint = opened(tmp_path / "segments.safetensors")
    spec, clip = checkpoint.model.spec, checkpoint.clip
    assert clip is not None
    assert (spec.family, spec.sees_segments, spec.enlarges) == ("ldm-segments", True, False)
    assert (spec.network.attention, clip.spec.context_width) == ((False, False), 0)  # type: ignore[union-attr]
    numbers = torch.randint(0, 11, (1, 32, 48), generator=torch.Generator().manual_seed(2))
    picture = Image((numbers / 255)[..., None].expand(-1, -1, -1, 3))
    x = noise(1, 3, 8, 12)
    result = sampled(checkpoint, encode_segments(clip, picture), x, ddim(0.0205))

    shown = functional.one_hot(numbers, 11).float().movedim(-1, 1)  # as its SpatialRescaler does it
    for _ in range(2):
        shown = functional.interpolate(shown, scale_factor=0.5, mode="bilinear")
    shown = functional.conv2d(shown, tensors["cond_stage_model.channel_mapper.weight"])
    state = {key.removeprefix(tiny.UNET): w for key, w in tensors.items()}
    expected = by_the_formula(lambda x, t: ldm_unet(state, tiny.LDM_SEGMENTS, x, t), x, shown, ddim(0.0205))
    torch.testing.assert_close(result.samples, expected, atol=1e-4, rtol=1e-3)

    with pytest.raises(ValueError, match="the picture has the class 11; the network knows 0 to 10"):
        encode_segments(clip, Image(torch.full((1, 8, 8, 3), 11 / 255)))
    with pytest.raises(ValueError, match="the picture is in colour"):
        encode_segments(clip, Image(torch.tensor([0.0, 1.0, 0.0]).expand(1, 8, 8, 3)))
    with pytest.raises(ValueError, match="is told classes by a picture, not prompts; use SegmentConditioning"):
        encode_prompt(clip, "a cat")
    written = save_checkpoint(tmp_path, prefix="again", model=checkpoint.model, clip=clip, vae=checkpoint.vae)
    again = describe(written)
    assert (again.model, again.clip) == (spec, clip.spec)


PUBLISHED = {
    "ldm-inpaint": {  # inpainting_big's config
        "channels": 256,
        "mult": (1, 2, 3, 4),
        "blocks": 2,
        "attention": (1, 2, 3),
        "in_channels": 7,
        "out_channels": 3,
        "updown": True,
    },
    "ldm-superres": {  # bsr_sr's
        "channels": 160,
        "mult": (1, 2, 2, 4),
        "blocks": 2,
        "attention": (3,),
        "in_channels": 6,
        "out_channels": 3,
    },
    "ldm-segments": {  # semantic_synthesis256's
        "channels": 128,
        "mult": (1, 4, 8),
        "blocks": 2,
        "attention": (),
        "in_channels": 6,
        "out_channels": 3,
    },
}
HEADS = {"ldm-inpaint": (8,) * 4, "ldm-superres": (5, 10, 10, 20), "ldm-segments": (8,) * 3}


@pytest.mark.parametrize("family", PUBLISHED)
def test_a_published_model_is_described_at_its_true_size(family: str, tiny: ModuleType, tmp_path: Path) -> None:
    layout = tiny.PlainLayout(**PUBLISHED[family])
    shapes = {tiny.UNET + key: shape for key, shape in tiny.plain_unet_shapes(layout).items()}
    if family == "ldm-segments":
        shapes |= {"cond_stage_model.channel_mapper.weight": (3, 182, 1, 1)}
    found = describe(tiny.write_skeleton(tmp_path / "ldm.safetensors", shapes)).model
    assert found.family == family
    assert isinstance(found.network, PlainUNetSpec)
    assert found.network.widths == tuple(mult * layout.channels for mult in layout.mult)
    assert (found.network.blocks, found.network.heads) == (2, HEADS[family])
    assert found.network.resampling == ("resnet" if layout.updown else "conv")


def test_a_network_that_knows_no_noise_is_shown_none(tiny: ModuleType, tmp_path: Path) -> None:
    spec = describe(tiny.write(tmp_path / "superres.safetensors", tiny.ldm_tensors(tiny.LDM_SUPERRES))).model
    (condition,) = show_small_picture(empty(0), picture(8, 8), noise=0.1).entries
    with pytest.raises(ValueError, match="ldm-superres network knows no noise in the picture that it enlarges"):
        extra_channels(condition, spec=spec, latent=torch.zeros(1, 3, 8, 8))
