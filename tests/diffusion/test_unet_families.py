"""Families with UNets beyond the first ones: from files and folders in their true layouts, against diffusers' own pipelines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    StableUnCLIPImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from PIL import Image as Pillow
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from latentgraph.diffusion.checkpoints.describe import describe, describe_network
from latentgraph.diffusion.checkpoints.export import save_checkpoint
from latentgraph.diffusion.checkpoints.opening import Checkpoint, open_checkpoint, open_vision
from latentgraph.diffusion.families.specs import REFINER_VECTOR
from latentgraph.diffusion.families.stable_diffusion import PLAYGROUND_LATENT
from latentgraph.diffusion.latents.batches import to_model_space, to_vae_space
from latentgraph.diffusion.latents.picture_conditions import condition_on_picture
from latentgraph.diffusion.levels.space_spec import ContinuousLevels
from latentgraph.diffusion.model import Guider
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.samplers.noise import initial_noise
from latentgraph.diffusion.sampling.conditions import set_picture_size, show_depth, show_pictures
from latentgraph.diffusion.sampling.extra_channels import extra_channels
from latentgraph.diffusion.sampling.guidance import ClassifierFree, Dual, ListName
from latentgraph.diffusion.sampling.network_inputs import network_inputs
from latentgraph.diffusion.sampling.run import sample_guided
from latentgraph.diffusion.sampling.vectors import picture_vector, size_numbers
from latentgraph.diffusion.text.encoding import encode_prompt
from latentgraph.diffusion.types import (
    ClipVisionOutput,
    Condition,
    Conditioning,
    Image,
    Latent,
    Noise,
    PicturePrompt,
    PictureSize,
    Sampler,
    Sigmas,
)
from latentgraph.diffusion.vision.encoding import encode_pictures, preprocess

from .unets import SEED, euler, filled, first_latents, kl, noise, opened, sampled, text, write_folder


@pytest.mark.filterwarnings("ignore")
def test_an_instruct_pix2pix_model_edits_as_diffusers_pipeline_does(tiny: ModuleType, tmp_path: Path) -> None:
    unet = UNet2DConditionModel(
        in_channels=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=24,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    parts = {"unet": filled(tiny, unet), "vae": kl(tiny)}
    folder = write_folder(tmp_path / "instruct", "StableDiffusionInstructPix2PixPipeline", **parts)
    picture = Pillow.effect_noise((64, 48), 90).convert("RGB")
    positive, negative = text(24, 1), text(24, 2)
    pipeline = StableDiffusionInstructPix2PixPipeline(
        **parts,
        scheduler=euler(4),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        image=picture,
        prompt_embeds=positive.entries[0].embedding,
        negative_prompt_embeds=negative.entries[0].embedding,
        latents=first_latents(pipeline.scheduler, (1, 4, 6, 8)),
        num_inference_steps=4,
        guidance_scale=5.0,
        image_guidance_scale=1.5,
        output_type="latent",
    ).images

    checkpoint = opened(folder)
    assert checkpoint.vae is not None
    assert (checkpoint.description.family, checkpoint.model.spec.edits) == ("sd1", True)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(1, 48, 64, 3) / 255
    shown = condition_on_picture(checkpoint.vae, positive, negative, Image(pixels))
    lists: dict[ListName, Conditioning] = {"negative": negative, "second": shown.negative, "positive": shown.positive}
    result = sampled(checkpoint, lists, Dual(5.0, 1.5), shown.latent, 4)
    assert result.shape == (1, 4, 6, 8)
    torch.testing.assert_close(result, expected, atol=2e-4, rtol=1e-3)


def test_an_sdxl_instruct_model_is_one_by_its_channels(tiny: ModuleType, tmp_path: Path) -> None:
    spec = describe(tiny.write_sdxl(tmp_path / "xl.safetensors", in_channels=8)).model
    assert (spec.family, spec.edits, spec.inpaint, spec.extra) == ("sdxl", True, False, "picture")


@pytest.mark.filterwarnings("ignore")
def test_the_refiner_paints_a_picture_over_as_diffusers_pipeline_does(tiny: ModuleType, tmp_path: Path) -> None:
    checkpoint = opened(tiny.write(tmp_path / "refiner.safetensors", tiny.refiner_tensors()))
    spec = checkpoint.model.spec
    assert checkpoint.clip is not None
    assert (spec.family, spec.pooled_width, len(spec.network.size_numbers)) == ("sdxl-refiner", 64, 5)
    assert [encoder.key for encoder in checkpoint.clip.spec.encoders] == ["clip_g"]
    positive, negative = (encode_prompt(checkpoint.clip, words).conditioning for words in ("a cat", "a dog"))
    with checkpoint.model.weights.use() as unet:
        pipeline = StableDiffusionXLImg2ImgPipeline(
            vae=kl(tiny),
            unet=unet,
            scheduler=euler(5),
            text_encoder=None,
            text_encoder_2=None,
            tokenizer=None,
            tokenizer_2=None,
            requires_aesthetics_score=True,
            add_watermarker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        start = noise(1, 4, 8, 6)
        generator = torch.Generator().manual_seed(SEED)
        (first,), (second,) = positive.entries, negative.entries
        expected = pipeline(
            image=start,  # a latent already, in model space
            strength=0.8,
            num_inference_steps=5,
            guidance_scale=4.0,
            prompt_embeds=first.embedding,
            pooled_prompt_embeds=first.pooled,
            negative_prompt_embeds=second.embedding,
            negative_pooled_prompt_embeds=second.pooled,
            generator=generator,
            output_type="latent",
        ).images
        sigmas = pipeline.scheduler.sigmas[1:]
    result = sample_guided(
        Guider(checkpoint.model, {"positive": positive, "negative": negative}, ClassifierFree(4.0)),
        Latent(start / spec.latent.scale),
        noise=Noise(SEED),
        sampler=Sampler("euler"),
        sigmas=Sigmas(sigmas),
    )
    ours = to_model_space(result.latent.samples, spec.latent)
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=1e-3)
    wider = set_picture_size(positive, PictureSize(aesthetic_score=2.5))
    other = sampled(checkpoint, {"positive": wider, "negative": negative}, ClassifierFree(4.0), Latent(start), 3)
    same = sampled(checkpoint, {"positive": positive, "negative": negative}, ClassifierFree(4.0), Latent(start), 3)
    assert not torch.allclose(other, same)


def test_the_refiner_of_a_diffusers_folder_is_its_single_file(tiny: ModuleType, tmp_path: Path) -> None:
    single = opened(tiny.write(tmp_path / "refiner.safetensors", tiny.refiner_tensors()))
    assert single.clip is not None
    assert single.vae is not None
    with single.model.weights.use() as unet, single.vae.weights.use() as vae, single.clip.weights.use() as texts:
        parts = {"unet": unet, "vae": vae, "text_encoder_2": texts["clip_g"]}
        folder = opened(write_folder(tmp_path / "refiner", "StableDiffusionXLImg2ImgPipeline", **parts))
    assert folder.clip is not None
    assert folder.model.spec == single.model.spec
    assert folder.clip.spec.encoders == single.clip.spec.encoders


@pytest.mark.parametrize(("score", "negative"), [(6.0, False), (2.5, True)])
def test_the_refiner_is_told_a_score_by_what_a_condition_is_for(score: float, negative: bool) -> None:
    assert size_numbers(PictureSize(), REFINER_VECTOR.numbers, height=1216, width=832, negative=negative) == (
        *(1216, 832, 0, 0),
        score,
    )


UNCLIP = json.loads((Path(__file__).parents[1] / "vectors" / "misc.json").read_text("utf-8"))


def write_unclip(tiny: ModuleType, path: Path, *, stats: bool = False) -> Path:
    tensors = tiny.unclip_tensors()
    if stats:
        tensors |= {"noise_augmentor.data_mean": noise(1, 64), "noise_augmentor.data_std": noise(1, 64).exp()}
    save_file({key: w.contiguous() for key, w in tensors.items()}, path)
    return path


def test_picture_vectors_are_the_references(tiny: ModuleType, tmp_path: Path) -> None:
    shapes = {tiny.UNET + key: shape for key, shape in tiny.unet_shapes(replace(tiny.UNCLIP, adm=2 * 1024)).items()}
    spec = describe(tiny.write_skeleton(tmp_path / "unclip.safetensors", shapes)).model
    half = torch.full((1, 1024), 0.5)
    one = picture_vector([PicturePrompt(half, noise=0.1)], spec, seed=0)
    wanted = UNCLIP["unclip adm H (embeds=0.5, strength 1, aug .1, sampler seed 0)"]
    assert list(one.shape) == wanted["shape"]
    assert one[0, :4].tolist() == pytest.approx(wanted["first4"], abs=1e-6)
    assert one[0, 1024:1028].tolist() == pytest.approx(wanted["1024.."], abs=1e-6)


def unclip_pipeline(tiny: ModuleType, **parts: Any) -> StableUnCLIPImg2ImgPipeline:
    """Returns diffusers' pipeline of these parts; as far as they are not given, of an autoencoder alone."""
    others = {
        "vae": kl(tiny),
        "scheduler": euler(4),
        "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "feature_extractor": None,
        "image_encoder": kl(tiny),  # asked for its number format alone
        "text_encoder": None,
        "tokenizer": None,
    }
    pipeline = StableUnCLIPImg2ImgPipeline(**{**others, **parts})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def normalizer_of(*, stats: bool) -> StableUnCLIPImageNormalizer:
    normalizer = StableUnCLIPImageNormalizer(64)
    if stats:
        normalizer.load_state_dict({"mean": noise(1, 64), "std": noise(1, 64).exp()})
    return normalizer.eval()


def varied_by_diffusers(
    pipeline: StableUnCLIPImg2ImgPipeline, positive: Conditioning, negative: Conditioning, **shown: Tensor
) -> Tensor:
    """Returns the latent of a variation at a noise of 100 and a guidance of 5, in model space."""
    pipeline.scheduler.set_timesteps(4)
    result: Tensor = pipeline(
        **shown,
        prompt_embeds=positive.entries[0].embedding,
        negative_prompt_embeds=negative.entries[0].embedding,
        latents=initial_noise(torch.Size((1, 4, 8, 8)), SEED) * pipeline.scheduler.sigmas[0],  # taken as they are
        height=64,
        width=64,
        noise_level=100,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed((SEED - 10) % 2**64),
        output_type="latent",
    ).images
    return result


def varied(
    checkpoint: Checkpoint, positive: Conditioning, negative: Conditioning, pictures: ClipVisionOutput
) -> Tensor:
    """Returns the latent of the same variation by a checkpoint of ours."""
    lists: dict[ListName, Conditioning] = {
        "positive": show_pictures(positive, pictures, noise=100 / 999),
        "negative": negative,
    }
    return sampled(checkpoint, lists, ClassifierFree(5.0), Latent(torch.zeros(1, 4, 8, 8)), 4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stats", [False, True])
def test_variations_of_a_picture_are_those_of_diffusers_pipeline(stats: bool, tiny: ModuleType, tmp_path: Path) -> None:
    checkpoint = opened(write_unclip(tiny, tmp_path / "unclip.safetensors", stats=stats))
    spec = checkpoint.model.spec
    assert (spec.family, spec.network.picture_width, spec.pooled_width) == ("sd2-unclip", 64, None)
    assert len(spec.picture_mean) == (64 if stats else 0)
    positive, negative, shown = text(64, 1), text(64, 2), noise(1, 64, seed=5)
    with checkpoint.model.weights.use() as unet:
        pipeline = unclip_pipeline(tiny, unet=unet, image_normalizer=normalizer_of(stats=stats))
        expected = varied_by_diffusers(pipeline, positive, negative, image_embeds=shown)
    result = varied(checkpoint, positive, negative, ClipVisionOutput(noise(1, 3, 64), noise(1, 3, 64), shown))
    torch.testing.assert_close(result, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_an_unclip_folder_of_diffusers_varies_a_picture_as_its_pipeline_does(
    prediction: str, tiny: ModuleType, tmp_path: Path
) -> None:
    unet = UNet2DConditionModel(
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=(1, 2),
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * 64,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    texts = CLIPTextModel(CLIPTextConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=1, hidden_act="gelu"))
    tower = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, projection_dim=64
        )
    )
    pipeline = unclip_pipeline(
        tiny,
        unet=filled(tiny, unet),
        scheduler=EulerDiscreteScheduler.from_config(euler(4).config, prediction_type=prediction),
        text_encoder=filled(tiny, texts, gain=1.0),
        image_encoder=filled(tiny, tower, gain=1.0),
        image_normalizer=normalizer_of(stats=True),
    )
    pipeline.save_pretrained(tmp_path / "unclip")

    memory = WeightMemory(precision="fp32")
    checkpoint, vision = open_checkpoint(tmp_path / "unclip", memory), open_vision(tmp_path / "unclip", memory)
    spec = checkpoint.model.spec
    assert checkpoint.clip is not None
    assert (spec.family, spec.network.picture_width) == ("sd2-unclip", 64)
    assert spec.prediction == {"epsilon": "eps", "v_prediction": "v"}[prediction]
    assert spec.picture_mean == tuple(noise(1, 64).flatten().tolist())
    picture = Image(torch.rand(1, 28, 28, 3, generator=torch.Generator().manual_seed(6)))
    positive, negative = (encode_prompt(checkpoint.clip, words).conditioning for words in ("a cat", "a dog"))
    with torch.no_grad():
        words = torch.tensor([[49406, 320, 2368, 49407, *[0] * 73]])  # "a cat", filled up as Stable Diffusion 2 does
        torch.testing.assert_close(positive.entries[0].embedding, pipeline.text_encoder(words)[0], atol=1e-5, rtol=1e-5)
    expected = varied_by_diffusers(pipeline, positive, negative, image=preprocess(picture, vision.spec))
    result = varied(checkpoint, positive, negative, encode_pictures(vision, picture))
    torch.testing.assert_close(result, expected, atol=2e-4, rtol=1e-3)
    unseen = varied(checkpoint, positive, negative, ClipVisionOutput(noise(1), noise(1), noise(1, 64)))
    assert not torch.allclose(unseen, expected, atol=1e-2)


def test_several_pictures_are_mixed_and_a_strength_of_zero_leaves_one_out(tiny: ModuleType, tmp_path: Path) -> None:
    spec = describe(write_unclip(tiny, tmp_path / "unclip.safetensors")).model
    one, other = noise(1, 64, seed=1), noise(1, 64, seed=2)
    both = picture_vector([PicturePrompt(one), PicturePrompt(other, strength=0.5)], spec, seed=4)
    assert torch.equal(both, picture_vector([PicturePrompt(one), PicturePrompt(other, strength=0.5)], spec, seed=4))
    assert not torch.allclose(both, picture_vector([PicturePrompt(one), PicturePrompt(other)], spec, seed=4))
    batch = picture_vector([PicturePrompt(torch.cat([one, other]))], spec, seed=4)
    assert torch.equal(batch, picture_vector([PicturePrompt(one), PicturePrompt(other)], spec, seed=4))
    nothing = text(64, 1)
    assert show_pictures(nothing, ClipVisionOutput(one, one, one), strength=0.0) is nothing


def test_an_sdxl_network_takes_pictures_in_place_of_pooled_text(tiny: ModuleType, tiny_sdxl: Path) -> None:
    model = opened(tiny_sdxl).model
    shown = PicturePrompt(noise(1, 64))
    condition = Condition(torch.zeros(1, 77, 128), pooled=torch.zeros(1, 64), pictures=(shown,))
    inputs = network_inputs(condition, spec=model.spec, latent=torch.zeros(1, 4, 8, 8), seed=1)
    assert inputs.pooled is not None
    assert torch.equal(inputs.pooled, picture_vector([shown], model.spec, seed=1)[:, :64])
    wrong = replace(condition, pictures=(PicturePrompt(noise(1, 32)),))
    with pytest.raises(
        ValueError, match=r"has the shape \[1, 32\], but a sdxl network is told of pictures by 64 numbers"
    ):
        network_inputs(wrong, spec=model.spec, latent=torch.zeros(1, 4, 8, 8))


EDM_LAYOUTS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "playground-2.5": (
        4,
        {"edm_mean": torch.zeros(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)},
        {"sigma_max": 80.0},
    ),
    "sdxl-edm": (
        4,
        {"edm_vpred.sigma_max": torch.tensor(90.0)},
        {"sigma_max": 90.0, "sigma_data": 1.0, "prediction_type": "v_prediction"},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EDM_LAYOUTS)
def test_sdxl_networks_of_continuous_levels_paint_as_diffusers_pipeline_does(
    name: str, tiny: ModuleType, tmp_path: Path
) -> None:
    channels, marks, config = EDM_LAYOUTS[name]
    tensors = {key: w.half().float() for key, w in tiny.sdxl_tensors(in_channels=channels).items()}
    save_file(tensors | marks, tmp_path / "edm.safetensors")
    checkpoint = opened(tmp_path / "edm.safetensors")
    spec = checkpoint.model.spec
    assert spec.family == name
    assert spec.levels == ContinuousLevels(0.002, config["sigma_max"])
    scheduler = EDMEulerScheduler(**config)
    scheduler.set_timesteps(4)
    first, second = (Condition(noise(1, 77, 128, seed=seed), pooled=noise(1, 64, seed=seed)) for seed in (1, 2))
    with checkpoint.model.weights.use() as unet:
        pipeline = StableDiffusionXLPipeline(
            vae=kl(tiny),
            unet=unet,
            scheduler=scheduler,
            text_encoder=None,
            text_encoder_2=None,
            tokenizer=None,
            tokenizer_2=None,
            add_watermarker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        start = initial_noise(torch.Size((1, 4, 8, 6)), SEED) * scheduler.sigmas[0] / scheduler.init_noise_sigma
        expected = pipeline(
            prompt_embeds=first.embedding,
            pooled_prompt_embeds=first.pooled,
            negative_prompt_embeds=second.embedding,
            negative_pooled_prompt_embeds=second.pooled,
            latents=start,
            height=64,
            width=48,
            num_inference_steps=4,
            guidance_scale=3.0,
            output_type="latent",
        ).images
        pipeline.save_pretrained(tmp_path / "folder")
    folder = opened(tmp_path / "folder")
    assert folder.model.spec == spec
    for model in (checkpoint.model, folder.model):
        result = sample_guided(
            Guider(
                model,
                {"positive": Conditioning((first,)), "negative": Conditioning((second,))},
                ClassifierFree(3.0),
            ),
            Latent(torch.zeros(1, 4, 8, 6)),
            noise=Noise(SEED),
            sampler=Sampler("euler"),
            sigmas=Sigmas(scheduler.sigmas),
        )
        ours = to_model_space(result.latent.samples, spec.latent)
        torch.testing.assert_close(ours, expected, atol=2e-3, rtol=2e-3)
    EDMDPMSolverMultistepScheduler(**config).save_pretrained(tmp_path / "folder" / "scheduler")
    assert describe_network(tmp_path / "folder").model == spec
    written = save_checkpoint(tmp_path, prefix="again", model=checkpoint.model)
    assert describe(written).model == spec


def test_playgrounds_latents_have_a_mean_and_a_spread_for_each_channel() -> None:
    z = noise(1, 4, 2, 2)
    x = to_model_space(z, PLAYGROUND_LATENT)
    mean, std = (torch.tensor(values).view(1, 4, 1, 1) for values in (PLAYGROUND_LATENT.means, PLAYGROUND_LATENT.stds))
    torch.testing.assert_close(x, (z - mean) * 0.5 / std)
    torch.testing.assert_close(to_vae_space(x, PLAYGROUND_LATENT), z)


def test_a_cosxl_edit_model_is_shown_the_picture_in_its_own_units(tiny: ModuleType, tmp_path: Path) -> None:
    tensors = tiny.sdxl_tensors(in_channels=8) | {"edm_vpred.sigma_max": torch.tensor([120.0])}
    spec = describe(tiny.write(tmp_path / "cosxl_edit.safetensors", tensors)).model
    assert (spec.family, spec.edits, spec.prediction) == ("sdxl-edm", True, "v")
    condition = Condition(torch.zeros(1, 77, 128), pooled=torch.zeros(1, 64), concat_latent=torch.ones(1, 4, 8, 8))
    shown = network_inputs(condition, spec=spec, latent=torch.zeros(1, 4, 8, 8)).concat
    assert torch.equal(shown, torch.full((1, 4, 8, 8), 0.13025))


@pytest.mark.filterwarnings("ignore")
def test_a_depth_model_keeps_to_depths_as_diffusers_pipeline_does(tiny: ModuleType, tmp_path: Path) -> None:
    checkpoint = opened(tiny.write_sd2(tmp_path / "depth.safetensors", in_channels=5))
    spec = checkpoint.model.spec
    assert (spec.family, spec.sees_depth, spec.prediction) == ("sd2", True, "eps")
    picture, depth = Pillow.effect_noise((64, 48), 90).convert("RGB"), noise(1, 30, 40).sigmoid()
    positive, negative = text(64, 1), text(64, 2)
    vae = kl(tiny)
    with checkpoint.model.weights.use() as unet:
        unet.register_to_config(sample_size=64)  # the pipeline asks for it
        pipeline = StableDiffusionDepth2ImgPipeline(
            unet=unet,
            vae=vae,
            scheduler=euler(4),
            text_encoder=None,
            tokenizer=None,
            depth_estimator=None,
            feature_extractor=None,
        )
        pipeline.set_progress_bar_config(disable=True)
        expected = pipeline(
            image=picture,
            depth_map=depth,
            prompt_embeds=positive.entries[0].embedding,
            negative_prompt_embeds=negative.entries[0].embedding,
            strength=1.0,
            num_inference_steps=4,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(SEED),
            output_type="latent",
        ).images
    draws = torch.Generator().manual_seed(SEED)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(1, 48, 64, 3) / 255
    with torch.inference_mode():
        start = vae.encode(pixels.movedim(-1, 1) * 2 - 1).latent_dist.sample(draws)
    start = start + torch.randn(start.shape, generator=draws) * euler(4).sigmas[0] / spec.latent.scale
    shown = Image(depth[..., None].expand(-1, -1, -1, 3))
    result = sample_guided(
        Guider(
            checkpoint.model,
            {"positive": show_depth(positive, shown), "negative": show_depth(negative, shown)},
            ClassifierFree(3.0),
        ),
        Latent(start),
        noise=Noise(SEED, silent=True),
        sampler=Sampler("euler"),
        sigmas=Sigmas(euler(4).sigmas),
    )
    ours = to_model_space(result.latent.samples, spec.latent)
    torch.testing.assert_close(ours, expected, atol=5e-4, rtol=1e-3)


def test_depths_are_stretched_from_the_furthest_to_the_nearest(tiny: ModuleType, tmp_path: Path) -> None:
    spec = describe(tiny.write_sd2(tmp_path / "depth.safetensors", in_channels=5)).model
    latent = torch.zeros(2, 4, 8, 8)
    flat = Condition(torch.zeros(1, 77, 64), depth=torch.full((1, 1, 16, 16), 0.3))
    assert torch.equal(extra_channels(flat, spec=spec, latent=latent), torch.full((2, 1, 8, 8), -1.0))
    assert not extra_channels(Condition(torch.zeros(1, 77, 64)), spec=spec, latent=latent).any()
    ramp = replace(flat, depth=torch.linspace(5, 9, 8).expand(1, 1, 8, 8))
    found = extra_channels(ramp, spec=spec, latent=latent)
    assert (found.shape, found.min().item(), found.max().item()) == ((2, 1, 8, 8), -1.0, 1.0)
