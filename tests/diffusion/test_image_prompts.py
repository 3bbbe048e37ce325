"""Image prompts: pictures are attended to as in diffusers' own pipelines, on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.checkpoints.opening import Checkpoint, open_checkpoint, open_vision
from latentgraph.diffusion.image_prompts.applying import open_ip_adapter, prompt_with_image
from latentgraph.diffusion.image_prompts.reading import attention_widths, describe_ip_adapter
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.patches import shared_copy
from latentgraph.diffusion.samplers.noise import initial_noise
from latentgraph.diffusion.sampling.options import SelfAttentionGuidance
from latentgraph.diffusion.sampling.run import sample
from latentgraph.diffusion.types import ClipVision, Condition, Conditioning, Image, Latent
from latentgraph.diffusion.vision.encoding import preprocess

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of diffusers' schedulers

STEPS, CFG, SEED = 4, 5.0, 7
TOWER_WIDTH, EMBEDDING = 64, 48


@pytest.fixture
def memory() -> WeightMemory:
    return WeightMemory(precision="exact", budget_bytes=1 << 30)


@pytest.fixture(scope="module")
def files(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """IP adapters by kind and family, and the vision tower that they were made with."""
    folder = tmp_path_factory.mktemp("ip_adapters")
    config = CLIPVisionConfig(
        hidden_size=TOWER_WIDTH, intermediate_size=64, num_hidden_layers=3, num_attention_heads=1, image_size=28,
        patch_size=14, projection_dim=EMBEDDING,
    )  # fmt: skip
    files = {"tower": tiny.write_diffusers(folder / "tower", CLIPVisionModelWithProjection(config))}
    for family, widths, context in (("sd1", tiny.SD1_ATTENTIONS, 64), ("sdxl", tiny.SDXL_ATTENTIONS, 128)):
        for kind in ("base", "plus", "full"):
            name = f"{kind}_{family}"
            picture = EMBEDDING if kind == "base" else TOWER_WIDTH
            path = folder / f"{name}.safetensors"
            files[name] = tiny.write_ip_adapter(path, kind, widths, context=context, picture=picture)
    return files


@pytest.fixture
def image(picture: Callable[[int, int], Image]) -> Image:
    return picture(40, 50)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompts(model: Model) -> tuple[Conditioning, Conditioning]:
    pooled = None if model.spec.pooled_width is None else draw(2, 64, seed=1)
    texts = draw(2, 7, model.spec.context_width, seed=2)
    positive, negative = (
        Conditioning((Condition(texts[n : n + 1], None if pooled is None else pooled[n : n + 1]),)) for n in (0, 1)
    )
    return positive, negative


def ours(model: Model, **options: Any) -> Tensor:
    latent = Latent(torch.zeros(1, 4, 8, 8))
    settings = {"seed": SEED, "steps": STEPS, "cfg": CFG, "sampler": "euler", "scheduler": "normal"} | options
    return sample(model, *prompts(model), latent, **settings).samples


@torch.inference_mode()
def seen(vision: ClipVision, image: Image, kind: str) -> Tensor:
    """Returns what diffusers asks a tower for, of no picture and of the pictures: (2, pictures, ...)."""
    x = preprocess(image, vision.spec)
    with vision.weights.use() as tower:
        if kind == "base":
            embeds = tower(x).image_embeds
            return torch.stack([torch.zeros_like(embeds), embeds])
        states = [tower(each, output_hidden_states=True).hidden_states[-2] for each in (torch.zeros_like(x), x)]
    return torch.stack(states)


def theirs(opened: Checkpoint, adapter: Path, embeds: Tensor, weight: float) -> Tensor:
    """Returns what diffusers' pipeline samples, in VAE space, with our network, noise, levels and conditions."""
    model = opened.model
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="linspace", steps_offset=1
    )
    positive, negative = (each.entries[0] for each in prompts(model))
    given: dict[str, Any] = {"prompt_embeds": positive.embedding, "negative_prompt_embeds": negative.embedding}
    parts: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline: Any = StableDiffusionPipeline
    if model.spec.pooled_width is not None:
        pipeline = StableDiffusionXLPipeline
        parts = {"text_encoder_2": None, "tokenizer_2": None, "force_zeros_for_empty_prompt": False}
        given |= {"pooled_prompt_embeds": positive.pooled, "negative_pooled_prompt_embeds": negative.pooled}
    assert opened.vae is not None
    weights: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, w in load_file(adapter).items():
        part, _, name = key.partition(".")
        weights[part][name] = w.float()
    with model.weights.use() as unet, opened.vae.weights.use() as vae:
        made = pipeline(
            vae=vae, text_encoder=None, tokenizer=None, unet=shared_copy(unet), scheduler=scheduler, **parts
        )
        made.load_ip_adapter(weights, subfolder="", weight_name="", image_encoder_folder=None, low_cpu_mem_usage=False)
        for processor in made.unet.attn_processors.values():
            processor.scale = [weight]
        made.set_progress_bar_config(disable=True)
        scheduler.set_timesteps(STEPS)
        noise = initial_noise(torch.Size((1, 4, 8, 8)), SEED) * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
        output = made(
            **given,
            ip_adapter_image_embeds=[embeds],
            height=64,
            width=64,
            num_inference_steps=STEPS,
            guidance_scale=CFG,
            latents=noise / scheduler.init_noise_sigma,
            output_type="latent",
        )
    return output.images / model.spec.latent.scale


@pytest.mark.parametrize("kind", ["base", "plus", "full"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_pictures_are_attended_to_as_by_diffusers_pipeline(
    family: str,
    kind: str,
    files: dict[str, Path],
    image: Image,
    memory: WeightMemory,
    request: pytest.FixtureRequest,
) -> None:
    opened = open_checkpoint(request.getfixturevalue(f"tiny_{family}"), memory)
    adapter, vision = open_ip_adapter(files[f"{kind}_{family}"], memory), open_vision(files["tower"], memory)
    both = Image(torch.cat([image.pixels, image.pixels.flip(1)]))
    for pictures in (image, both) if family == "sd1" else (image,):
        embeds = seen(vision, pictures, kind)
        expected = theirs(opened, files[f"{kind}_{family}"], embeds, 0.7)
        found = ours(prompt_with_image(opened.model, adapter, vision, pictures, weight=0.7))
        assert (found - ours(opened.model)).abs().max() > 0.005
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.fixture
def parts(tiny_sd1: Path, files: dict[str, Path], memory: WeightMemory) -> tuple[Model, Any, ClipVision]:
    model = open_checkpoint(tiny_sd1, memory).model
    return model, open_ip_adapter(files["plus_sd1"], memory), open_vision(files["tower"], memory)


def test_no_weight_changes_nothing(parts: tuple[Model, Any, ClipVision], image: Image) -> None:
    assert prompt_with_image(*parts, image, weight=0.0) is parts[0]


def test_the_base_network_is_left_as_it_was(parts: tuple[Model, Any, ClipVision], image: Image) -> None:
    model = parts[0]
    before = ours(model)
    ours(prompt_with_image(*parts, image))
    assert torch.equal(ours(model), before)


def test_prompts_in_a_row_add_up(parts: tuple[Model, Any, ClipVision], image: Image) -> None:
    """What pictures add is proportional to the weight, in each attention."""
    _, adapter, vision = parts
    twice = prompt_with_image(prompt_with_image(*parts, image, weight=0.25), adapter, vision, image, weight=0.5)
    once = prompt_with_image(*parts, image, weight=0.75)
    torch.testing.assert_close(ours(twice), ours(once), rtol=1e-4, atol=1e-4)


def test_pictures_are_seen_in_their_part_of_the_schedule_alone(
    parts: tuple[Model, Any, ClipVision], image: Image
) -> None:
    plain, whole = ours(parts[0]), ours(prompt_with_image(*parts, image))
    early = ours(prompt_with_image(*parts, image, end=0.2))
    assert torch.equal(ours(prompt_with_image(*parts, image, start=0.5, end=0.6)), plain)  # between two levels
    assert not torch.allclose(early, plain, atol=1e-4)
    assert not torch.allclose(early, whole, atol=1e-4)


def test_a_batch_and_other_changes_go_with_pictures(parts: tuple[Model, Any, ClipVision], image: Image) -> None:
    """Self-attention guidance asks for the negative alone, which sees no picture."""
    from dataclasses import replace

    model = prompt_with_image(*parts, image)
    model = replace(model, options=replace(model.options, corrections=(SelfAttentionGuidance(),)))
    settings = {"seed": SEED, "steps": 2, "cfg": CFG, "sampler": "euler", "scheduler": "normal"}
    batch = sample(model, *prompts(model), Latent(torch.zeros(2, 4, 8, 8)), **settings).samples
    alone = sample(model, *prompts(model), Latent(torch.zeros(1, 4, 8, 8)), **settings).samples
    torch.testing.assert_close(batch[:1], alone, rtol=1e-3, atol=1e-3)


def test_fast_and_exact_precision_agree(tiny_sd1: Path, files: dict[str, Path], image: Image) -> None:
    """In fast precision passes share their work, and attention is computed otherwise."""
    results = []
    for precision in ("exact", "auto"):
        memory = WeightMemory(precision=precision)  # type: ignore[arg-type]
        model = open_checkpoint(tiny_sd1, memory).model
        adapter, vision = open_ip_adapter(files["plus_sd1"], memory), open_vision(files["tower"], memory)
        results.append(ours(prompt_with_image(model, adapter, vision, image), steps=2, cfg=2.0))
    exact, fast = results
    assert (exact - fast).abs().mean() < 0.05 * exact.abs().mean()


def test_attentions_are_counted_as_diffusers_counts_them(tiny_sdxl: Path, tiny_sd1: Path, tiny: ModuleType) -> None:
    for path, widths in ((tiny_sd1, tiny.SD1_ATTENTIONS), (tiny_sdxl, tiny.SDXL_ATTENTIONS)):
        model = open_checkpoint(path, WeightMemory()).model
        assert attention_widths(model.spec.network) == widths
        with model.weights.use() as unet:
            names = [name.removesuffix(".processor") for name in unet.attn_processors if ".attn2." in name]
            assert tuple(unet.get_submodule(name).to_q.out_features for name in names) == widths


@pytest.mark.parametrize(("kind", "family"), [("base", "sdxl"), ("plus", "sdxl")])
def test_a_wrong_pairing_is_refused_before_a_weight_is_read(
    kind: str, family: str, tiny_sd1: Path, files: dict[str, Path], image: Image, memory: WeightMemory
) -> None:
    model, vision = open_checkpoint(tiny_sd1, memory).model, open_vision(files["tower"], memory)
    adapter = open_ip_adapter(files[f"{kind}_{family}"], memory)
    with pytest.raises(ValueError, match=r"8 attentions to text of 128 .* has 4 to text of 64; use one .* sd1 family"):
        prompt_with_image(model, adapter, vision, image)
    assert memory.resident_bytes == 0


def test_another_vision_tower_is_refused(
    tiny_sd1: Path, files: dict[str, Path], image: Image, memory: WeightMemory, tiny: ModuleType, tmp_path: Path
) -> None:
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=28, patch_size=14,
        projection_dim=16,
    )  # fmt: skip
    tower = tiny.write_diffusers(tmp_path / "tower", CLIPVisionModelWithProjection(config))
    model, vision = open_checkpoint(tiny_sd1, memory).model, open_vision(tower, memory)
    for kind, words in (("base", "image embedding of 16 .* of 48"), ("plus", "token states of 32 .* of 64")):
        with pytest.raises(ValueError, match=words):
            prompt_with_image(model, open_ip_adapter(files[f"{kind}_sd1"], memory), vision, image)


def test_other_files_are_refused_by_name(
    tiny_sd1: Path, tiny: ModuleType, tmp_path: Path, files: dict[str, Path], memory: WeightMemory
) -> None:
    faces = load_file(files["base_sd1"])
    faces |= {"image_proj.proj.2.weight": torch.zeros(4, 4), "image_proj.proj.0.weight": torch.zeros(4, 4)}
    del faces["image_proj.proj.weight"]
    instant = load_file(files["plus_sd1"])
    instant["image_proj.proj_in.weight"] = torch.zeros(len(instant["image_proj.proj_in.weight"]), 512)
    xlabs = {
        "ip_adapter_proj_model.proj.weight": torch.zeros(8, 4),
        "double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": torch.zeros(8, 4),
    }
    for path, words in (
        (tiny_sd1, "found a checkpoint"),
        (tiny.write(tmp_path / "lora.safetensors", tiny.sd1_lora()), "found a LoRA"),
        (tiny.write(tmp_path / "faces.safetensors", faces), "found an IP adapter for faces"),
        (tiny.write(tmp_path / "instant.safetensors", instant), "found an IP adapter for faces"),
        (tiny.write(tmp_path / "xlabs.safetensors", xlabs), r"found an IP adapter for FLUX\.1"),
    ):
        with pytest.raises(HeaderError, match=words):
            describe_ip_adapter(path)
    with pytest.raises(HeaderError, match="with LoadIPAdapter"):
        open_checkpoint(files["base_sd1"], memory)
