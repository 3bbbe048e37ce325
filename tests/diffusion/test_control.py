"""Control networks: told from their headers, and steering as they do in diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    EulerDiscreteScheduler,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionPipeline,
    T2IAdapter,
)
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.control.applying import apply_control, open_control, tell_kind
from latentgraph.diffusion.control.reading import describe_control
from latentgraph.diffusion.control.specs import refusal
from latentgraph.diffusion.control.transformer_specs import FLUX_UNION_KINDS
from latentgraph.diffusion.control.unet_specs import ControlNetSpec, T2IAdapterSpec
from latentgraph.diffusion.levels.space import discrete_space
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.samplers.noise import initial_noise
from latentgraph.diffusion.sampling.conditioning import prepare_conditions
from latentgraph.diffusion.sampling.conditions import combine, set_area, set_mask
from latentgraph.diffusion.sampling.controls import Steering
from latentgraph.diffusion.sampling.network_inputs import ActiveControl, NetworkInputs
from latentgraph.diffusion.sampling.run import sample
from latentgraph.diffusion.types import Condition, Conditioning, ControlNet, Image, Latent, Mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of diffusers' schedulers

STEPS, CFG, SEED, SIDE = 4, 5.0, 7, 64  # 999, 666, 333, 0: levels that need no interpolation
SD1_UNET = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
}
SDXL_UNET = {
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    "attention_head_dim": (1, 2),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 64 + 6 * 256,
}
XL_ADAPTER_UNET = (1, 2, 2)  # three levels, as SDXL has: the last feature is for the middle


@pytest.fixture
def memory() -> WeightMemory:
    return WeightMemory(precision="exact", budget_bytes=1 << 30)


@pytest.fixture(scope="module")
def nets(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Control networks by kind, in their makers' layout or in diffusers'."""
    folder = tmp_path_factory.mktemp("control")
    union = ControlNetUnionModel(**SDXL_UNET, num_control_type=8, num_trans_channel=64, num_proj_channel=64)
    adapters = {
        "sd1-adapter": T2IAdapter(3, [32, 64], 2, 8, "full_adapter"),
        "sd1-light-adapter": T2IAdapter(3, [32, 64, 64], 2, 8, "light_adapter"),
        "sdxl-adapter": T2IAdapter(3, [64, 128, 128, 128], 2, 16, "full_adapter_xl"),
    }
    return {
        "sd1": tiny.write_control_net(folder / "sd1.safetensors", tiny.SD1),
        "sd2": tiny.write_control_net(folder / "sd2.safetensors", tiny.SD2),
        "sdxl": tiny.write_control_net(folder / "sdxl.safetensors", tiny.SDXL),
        "shuffle": tiny.write_control_net(folder / "control_sd1_shuffle.safetensors", tiny.SD1),
        "sd1-folder": tiny.write_diffusers(folder / "sd1", ControlNetModel(**SD1_UNET)),
        "sdxl-folder": tiny.write_diffusers(folder / "sdxl", ControlNetModel(**SDXL_UNET)),
        "union": tiny.write_diffusers(folder / "union", union),
        **{name: tiny.write_diffusers(folder / name, adapter) for name, adapter in adapters.items()},
    }


@pytest.fixture(scope="module")
def tiny_sdxl_deep(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SDXL network of three levels."""
    layout = tiny.UNetLayout(
        64, XL_ADAPTER_UNET, (1, 1, 1), (0, 1, 1), (0, 0, 1, 1, 1, 1), 1, context=128, linear=True, adm=64 + 6 * 256
    )
    shapes = {tiny.UNET: tiny.unet_shapes(layout), tiny.VAE: tiny.vae_shapes()}
    return tiny.write(tmp_path_factory.mktemp("deep") / "sdxl.safetensors", tiny._joined(shapes))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def hint(picture: Callable[[int, int], Image]) -> Image:
    return picture(SIDE, SIDE)


def prompts(model: Model, seed: int = 1) -> tuple[Conditioning, Conditioning]:
    pooled = None if model.spec.network.vector_width is None else draw(2, 64, seed=seed)
    texts = draw(2, 7, model.spec.context_width, seed=seed)
    positive, negative = (
        Conditioning((Condition(texts[n : n + 1], None if pooled is None else pooled[n : n + 1]),)) for n in (0, 1)
    )
    return positive, negative


def ours(model: Model, positive: Conditioning, negative: Conditioning, *, side: int = SIDE, **options: Any) -> Tensor:
    latent = Latent(torch.zeros(1, 4, side // 8, side // 8))
    steps = {"seed": SEED, "steps": STEPS, "cfg": CFG, "sampler": "euler", "scheduler": "normal"}
    return sample(model, positive, negative, latent, **steps, **options).samples


def theirs(pipeline: Any, model: Model, vae: Any, steering: dict[str, Any], hint: Image, **options: Any) -> Tensor:
    """Returns what a pipeline of diffusers samples, in VAE space, with our network, noise, levels and conditions."""
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="linspace"
    )
    positive, negative = prompts(model)
    given: dict[str, Any] = {
        "prompt_embeds": positive.entries[0].embedding,
        "negative_prompt_embeds": negative.entries[0].embedding,
    }
    parts: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if model.spec.network.vector_width is not None:
        parts = {"text_encoder_2": None, "tokenizer_2": None, "force_zeros_for_empty_prompt": False}
        given |= {
            "pooled_prompt_embeds": positive.entries[0].pooled,
            "negative_pooled_prompt_embeds": negative.entries[0].pooled,
        }
    with model.weights.use() as unet, vae.weights.use() as autoencoder:
        made = pipeline(
            vae=autoencoder, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler, **steering, **parts
        )
        made.set_progress_bar_config(disable=True)
        noise = initial_noise(torch.Size((1, 4, SIDE // 8, SIDE // 8)), SEED)
        scheduler.set_timesteps(STEPS)
        highest = scheduler.sigmas[0]
        noise = noise * (highest**2 + 1) ** 0.5 / scheduler.init_noise_sigma
        image = hint.pixels.movedim(-1, 1)
        images = {"control_image": [image]} if "Union" in pipeline.__name__ else {"image": image}
        output = made(
            **given,
            **images,
            height=SIDE,
            width=SIDE,
            num_inference_steps=STEPS,
            guidance_scale=CFG,
            latents=noise,
            output_type="latent",
            **options,
        )
    return output.images / model.spec.latent.scale


CASES = {
    "sd1": (StableDiffusionControlNetPipeline, "tiny_sd1", "sd1-folder"),
    "sdxl": (StableDiffusionXLControlNetPipeline, "tiny_sdxl", "sdxl-folder"),
    "union": (StableDiffusionXLControlNetUnionPipeline, "tiny_sdxl", "union"),
    "sd1 adapter": (StableDiffusionAdapterPipeline, "tiny_sd1", "sd1-adapter"),
    "sd1 light adapter": (StableDiffusionAdapterPipeline, "reference_tiny", "sd1-light-adapter"),
    "sdxl adapter": (StableDiffusionXLAdapterPipeline, "tiny_sdxl_deep", "sdxl-adapter"),
}


@pytest.mark.parametrize(("pipeline", "checkpoint", "net"), CASES.values(), ids=CASES)
def test_sampling_is_steered_as_by_diffusers_pipeline(
    pipeline: Any,
    checkpoint: str,
    net: str,
    nets: dict[str, Path],
    hint: Image,
    memory: WeightMemory,
    request: pytest.FixtureRequest,
) -> None:
    opened = open_checkpoint(request.getfixturevalue(checkpoint), memory)
    control = open_control(nets[net], memory)
    options: dict[str, Any] = {"controlnet_conditioning_scale": 0.75}
    if net == "union":
        control = tell_kind(control, "canny/lineart/anime_lineart/mlsd")
        steering: dict[str, Any] = {
            "controlnet": ControlNetUnionModel.from_pretrained(nets[net], low_cpu_mem_usage=False)
        }
        options |= {"control_mode": 3}
    elif "adapter" in net:
        steering = {"adapter": T2IAdapter.from_pretrained(nets[net], low_cpu_mem_usage=False)}
        options = {"adapter_conditioning_scale": 0.75}
    else:
        steering = {"controlnet": ControlNetModel.from_pretrained(nets[net], low_cpu_mem_usage=False)}
    expected = theirs(pipeline, opened.model, opened.vae, steering, hint, **options)
    positive, negative = apply_control(prompts(opened.model), control, hint, strength=0.75)
    found = ours(opened.model, positive, negative)
    unsteered = ours(opened.model, *prompts(opened.model))
    assert (found - unsteered).abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("layout", ["SD1", "SD2", "SDXL", "REFERENCE"])
def test_the_original_layout_is_read_as_diffusers_reads_it(layout: str, tiny: ModuleType, tmp_path: Path) -> None:
    path = tiny.write_control_net(tmp_path / "net.safetensors", getattr(tiny, layout))
    spec = describe_control(path).spec
    assert isinstance(spec, ControlNetSpec)
    with open_control(path, WeightMemory(precision="exact")).weights.use() as controller:
        network = controller._network
        network.controlnet_cond_embedding = controller._embed
        found = network.state_dict()
        converted = convert_controlnet_checkpoint(load_file(path), dict(network.config))
    found = {key: w for key, w in found.items() if "add_embedding" not in key}  # which diffusers' converter leaves out
    assert converted.keys() == found.keys()
    assert [key for key, w in found.items() if not torch.equal(w, converted[key].reshape(w.shape).float())] == []


@pytest.mark.parametrize(
    ("net", "family", "title"),
    [
        ("sd1", "sd1", "a ControlNet for Stable Diffusion 1.x"),
        ("sd2", "sd2", "a ControlNet for Stable Diffusion 2.x"),
        ("sdxl", "sdxl", "a ControlNet for Stable Diffusion XL"),
        ("sd1-folder", "sd1", "a ControlNet for Stable Diffusion 1.x"),
        ("union", "sdxl", "a union ControlNet for Stable Diffusion XL"),
        ("sd1-adapter", "sd1", "a T2I adapter for Stable Diffusion 1.x"),
        ("sdxl-adapter", "sdxl", "a T2I adapter for Stable Diffusion XL"),
    ],
)
def test_a_header_tells_what_a_control_network_is_for(net: str, family: str, title: str, nets: dict[str, Path]) -> None:
    spec = describe_control(nets[net]).spec
    assert (spec.family, spec.title) == (family, title)


def original_adapter(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a diffusers T2I adapter by its makers' names, which count res blocks through."""
    tensors = {}
    for key, w in load_file(path / "diffusion_pytorch_model.safetensors").items():
        parts = key.removeprefix("adapter.").split(".")
        if "resnets" in parts:
            parts = ["body", str(2 * int(parts[1]) + int(parts[3])), *parts[4:]]
        elif parts[0] == "body":
            parts = ["body", str(2 * int(parts[1])), *parts[2:]]
        tensors[".".join(parts)] = w
    return tensors


@pytest.mark.parametrize("net", ["sd1-adapter", "sdxl-adapter"])
def test_an_adapter_in_its_makers_layout_is_the_same_network(
    net: str, nets: dict[str, Path], hint: Image, memory: WeightMemory, tiny: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "adapter.safetensors"
    tiny.save_file({key: w.contiguous() for key, w in original_adapter(nets[net]).items()}, path)
    assert describe_control(path).spec == describe_control(nets[net]).spec
    features = []
    for each in (path, nets[net]):
        with open_control(each, memory).weights.use() as controller, torch.inference_mode():
            features.append(controller.embed(hint.pixels.movedim(-1, 1)))
    assert all(torch.equal(a, b) for a, b in zip(*features, strict=True))


def test_a_light_adapter_in_its_makers_layout_is_the_same_network(
    nets: dict[str, Path], tiny: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "adapter.safetensors"
    weights = load_file(nets["sd1-light-adapter"] / "diffusion_pytorch_model.safetensors")
    renamed = {key.removeprefix("adapter.").replace(".resnets.", ".body."): w for key, w in weights.items()}
    tiny.save_file(renamed, path)
    spec = describe_control(path).spec
    assert isinstance(spec, T2IAdapterSpec)
    assert spec == describe_control(nets["sd1-light-adapter"]).spec
    assert (spec.kind, spec.widths, spec.features) == ("light_adapter", (32, 64, 64), (32, 64, 64, 64))


def test_grey_adapters_see_the_mean_of_the_colours(
    reference_tiny: Path, tiny: ModuleType, tmp_path: Path, hint: Image, memory: WeightMemory
) -> None:
    path = tiny.write_diffusers(tmp_path / "grey", T2IAdapter(1, [32, 64, 64], 2, 8, "light_adapter"))
    model, net = open_checkpoint(reference_tiny, memory).model, open_control(path, memory)
    assert net.spec.hint.channels == 1
    grey = Image(hint.pixels.mean(dim=-1, keepdim=True).expand(-1, -1, -1, 3))
    coloured, colourless = (ours(model, *apply_control(prompts(model), net, each)) for each in (hint, grey))
    torch.testing.assert_close(coloured, colourless)


@pytest.fixture
def steered(tiny_sd1: Path, nets: dict[str, Path], memory: WeightMemory) -> tuple[Model, ControlNet]:
    return open_checkpoint(tiny_sd1, memory).model, open_control(nets["sd1"], memory)


def test_no_strength_changes_nothing(steered: tuple[Model, ControlNet], hint: Image) -> None:
    model, net = steered
    both = prompts(model)
    assert apply_control(both, net, hint, strength=0.0) == list(both)


def test_controls_in_a_row_add_up(steered: tuple[Model, ControlNet], hint: Image) -> None:
    """What a ControlNet adds is proportional to its strength, so two are as good as one that is stronger."""
    model, net = steered
    one = apply_control(prompts(model), net, hint, strength=0.75)
    two = apply_control(apply_control(prompts(model), net, hint, strength=0.5), net, hint, strength=0.25)
    torch.testing.assert_close(ours(model, *two), ours(model, *one), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours(model, *two), ours(model, *prompts(model)), atol=1e-2)


def test_a_control_acts_in_its_part_of_the_schedule_alone(steered: tuple[Model, ControlNet], hint: Image) -> None:
    model, net = steered
    plain, whole = (ours(model, *both) for both in (prompts(model), apply_control(prompts(model), net, hint)))
    early, late = (
        ours(model, *apply_control(prompts(model), net, hint, start=start, end=end))
        for start, end in ((0.0, 0.2), (0.9999, 1.0))
    )
    assert not torch.allclose(early, plain, atol=1e-3)
    assert not torch.allclose(early, whole, atol=1e-3)
    never = apply_control(prompts(model), net, hint, start=0.5, end=0.6)  # between two of the four levels
    assert torch.equal(ours(model, *never), plain)
    torch.testing.assert_close(late, plain, atol=0.2, rtol=0.2)  # the last step alone, from a low level


def test_conditions_with_unlike_controls_are_asked_apart(steered: tuple[Model, ControlNet], hint: Image) -> None:
    """A run in which half of the prompts are steered is the mean of a run of each half, at a single step without guidance."""
    model, net = steered
    first, second = prompts(model)
    (other,) = apply_control([second], net, Image(hint.pixels.flip(1)))
    (one,) = apply_control([first], net, hint)
    steps = {"seed": SEED, "steps": 1, "cfg": 1.0, "sampler": "euler", "scheduler": "normal"}
    latent = Latent(torch.zeros(1, 4, 8, 8))
    found, *each = (sample(model, c, c, latent, **steps).samples for c in (combine(one, other), one, other))
    torch.testing.assert_close(found, sum(each) / 2, rtol=1e-4, atol=1e-4)


def test_a_window_shows_its_control_the_whole_picture(steered: tuple[Model, ControlNet], hint: Image) -> None:
    model, net = steered
    whole = prompts(model)[0]
    window = set_area(prompts(model)[0], width=32, height=64, x=32, y=0)
    (both,) = apply_control([combine(whole, window)], net, hint)
    mask = set_mask(whole, Mask(torch.ones(1, 8, 8)))
    (masked,) = apply_control([mask], net, hint)
    steps = {"seed": SEED, "steps": 1, "cfg": 1.0, "sampler": "euler", "scheduler": "normal"}
    latent = Latent(torch.zeros(2, 4, 8, 8))
    found = sample(model, both, both, latent, **steps).samples
    (plain,) = apply_control([whole], net, hint)
    left = sample(model, plain, plain, latent, **steps).samples
    torch.testing.assert_close(found[..., :4], left[..., :4])  # the window is on the right
    assert not torch.allclose(found[..., 4:], left[..., 4:], atol=1e-2)
    torch.testing.assert_close(sample(model, masked, masked, latent, **steps).samples, left, rtol=1e-4, atol=1e-4)


def test_a_batch_of_pictures_steers_a_batch_of_latents_item_by_item(
    steered: tuple[Model, ControlNet], hint: Image
) -> None:
    model, net = steered
    flipped = Image(hint.pixels.flip(1))
    steps = {"seed": SEED, "steps": 2, "cfg": CFG, "sampler": "euler", "scheduler": "normal"}
    batch = Latent(torch.zeros(2, 4, 8, 8))
    together = Image(torch.cat([hint.pixels, flipped.pixels]))
    found = sample(model, *apply_control(prompts(model), net, together), batch, **steps).samples
    for item, each in enumerate((hint, flipped)):
        alone = sample(model, *apply_control(prompts(model), net, each), batch, **steps).samples
        torch.testing.assert_close(found[item], alone[item], rtol=1e-4, atol=1e-4)


def test_a_control_acts_on_the_items_of_a_pass_that_it_holds_for(
    steered: tuple[Model, ControlNet], hint: Image
) -> None:
    model, net = steered
    (conditioning,) = apply_control(prompts(model)[:1], net, hint)
    x, timestep = draw(2, 4, 8, 8, seed=3), torch.tensor([500.0, 500.0])
    ((condition,),) = prepare_conditions([conditioning], spec=model.spec, space=discrete_space(), latent=x)
    inputs = NetworkInputs(condition.inputs.context.expand(2, -1, -1))
    with ExitStack() as held, torch.inference_mode():
        steer = Steering([condition], held, model=model)
        both, first = (
            steer(x, timestep, replace(inputs, controls=(ActiveControl(condition.controls[0], holds),)))
            for holds in (1.0, torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1))
        )
    assert both is not None
    assert first is not None
    for whole, half in zip(both.skips + both.middle, first.skips + first.middle, strict=True):
        assert whole[1].any()
        assert torch.equal(half[0], whole[0])
        assert not half[1].any()


def test_a_spread_control_reaches_the_negative_prompt(steered: tuple[Model, ControlNet], hint: Image) -> None:
    model, net = steered
    positive, negative = prompts(model)
    both = apply_control([positive, negative], net, hint)
    (spread,) = apply_control([positive], net, hint, spread=True)
    (alone,) = apply_control([positive], net, hint)
    expected = ours(model, *both)
    assert torch.equal(ours(model, spread, negative), expected)
    assert not torch.allclose(ours(model, alone, negative), expected, atol=1e-3)
    own = apply_control([negative], net, Image(hint.pixels.flip(1)))[0]
    torch.testing.assert_close(ours(model, spread, own), ours(model, alone, own))


def test_a_shuffle_network_says_the_same_of_the_whole_picture(
    nets: dict[str, Path], tiny_sd1: Path, hint: Image, memory: WeightMemory
) -> None:
    net = open_control(nets["shuffle"], memory)
    assert net.spec.pooled  # type: ignore[attr-defined]
    model = open_checkpoint(tiny_sd1, memory).model
    sampled = [
        ours(model, *apply_control(prompts(model), open_control(nets[n], memory), hint)) for n in ("shuffle", "sd1")
    ]
    assert not torch.allclose(*sampled, atol=1e-3)


def test_a_union_network_that_is_not_told_ignores_its_kinds(
    nets: dict[str, Path], tiny_sdxl: Path, hint: Image, memory: WeightMemory
) -> None:
    model, net = open_checkpoint(tiny_sdxl, memory).model, open_control(nets["union"], memory)
    results = [
        ours(model, *apply_control(prompts(model), tell_kind(net, kind), hint)) for kind in ("auto", "depth", "normal")
    ]
    assert not any(torch.allclose(a, b, atol=1e-4) for a, b in ((results[0], results[1]), (results[1], results[2])))


@torch.inference_mode()
def test_pictures_of_a_batch_steer_apart_in_a_union_network(nets: dict[str, Path], memory: WeightMemory) -> None:
    """diffusers' network lets the items of a batch attend to each other."""
    x, hints, time = draw(2, 4, 8, 8), draw(2, 3, 64, 64, seed=1), torch.full((2,), 500.0)
    context, pooled, sizes = draw(2, 7, 128, seed=2), draw(2, 64, seed=3), torch.full((2, 6), 64.0)
    with open_control(nets["union"], memory).weights.use() as controller:

        def steered(items: slice) -> Tensor:
            inputs = NetworkInputs(context[items], pooled=pooled[items], sizes=sizes[items])
            embedded = [each[items] for each in controller.embed(10.0 * hints)]
            return controller.steer(x[items], time[items], inputs, embedded, (1,)).middle[0]

        together, alone = steered(slice(2)), [steered(slice(n, n + 1)) for n in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_union_networks_know_kinds_by_the_numbers_of_their_makers(nets: dict[str, Path]) -> None:
    """xinsir's (6 kinds, and 8 in the later one) for SDXL, and Shakker Labs' for FLUX.1, by their cards."""
    promax = ["openpose", "depth", "hed/pidi/scribble/ted", "canny/lineart/anime_lineart/mlsd", "normal", "segment", "tile",
              "repaint"]  # fmt: skip
    spec = describe_control(nets["union"]).spec
    assert isinstance(spec, ControlNetSpec)
    assert spec.union is not None
    assert spec.kinds == {kind: n for n, kind in enumerate(promax)}
    assert replace(spec, union=replace(spec.union, kinds=6)).kinds == {kind: n for n, kind in enumerate(promax[:6])}
    flux = ["canny/lineart/anime_lineart/mlsd", "tile", "depth", "blur", "openpose", "gray", "low quality"]
    assert {kind: n for n, kind in enumerate(flux)} == FLUX_UNION_KINDS


def test_kinds_are_refused_by_networks_that_do_not_know_them(nets: dict[str, Path], memory: WeightMemory) -> None:
    with pytest.raises(ValueError, match="takes one kind of picture only"):
        tell_kind(open_control(nets["sd1"], memory), "depth")
    with pytest.raises(ValueError, match=r"which knows openpose, .*, repaint, and not blur"):
        tell_kind(open_control(nets["union"], memory), "blur")


@pytest.mark.parametrize("net", ["sd1", "sd2", "sdxl", "union", "sd1-adapter", "sdxl-adapter"])
@pytest.mark.parametrize("checkpoint", ["sd1", "sd2", "sdxl"])
def test_every_wrong_pairing_is_refused_before_a_weight_is_read(
    net: str, checkpoint: str, nets: dict[str, Path], hint: Image, memory: WeightMemory, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(f"tiny_{checkpoint}")
    model, control = open_checkpoint(path, memory).model, open_control(nets[net], memory)
    if control.spec.family == checkpoint and net != "sdxl-adapter":  # that one is for three levels
        assert refusal(control.spec, model.spec) is None
        return
    with pytest.raises(ValueError, match=f"but the model is of the {checkpoint} family"):
        ours(model, *apply_control(prompts(model), control, hint))
    assert memory.resident_bytes == 0


def test_the_networks_of_a_run_share_one_budget(steered: tuple[Model, ControlNet], hint: Image, tiny_sd1: Path) -> None:
    model, net = steered
    ours(model, *apply_control(prompts(model), net, hint))
    memory = model.weights.memory
    assert memory.resident_bytes == sum(handle.weights.source.size(memory.policy) for handle in (model, net))


@pytest.fixture(scope="module")
def control_lora(tiny: ModuleType, tiny_sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A control LoRA for a tiny SD1, and the ControlNet that it makes of it."""
    folder = tmp_path_factory.mktemp("control_lora")
    whole = tiny.fill(tiny.control_net_shapes(tiny.SD1))
    base = {
        key.removeprefix(tiny.UNET): w.float() for key, w in load_file(tiny_sd1).items() if key.startswith(tiny.UNET)
    }
    tensors, sums = {"lora_controlnet": torch.zeros(0)}, {}
    for number, (key, w) in enumerate(whole.items()):
        module = key.removesuffix(".weight")
        if key not in base:  # what it adds to a UNet's encoder: the hint's convolutions and the outputs
            tensors[key] = sums[key] = w.half().float()
        elif key.endswith(".weight") and w.ndim > 1:
            up, down = (
                0.1 * draw(*shape, seed=number) for shape in ((len(w), 2, *[1] * (w.ndim - 2)), (2, *w.shape[1:]))
            )
            tensors |= {f"{module}.up": up, f"{module}.down": down}
            sums[key] = base[key] + (up.flatten(1) @ down.flatten(1)).reshape(w.shape)
        else:
            sums[key] = base[key]
    tiny.save_file(tensors, folder / "lora.safetensors")
    tiny.save_file(sums, folder / "whole.safetensors")
    return {"lora": folder / "lora.safetensors", "whole": folder / "whole.safetensors"}


def test_a_control_lora_is_the_control_net_that_it_makes_of_the_model(
    control_lora: dict[str, Path], tiny_sd1: Path, hint: Image, memory: WeightMemory
) -> None:
    model = open_checkpoint(tiny_sd1, memory).model
    lora, whole = (open_control(control_lora[name], memory) for name in ("lora", "whole"))
    assert lora.spec.title == "a control LoRA for Stable Diffusion 1.x"
    results = [ours(model, *apply_control(prompts(model), net, hint)) for net in (lora, whole)]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(results[0], ours(model, *prompts(model)), atol=1e-2)


def test_a_control_lora_shares_what_it_does_not_change(
    control_lora: dict[str, Path], tiny_sd1: Path, memory: WeightMemory
) -> None:
    model, lora = open_checkpoint(tiny_sd1, memory).model, open_control(control_lora["lora"], memory)
    laid = replace(lora.weights, source=lora.weights.source.on(model.weights.source))  # type: ignore[attr-defined]
    with model.weights.use() as unet, laid.use() as controller:
        theirs = {id(w) for w in unet.parameters()}
        own = [
            w for w in controller._network.parameters() if w.data_ptr() not in {u.data_ptr() for u in unet.parameters()}
        ]
        shared = [
            w for w in controller._network.parameters() if w.data_ptr() in {u.data_ptr() for u in unet.parameters()}
        ]
    assert len(theirs) > len(shared) > 20
    hints = sum(w.nbytes for w in controller._embed.parameters())
    assert sum(w.nbytes for w in own) + hints == laid.source.size(memory.policy)


def test_a_control_lora_for_another_family_is_refused(
    control_lora: dict[str, Path], tiny_sdxl: Path, hint: Image, memory: WeightMemory
) -> None:
    model = open_checkpoint(tiny_sdxl, memory).model
    with pytest.raises(
        ValueError, match=r"is a control LoRA for Stable Diffusion 1.x, but the model is of the sdxl family"
    ):
        ours(model, *apply_control(prompts(model), open_control(control_lora["lora"], memory), hint))


def test_other_files_are_refused_by_name(
    tiny_sd1: Path, tiny: ModuleType, tmp_path: Path, nets: dict[str, Path]
) -> None:
    lora = tiny.write(tmp_path / "lora.safetensors", tiny.sd1_lora())
    pickle = tmp_path / "control.pth"
    pickle.write_bytes(b"PK\x03\x04" + b"\0" * 100)
    for path, words in (
        (tiny_sd1, "found a checkpoint"),
        (lora, "found a LoRA"),
        (pickle, "Pickles can run code"),
    ):
        with pytest.raises(HeaderError, match=words):
            describe_control(path)


def test_a_difference_from_a_unet_is_refused_with_what_to_use_instead(nets: dict[str, Path], tmp_path: Path) -> None:
    save_file(load_file(nets["sd1"]) | {"difference": torch.ones(())}, tmp_path / "diff_control_sd15.safetensors")
    with pytest.raises(HeaderError, match=r"a ControlNet as its difference from a UNet.*take the whole ControlNet"):
        describe_control(tmp_path / "diff_control_sd15.safetensors")


def test_a_control_network_is_refused_as_a_checkpoint_by_what_loads_it(nets: dict[str, Path]) -> None:
    with pytest.raises(HeaderError, match=r"a ControlNet .*with LoadControlNet"):
        open_checkpoint(nets["sd1"], WeightMemory())


@pytest.mark.parametrize("net", ["sd1", "union", "sd1-adapter"])
def test_a_file_that_is_not_whole_is_refused_by_its_header(net: str, nets: dict[str, Path], tmp_path: Path) -> None:
    path = nets[net] if nets[net].is_file() else nets[net] / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    ends = ("middle_block_out.0.weight", "controlnet_mid_block.weight", "body.0.resnets.0.block2.weight")
    one = next(key for key in weights if key.endswith(ends))
    for words, changed in (
        ("1 missing", {key: w for key, w in weights.items() if key != one}),
        ("1 unknown", weights | {one.replace("weight", "stray"): torch.zeros(1)}),
        ("with the shape", weights | {one: weights[one][:-1].clone()}),
    ):
        save_file(changed, tmp_path / "net.safetensors")
        with pytest.raises(HeaderError, match=words):
            describe_control(tmp_path / "net.safetensors")
