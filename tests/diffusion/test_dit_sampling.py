"""Whole short runs with diffusion transformers, against diffusers' own pipelines on the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Flux2Pipeline,
    FluxFillPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    StableDiffusion3Pipeline,
)
from safetensors.torch import save_file
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import Checkpoint, open_checkpoint, open_network, open_vae
from latentgraph.diffusion.families.transformers import FLUX_LATENT
from latentgraph.diffusion.latents.autoencoder import decode, encode
from latentgraph.diffusion.latents.batches import empty_latent, set_noise_mask, to_model_space
from latentgraph.diffusion.latents.picture_conditions import condition_on_inpaint
from latentgraph.diffusion.layouts.autoencoder_keys import vae_destinations
from latentgraph.diffusion.layouts.autoencoder_structure import read_vae
from latentgraph.diffusion.levels.chosen import flux2_levels
from latentgraph.diffusion.levels.schedules import ksampler_sigmas
from latentgraph.diffusion.levels.space import make_space
from latentgraph.diffusion.levels.space_spec import FluxLevels, SpaceSpec, flux_shift
from latentgraph.diffusion.model import Guider, Model
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.sampling.conditions import add_reference, set_guidance
from latentgraph.diffusion.sampling.guidance import ClassifierFree
from latentgraph.diffusion.sampling.run import sample, sample_guided
from latentgraph.diffusion.types import Condition, Conditioning, Image, Latent, Mask, Noise, Sampler, Sigmas, Vae

WIDTH, HEIGHT, STEPS, SEED = 64, 48, 3, 7
CLOSE = {"rtol": 0, "atol": 2e-5}
FILES = {"SD3": "first_stage_model.", "SD3.5": "first_stage_model.", "FLUX": "vae.", "schnell": "vae.", "fill": "vae."}


@pytest.fixture(scope="module")
def opened(tiny_dits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """A checkpoint of each kind, from a file with network and VAE."""
    folder = tmp_path_factory.mktemp("dits")
    memory = WeightMemory(precision="exact")
    checkpoints = {}
    for name, prefix in FILES.items():
        path = folder / f"{name}.safetensors"
        save_file(tiny_dits.checkpoint(tiny_dits.SPECS[name], vae_prefix=prefix), path)
        checkpoints[name] = open_checkpoint(path, memory)
    return checkpoints


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prompt(model: Model, seed: int) -> Conditioning:
    width = model.spec.pooled_width
    pooled = None if width is None else normal(seed + 1, 1, width)
    return Conditioning((Condition(normal(seed, 1, 7, model.spec.context_width), pooled),))


def initial_noise() -> Tensor:
    return normal(SEED, 1, 16, HEIGHT // 8, WIDTH // 8)


def packed(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def run_like(pipeline: Any, model: Model, positive: Conditioning, latent: Latent, **lists: Any) -> Tensor:
    """Runs Euler over the noise levels that a pipeline has just gone through; returns the latent in the network's units."""
    cfg = lists.pop("cfg", 1.0)
    guider = Guider(model, {"positive": positive, **lists}, ClassifierFree(cfg))
    result = sample_guided(
        guider, latent, noise=Noise(SEED), sampler=Sampler("euler"), sigmas=Sigmas(pipeline.scheduler.sigmas.clone())
    )
    return to_model_space(result.latent.samples, model.spec.latent)


def given(conditioning: Conditioning) -> dict[str, Tensor | None]:
    entry = conditioning.entries[0]
    return {"prompt_embeds": entry.embedding, "pooled_prompt_embeds": entry.pooled}


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("name", ["SD3", "SD3.5"])
def test_sd3_paints_as_diffusers_does(name: str, opened: dict[str, Checkpoint], tiny_dits: ModuleType) -> None:
    model = opened[name].model
    pipeline = quiet(StableDiffusion3Pipeline(
        transformer=tiny_dits.network(tiny_dits.SPECS[name]), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_dits.vae(), text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        text_encoder_3=None, tokenizer_3=None,
    ))  # fmt: skip
    positive, negative = prompt(model, 10), prompt(model, 20)
    expected = pipeline(
        **given(positive),
        **{f"negative_{key}": value for key, value in given(negative).items()},
        guidance_scale=4.0, num_inference_steps=STEPS, height=HEIGHT, width=WIDTH, latents=initial_noise(),
        output_type="latent",
    ).images  # fmt: skip
    empty = empty_latent(width=WIDTH, height=HEIGHT)
    found = run_like(pipeline, model, positive, empty, negative=negative, cfg=4.0)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert expected.std() > 0.5


@pytest.mark.parametrize("name", ["FLUX", "schnell"])
def test_flux_paints_as_diffusers_does(name: str, opened: dict[str, Checkpoint], tiny_dits: ModuleType) -> None:
    model = opened[name].model
    pipeline = flux_pipeline(FluxPipeline, name, tiny_dits)
    positive = set_guidance(prompt(model, 10), 2.5)
    expected = pipeline(
        **given(positive), guidance_scale=2.5, num_inference_steps=STEPS, height=HEIGHT, width=WIDTH,
        latents=packed(initial_noise()), output_type="latent",
    ).images  # fmt: skip
    found = run_like(pipeline, model, positive, empty_latent(width=WIDTH, height=HEIGHT))
    torch.testing.assert_close(packed(found), expected, **CLOSE)
    if name == "FLUX":
        other = run_like(pipeline, model, set_guidance(positive, 4.0), empty_latent(width=WIDTH, height=HEIGHT))
        assert not torch.allclose(found, other, rtol=0, atol=1e-3)


def test_fill_paints_into_a_picture_as_diffusers_does(opened: dict[str, Checkpoint], tiny_dits: ModuleType) -> None:
    model, vae = opened["fill"].model, opened["fill"].vae
    assert vae is not None
    pipeline = flux_pipeline(FluxFillPipeline, "fill", tiny_dits)
    image, mask = torch.rand(1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(3)), half_mask()
    positive = prompt(model, 10)
    expected = pipeline(
        **given(positive), image=image.movedim(-1, 1), mask_image=mask.values[:, None], guidance_scale=3.5,
        num_inference_steps=STEPS, height=HEIGHT, width=WIDTH, latents=packed(initial_noise()), output_type="latent",
    ).images  # fmt: skip
    made = condition_on_inpaint(vae, positive, positive, Image(image), mask, noise_mask=False)
    found = run_like(pipeline, model, made.positive, empty_latent(width=WIDTH, height=HEIGHT))
    torch.testing.assert_close(packed(found), expected, rtol=0, atol=2e-4)
    blank = run_like(pipeline, model, positive, empty_latent(width=WIDTH, height=HEIGHT))
    assert not torch.allclose(found, blank, rtol=0, atol=1e-2)


def test_kontext_goes_by_a_picture_as_diffusers_does(opened: dict[str, Checkpoint], tiny_dits: ModuleType) -> None:
    model = opened["FLUX"].model
    pipeline = flux_pipeline(FluxKontextPipeline, "FLUX", tiny_dits)
    positive, reference = prompt(model, 10), Latent(normal(30, 1, 16, 4, 8))
    expected = pipeline(
        **given(positive), image=to_model_space(reference.samples, FLUX_LATENT), guidance_scale=3.5,
        num_inference_steps=STEPS, height=HEIGHT, width=WIDTH, max_area=HEIGHT * WIDTH,
        latents=packed(initial_noise()), output_type="latent",
    ).images  # fmt: skip
    found = run_like(pipeline, model, add_reference(positive, reference), empty_latent(width=WIDTH, height=HEIGHT))
    torch.testing.assert_close(packed(found), expected, **CLOSE)


def test_flux2_paints_as_diffusers_does(tiny_dits: ModuleType, tmp_path: Path) -> None:
    save_file(tiny_dits.original(tiny_dits.FLUX2, tiny_dits.weights(tiny_dits.FLUX2)), tmp_path / "flux2.safetensors")
    model = open_network(tmp_path / "flux2.safetensors", WeightMemory(precision="exact"))
    network = tiny_dits.flux2_vae()
    pipeline = quiet(Flux2Pipeline(
        transformer=tiny_dits.network(tiny_dits.FLUX2), scheduler=flux_scheduler(), vae=network, text_encoder=None,
        tokenizer=None,
    ))  # fmt: skip
    positive = set_guidance(prompt(model, 10), 4.0)
    noise = normal(SEED, 1, 128, HEIGHT // 16, WIDTH // 16)
    expected = pipeline(
        prompt_embeds=positive.entries[0].embedding, guidance_scale=4.0, num_inference_steps=STEPS, height=HEIGHT,
        width=WIDTH, latents=noise, output_type="np",
    ).images  # fmt: skip
    sigmas = flux2_levels(STEPS, width=WIDTH, height=HEIGHT)
    torch.testing.assert_close(sigmas, pipeline.scheduler.sigmas, rtol=0, atol=1e-6)
    guider = Guider(model, {"positive": positive}, ClassifierFree(1.0))
    empty = empty_latent(width=WIDTH, height=HEIGHT)
    result = sample_guided(guider, empty, noise=Noise(SEED), sampler=Sampler("euler"), sigmas=Sigmas(sigmas))
    assert result.latent.samples.shape == noise.shape
    vae = flux2_vae(tiny_dits, tmp_path)
    torch.testing.assert_close(decode(vae, result.latent).pixels, torch.from_numpy(expected), rtol=0, atol=1e-4)
    reference = encode(vae, Image(torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(3))))
    assert reference.samples.shape == (1, 128, 2, 2)
    assert (reference.downscale, result.latent.downscale) == (16, 16)
    changed = sample_guided(
        replace(guider, lists={"positive": add_reference(positive, reference)}), empty, noise=Noise(SEED),
        sampler=Sampler("euler"), sigmas=Sigmas(sigmas),
    )  # fmt: skip
    assert not torch.allclose(changed.latent.samples, result.latent.samples, rtol=0, atol=1e-3)


def test_the_latents_of_flux2_are_those_of_diffusers(tiny_dits: ModuleType, tmp_path: Path) -> None:
    network, vae = tiny_dits.flux2_vae(), flux2_vae(tiny_dits, tmp_path)
    image = torch.rand(1, 32, 48, 3, generator=torch.Generator().manual_seed(3))
    pipeline = Flux2Pipeline(
        transformer=None, scheduler=flux_scheduler(), vae=network, text_encoder=None, tokenizer=None
    )
    expected = pipeline._encode_vae_image(image.movedim(-1, 1) * 2 - 1, generator=None)
    found = encode(vae, Image(image)).samples
    assert (vae.spec.latent_channels, vae.spec.downscale) == (128, 16)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def flux2_vae(tiny_dits: ModuleType, folder: Path) -> Vae:
    """Returns the autoencoder of a file in the layout of FLUX.2's makers."""
    tensors = tiny_dits.flux2_vae().state_dict()
    spec = read_vae({key: tuple(w.shape) for key, w in tensors.items()})
    file = {
        each.key: (tensors[each.names[0]][:, :, None, None] if each.kernel else tensors[each.names[0]]).clone()
        for each in vae_destinations(spec, tensors)
    }
    assert "encoder.quant_conv.weight" in file
    save_file(file, folder / "ae.safetensors")
    return open_vae(folder / "ae.safetensors", WeightMemory(precision="exact"))


def test_the_levels_of_flux_for_a_size_are_those_of_diffusers() -> None:
    scheduler = flux_scheduler()
    tokens = WIDTH * HEIGHT // 256
    shift = flux_shift(width=WIDTH, height=HEIGHT)
    assert shift == pytest.approx(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256))
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=shift)
    space = make_space(SpaceSpec("flow", FluxLevels(shift)))
    sigmas = ksampler_sigmas(space, sampler="euler", schedule="simple", steps=4)
    torch.testing.assert_close(sigmas, scheduler.sigmas, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["SD3.5", "FLUX"])
def test_a_picture_is_painted_over_from_its_latent(name: str, opened: dict[str, Checkpoint]) -> None:
    """Rectified flow mixes the latent and the noise in proportion; diffusers' scheduler says how."""
    checkpoint = opened[name]
    model, vae = checkpoint.model, checkpoint.vae
    assert vae is not None
    image = Image(torch.rand(1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(3)))
    source = encode(vae, image)
    assert source.samples.shape == (1, 16, HEIGHT // 8, WIDTH // 8)
    sigma = torch.tensor(0.6)
    guider = Guider(model, {"positive": prompt(model, 10)}, ClassifierFree(1.0))
    result = sample_guided(
        guider, source, noise=Noise(SEED), sampler=Sampler("euler"), sigmas=Sigmas(torch.stack([sigma, sigma * 0]))
    )
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[0.6])
    z = to_model_space(source.samples, model.spec.latent)
    x = scheduler.scale_noise(z, scheduler.timesteps[:1], initial_noise())
    with model.weights.use() as network:
        output = answer(network, model, x, float(sigma))
    expected = scheduler.step(output, scheduler.timesteps[0], x, return_dict=False)[0]
    found = to_model_space(result.latent.samples, model.spec.latent)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert decode(vae, result.latent).pixels.shape == (1, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", ["SD3", "FLUX"])
def test_only_the_masked_part_is_painted(name: str, opened: dict[str, Checkpoint]) -> None:
    model = opened[name].model
    source = Latent(normal(8, 1, 16, HEIGHT // 8, WIDTH // 8))
    options: dict[str, Any] = {"seed": SEED, "steps": 3, "cfg": 1.0, "sampler": "euler", "scheduler": "simple"}
    result = sample(model, prompt(model, 10), prompt(model, 20), set_noise_mask(source, half_mask()), **options)
    kept, painted = result.samples[..., : WIDTH // 16], result.samples[..., WIDTH // 16 :]
    torch.testing.assert_close(kept, source.samples[..., : WIDTH // 16], rtol=0, atol=1e-5)
    assert not torch.allclose(painted, source.samples[..., WIDTH // 16 :], rtol=0, atol=0.1)


def test_texts_of_unlike_length_are_not_stretched_for_a_transformer(opened: dict[str, Checkpoint]) -> None:
    """Where text and picture attend to each other, a text said twice is another text."""
    model = opened["SD3"].model
    positive = prompt(model, 10)
    short = Conditioning((replace(positive.entries[0], embedding=normal(40, 1, 14, model.spec.context_width)),))
    options: dict[str, Any] = {"seed": SEED, "steps": 1, "sampler": "euler", "scheduler": "simple"}
    empty = empty_latent(width=WIDTH, height=HEIGHT)
    both = sample(model, positive, short, empty, cfg=2.0, **options).samples
    first, second = (sample(model, each, each, empty, cfg=1.0, **options).samples for each in (positive, short))
    torch.testing.assert_close(both, 2 * first - second, rtol=0, atol=1e-4)


def test_a_reference_of_another_family_is_refused(opened: dict[str, Checkpoint]) -> None:
    model = opened["FLUX"].model
    positive = add_reference(prompt(model, 10), Latent(torch.ones(1, 4, 4, 4)))
    with pytest.raises(ValueError, match="a reference of 4 channels, but a flux network has latents of 16"):
        sample(
            model, positive, positive, empty_latent(width=64, height=64), seed=0, steps=1, cfg=1.0, sampler="euler",
            scheduler="simple",
        )  # fmt: skip


def answer(network: Any, model: Model, x: Tensor, sigma: float) -> Tensor:
    entry = prompt(model, 10).entries[0]
    text: dict[str, Any] = {"encoder_hidden_states": entry.embedding, "pooled_projections": entry.pooled}
    if model.spec.network.kind == "mmdit":
        result: Tensor = network(hidden_states=x, timestep=torch.tensor([1000 * sigma]), **text, return_dict=False)[0]
        return result
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    ids = FluxPipeline._prepare_latent_image_ids(1, rows, columns, "cpu", torch.float32)
    tokens = network(
        hidden_states=packed(x), timestep=torch.tensor([sigma]), guidance=torch.tensor([3.5]), **text, img_ids=ids,
        txt_ids=torch.zeros(7, 3), return_dict=False,
    )[0]  # fmt: skip
    unpacked: Tensor = FluxPipeline._unpack_latents(tokens, HEIGHT, WIDTH, 8)
    return unpacked


def half_mask() -> Mask:
    values = torch.zeros(1, HEIGHT, WIDTH)
    values[..., WIDTH // 2 :] = 1.0
    return Mask(values)


def flux_scheduler() -> Any:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)


def flux_pipeline(kind: type[Any], name: str, tiny_dits: ModuleType) -> Any:
    return quiet(kind(
        transformer=tiny_dits.network(tiny_dits.SPECS[name]), scheduler=flux_scheduler(), vae=tiny_dits.vae(),
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
    ))  # fmt: skip
