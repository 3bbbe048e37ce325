"""ControlNets for SD3 and FLUX.1: whole short runs as diffusers' own pipelines make them, on the same weights."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from shutil import copytree
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxControlNetPipeline,
    SD3ControlNetModel,
    StableDiffusion3ControlNetInpaintingPipeline,
    StableDiffusion3ControlNetPipeline,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.checkpoints.opening import Checkpoint, open_checkpoint
from latentgraph.diffusion.control.applying import apply_control, open_control, tell_kind
from latentgraph.diffusion.control.reading import describe_control
from latentgraph.diffusion.control.residuals import Residuals
from latentgraph.diffusion.control.transformer_specs import FluxControlSpec, SD3ControlSpec
from latentgraph.diffusion.latents.batches import empty_latent, to_model_space
from latentgraph.diffusion.levels.space import make_space
from latentgraph.diffusion.levels.space_spec import FlowLevels, FluxLevels, SpaceSpec
from latentgraph.diffusion.model import Guider, Model
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.shallow import Depth
from latentgraph.diffusion.sampling.calls import unsteered
from latentgraph.diffusion.sampling.conditioning import PreparedCondition, prepare_conditions
from latentgraph.diffusion.sampling.conditions import add_reference, set_guidance
from latentgraph.diffusion.sampling.controls import Steering
from latentgraph.diffusion.sampling.guidance import ClassifierFree
from latentgraph.diffusion.sampling.network_inputs import ActiveControl, NetworkInputs
from latentgraph.diffusion.sampling.passes import Passes, Setting
from latentgraph.diffusion.sampling.run import sample_guided
from latentgraph.diffusion.types import Condition, Conditioning, Image, Latent, Mask, Noise, Sampler, Sigmas

pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own use of it

WIDTH, HEIGHT, STEPS, SEED = 64, 48, 3, 7
CLOSE = {"rtol": 0, "atol": 1e-4}
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONTROL_TYPES = {"SD3.5 large, blur": 0, "SD3.5 large, edges": 1, "SD3.5 large, depth": 2}
SHOWN: dict[str, tuple[float, float]] = {"SD3.5 large, edges": (127.5, 0.5), "SD3.5 large, depth": (-2.0, 1.0)}


@pytest.fixture(scope="module")
def memory() -> WeightMemory:
    return WeightMemory(precision="exact")


@pytest.fixture(scope="module")
def opened(
    tiny_dits: ModuleType, tmp_path_factory: pytest.TempPathFactory, memory: WeightMemory
) -> dict[str, Checkpoint]:
    """Checkpoints with a network and a VAE each."""
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints = {}
    for name, prefix in (("SD3", "first_stage_model."), ("FLUX", "vae."), ("schnell", "vae.")):
        save_file(tiny_dits.checkpoint(tiny_dits.SPECS[name], vae_prefix=prefix), folder / f"{name}.safetensors")
        checkpoints[name] = open_checkpoint(folder / f"{name}.safetensors", memory)
    return checkpoints


@pytest.fixture(scope="module")
def nets(tiny: ModuleType, tiny_dits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("control_nets")
    sd3: dict[str, Any] = {
        "sample_size": 32, "num_layers": 2, "attention_head_dim": 64, "num_attention_heads": 1, "joint_attention_dim": 48,
        "caption_projection_dim": 64, "pooled_projection_dim": 40, "pos_embed_max_size": 16,
    }  # fmt: skip
    flux: dict[str, Any] = {
        "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2,
        "joint_attention_dim": 48, "pooled_projection_dim": 24, "axes_dims_rope": [4, 14, 14],
    }  # fmt: skip
    large = sd3 | {
        "joint_attention_dim": None,
        "pos_embed_max_size": None,
        "pos_embed_type": None,
        "use_pos_embed": False,
    }
    networks = {
        "SD3": SD3ControlNetModel(**sd3),
        "SD3 with pooled text": SD3ControlNetModel(**sd3, force_zeros_for_pooled_projection=False),
        "SD3 inpainting": SD3ControlNetModel(**sd3, extra_conditioning_channels=1),
        "SD3.5 large blur": SD3ControlNetModel(**large, force_zeros_for_pooled_projection=False),
        "XLabs": FluxControlNetModel(
            **{**flux, "num_layers": 2, "num_single_layers": 0},
            guidance_embeds=True,
            conditioning_embedding_channels=16,
            patch_size=2,
        ),
        "FLUX": FluxControlNetModel(**flux, guidance_embeds=True),
        "union": FluxControlNetModel(**{**flux, "num_layers": 2, "num_single_layers": 0}, num_mode=7),
    }
    paths = {}
    for name, network in networks.items():
        table = network.state_dict().get("pos_embed.pos_embed")
        table = None if table is None else table.clone()
        paths[name] = tiny.write_diffusers(folder / name, network)
        if table is not None:  # a table that is worked out, and is no weight
            network.state_dict()["pos_embed.pos_embed"].copy_(table)
            network.save_pretrained(folder / name)
    for name, number in CONTROL_TYPES.items():
        paths[name] = folder / f"{name}.safetensors"
        weights = load_file(paths["SD3.5 large blur"] / WEIGHTS)
        save_file(
            tiny_dits.stability_control(weights) | {"control_type": torch.tensor([number], dtype=torch.int32)},
            paths[name],
        )
    paths["XLabs' layout"] = folder / "xlabs.safetensors"
    weights = load_file(paths["XLabs"] / WEIGHTS)
    save_file(tiny_dits.xlabs_control(weights), paths["XLabs' layout"])
    return paths


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prompt(model: Model, seed: int) -> Conditioning:
    pooled = normal(seed + 1, 1, model.spec.pooled_width or 0)
    return Conditioning((Condition(normal(seed, 1, 7, model.spec.context_width), pooled),))


def given(conditioning: Conditioning, prefix: str = "") -> dict[str, Tensor | None]:
    entry = conditioning.entries[0]
    return {f"{prefix}prompt_embeds": entry.embedding, f"{prefix}pooled_prompt_embeds": entry.pooled}


def packed(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


@pytest.fixture
def hint() -> Image:
    return Image(torch.rand(1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(3)))


def run(model: Model, sigmas: Tensor, positive: Conditioning, cfg: float = 1.0, **lists: Any) -> Tensor:
    """Returns what Euler makes of these levels, in the network's units."""
    guider = Guider(model, {"positive": positive, **lists}, ClassifierFree(cfg))
    latent = empty_latent(width=WIDTH, height=HEIGHT)
    result = sample_guided(guider, latent, noise=Noise(SEED), sampler=Sampler("euler"), sigmas=Sigmas(sigmas))
    return to_model_space(result.latent.samples, model.spec.latent)


def sd3_pipeline(kind: Any, controlnet: Path, model: Model, tiny_dits: ModuleType) -> Any:
    """A pipeline of diffusers with the network and the autoencoder that `model` has, and a ControlNet of a folder."""
    network = tiny_dits.vae()
    network.register_to_config(scaling_factor=model.spec.latent.scale, shift_factor=model.spec.latent.shift)
    pipeline = kind(
        transformer=tiny_dits.network(tiny_dits.SPECS["SD3"]), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=network, text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, text_encoder_3=None,
        tokenizer_3=None, controlnet=SD3ControlNetModel.from_pretrained(controlnet, low_cpu_mem_usage=False),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("net", ["SD3", "SD3 with pooled text", "SD3.5 large blur", *CONTROL_TYPES])
def test_sd3_is_steered_as_by_diffusers(
    net: str,
    opened: dict[str, Checkpoint],
    nets: dict[str, Path],
    hint: Image,
    tiny_dits: ModuleType,
    memory: WeightMemory,
) -> None:
    model, vae = opened["SD3"].model, opened["SD3"].vae
    assert vae is not None
    folder = nets["SD3.5 large blur" if net in CONTROL_TYPES else net]
    pipeline = sd3_pipeline(StableDiffusion3ControlNetPipeline, folder, model, tiny_dits)
    if "large" in net:
        add_at_the_end(pipeline)
    gain, offset = SHOWN.get(net, (2.0, -1.0))
    positive, negative = prompt(model, 10), prompt(model, 20)
    expected = pipeline(
        **given(positive), **given(negative, "negative_"), control_image=hint.pixels.movedim(-1, 1) * gain + offset,
        controlnet_conditioning_scale=0.8, guidance_scale=4.0, num_inference_steps=STEPS, height=HEIGHT, width=WIDTH,
        latents=normal(SEED, 1, 16, HEIGHT // 8, WIDTH // 8), output_type="latent",
    ).images  # fmt: skip
    sigmas = pipeline.scheduler.sigmas.clone()
    both = apply_control([positive, negative], open_control(nets[net], memory), hint, strength=0.8, vae=vae)
    found = run(model, sigmas, both[0], negative=both[1], cfg=4.0)
    assert (found - run(model, sigmas, positive, negative=negative, cfg=4.0)).abs().max() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-4)


def test_a_control_acts_on_the_items_of_a_pass_that_it_holds_for(
    opened: dict[str, Checkpoint], nets: dict[str, Path], hint: Image, memory: WeightMemory
) -> None:
    model, vae = opened["SD3"].model, opened["SD3"].vae
    x = normal(SEED, 2, 16, HEIGHT // 8, WIDTH // 8)
    (conditioning,) = apply_control([prompt(model, 10)], open_control(nets["SD3"], memory), hint, vae=vae)
    space = make_space(SpaceSpec("flow", FlowLevels()))
    ((condition,),) = prepare_conditions([conditioning], spec=model.spec, space=space, latent=x)
    given, pooled = condition.inputs, condition.inputs.pooled
    assert pooled is not None
    inputs = replace(given, context=given.context.expand(2, -1, -1), pooled=pooled.expand(2, -1))
    with ExitStack() as held, torch.inference_mode():
        steer = Steering([condition], held, model=model)
        both, first = (
            steer(x, torch.full((2,), 500.0), replace(inputs, controls=(ActiveControl(condition.controls[0], holds),)))
            for holds in (1.0, torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1))
        )
    assert both is not None
    assert first is not None
    for whole, half in zip(both.blocks, first.blocks, strict=True):
        assert whole.shape == half.shape
        assert whole[1].any()
        assert torch.equal(half[0], whole[0])
        assert not half[1].any()


def add_at_the_end(pipeline: Any) -> None:
    """Makes diffusers' transformer add the last output behind its last block, too, as Stability AI's own code does."""
    found: list[Tensor] = []
    pipeline.controlnet.register_forward_hook(lambda module, given, output: found.append(output[0][-1]))
    pipeline.transformer.norm_out.register_forward_pre_hook(lambda module, given: (given[0] + found[-1], *given[1:]))


def test_sd3_repaints_as_by_diffusers(
    opened: dict[str, Checkpoint], nets: dict[str, Path], hint: Image, tiny_dits: ModuleType, memory: WeightMemory
) -> None:
    model, vae = opened["SD3"].model, opened["SD3"].vae
    assert vae is not None
    pipeline = sd3_pipeline(StableDiffusion3ControlNetInpaintingPipeline, nets["SD3 inpainting"], model, tiny_dits)
    positive, negative = prompt(model, 10), prompt(model, 20)
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 16:32, 24:56] = 1.0
    expected = pipeline(
        **given(positive), **given(negative, "negative_"), control_image=hint.pixels.movedim(-1, 1) * 2 - 1,
        control_mask=mask.unsqueeze(1), controlnet_conditioning_scale=0.8, guidance_scale=4.0, num_inference_steps=STEPS,
        height=HEIGHT, width=WIDTH, latents=normal(SEED, 1, 16, HEIGHT // 8, WIDTH // 8), output_type="latent",
    ).images  # fmt: skip
    sigmas = pipeline.scheduler.sigmas.clone()
    net, texts = open_control(nets["SD3 inpainting"], memory), [positive, negative]
    both = apply_control(texts, net, hint, strength=0.8, vae=vae, mask=Mask(mask))
    found = run(model, sigmas, both[0], negative=both[1], cfg=4.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-4)
    elsewhere = apply_control(texts, net, hint, strength=0.8, vae=vae, mask=Mask(1 - mask))
    assert (found - run(model, sigmas, elsewhere[0], negative=elsewhere[1], cfg=4.0)).abs().max() > 0.05


@pytest.mark.parametrize("net", ["FLUX", "union", "XLabs", "XLabs' layout"])
def test_flux_is_steered_as_by_diffusers(
    net: str,
    opened: dict[str, Checkpoint],
    nets: dict[str, Path],
    hint: Image,
    tiny_dits: ModuleType,
    memory: WeightMemory,
) -> None:
    model, vae = opened["FLUX"].model, opened["FLUX"].vae
    pipeline = FluxControlNetPipeline(
        transformer=tiny_dits.network(tiny_dits.SPECS["FLUX"]), vae=tiny_dits.vae(), text_encoder=None, tokenizer=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=True), text_encoder_2=None,
        tokenizer_2=None, controlnet=FluxControlNetModel.from_pretrained(
            nets["XLabs" if "XLabs" in net else net], low_cpu_mem_usage=False
        ),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    positive = set_guidance(prompt(model, 10), 2.5)
    expected = pipeline(
        **given(positive), control_image=hint.pixels.movedim(-1, 1) * 2 - 1, control_mode=2 if net == "union" else None,
        controlnet_conditioning_scale=0.8, guidance_scale=2.5, num_inference_steps=STEPS, height=HEIGHT, width=WIDTH,
        latents=packed(normal(SEED, 1, 16, HEIGHT // 8, WIDTH // 8)), output_type="latent",
    ).images  # fmt: skip
    sigmas = pipeline.scheduler.sigmas.clone()
    control = open_control(nets[net], memory)
    told = tell_kind(control, "depth") if net == "union" else control
    (steered,) = apply_control([positive], told, hint, strength=0.8, vae=vae)
    found = run(model, sigmas, steered)
    assert (found - run(model, sigmas, positive)).abs().max() > 0.05
    torch.testing.assert_close(packed(found), expected, **CLOSE)
    if net == "union":
        (untold,) = apply_control([positive], control, hint, strength=0.8, vae=vae)
        assert not torch.allclose(run(model, sigmas, untold), found, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("net", "level", "guidance"), [("SD3", 0.4379, 3.5), ("FLUX", 0.4379, 3.5), ("FLUX", 0.4372, 3.501)]
)
@torch.inference_mode()
def test_time_and_guidance_are_not_rounded_to_the_format_of_the_network(
    net: str, level: float, guidance: float, nets: dict[str, Path]
) -> None:
    """What is 0.4372 and 3.5 in bf16, too, steers otherwise than those do."""
    with open_control(nets[net], WeightMemory(precision="bf16")).weights.use() as network:
        embedded = network.embed(normal(4, 1, 16, 8, 8))

        def steered(level: float, guidance: float) -> Tensor:
            context, pooled = normal(2, 1, 7, 48), normal(3, 1, 24 if net == "FLUX" else 40)
            inputs = NetworkInputs(context, pooled=pooled, guidance=torch.tensor([guidance]))
            time = torch.tensor([level if net == "FLUX" else 1000 * level])
            return network.steer(normal(1, 1, 16, 8, 8), time, inputs, embedded, ()).blocks[0]

        assert torch.equal(steered(0.4372, 3.5), steered(0.4372, 3.5))
        assert not torch.equal(steered(0.4372, 3.5), steered(level, guidance))


SIGMAS = torch.tensor([1.0, 0.6, 0.0])


def test_several_controls_a_network_without_guidance_and_references_go_together(
    opened: dict[str, Checkpoint], nets: dict[str, Path], hint: Image, memory: WeightMemory
) -> None:
    """Networks that copy unlike numbers of blocks add up; a reference's tokens are not steered."""
    model, vae = opened["schnell"].model, opened["schnell"].vae
    first, second = open_control(nets["FLUX"], memory), open_control(nets["union"], memory)
    plain = prompt(model, 10)
    for text in (plain, add_reference(plain, Latent(normal(30, 1, 16, 4, 8)))):
        one = apply_control([text], first, hint, vae=vae)
        (both,) = apply_control(one, second, hint, vae=vae)
        results = [run(model, SIGMAS, each) for each in (text, *one, both)]
        assert not any(torch.allclose(a, b, rtol=0, atol=1e-3) for a, b in pairwise(results))


@pytest.mark.parametrize("name", ["SD3", "FLUX"])
@torch.inference_mode()
def test_what_steers_is_added_once_in_a_shallow_pass(name: str, tiny_dits: ModuleType) -> None:
    """A shallow pass over the same latent gives what the full one gave, in which controls were added between its blocks."""
    spec = replace(
        tiny_dits.SPECS[name], **({"depth": 5} if name == "SD3" else {"double_blocks": 4, "single_blocks": 3})
    )
    added = Residuals(
        blocks=tuple(normal(40 + n, 1, 16, spec.width) for n in range(spec.depth if name == "SD3" else 4)),
        single_blocks=() if name == "SD3" else tuple(normal(50 + n, 1, 16, spec.width) for n in range(3)),
    )
    inputs = NetworkInputs(
        normal(2, 1, 7, spec.context_width), pooled=normal(3, 1, spec.pooled_width), guidance=torch.tensor([3.5])
    )
    lists = {"positive": (PreparedCondition(inputs, None, 1.0, 1e9, 0.0),)}
    depth = Depth()
    space = make_space(SpaceSpec("flow", FluxLevels(1.0)))
    setting = Setting(
        tiny_dits.network(spec), spec.kind, space, lists, steer=lambda x, timestep, inputs: added, depth=depth
    )  # type: ignore[arg-type]
    passes, x, sigma = Passes(setting), normal(1, 1, 16, 8, 8), torch.tensor(0.5)
    full = passes.estimate({"positive"}, x, sigma)["positive"]
    plain = Passes(replace(setting, steer=unsteered)).estimate({"positive"}, x, sigma)["positive"]
    depth.shallow = True
    shallow = passes.estimate({"positive"}, x, sigma)["positive"]
    assert (full - plain).abs().max() > 0.01
    torch.testing.assert_close(shallow, full, rtol=1e-4, atol=1e-4)


def test_outputs_of_a_control_network_serve_several_blocks(nets: dict[str, Path]) -> None:
    """InstantX's serve neighbours, XLabs' take turns, and SD3's are spread evenly."""
    cases = {
        "FLUX": [0, 0, 0, 1, 1, 1, 2],
        "XLabs": [0, 1, 2, 0, 1, 2, 0],
        "SD3": [0, 0, 0, 1, 1, 2, 2],
    }
    for name, behind in cases.items():
        spec = describe_control(nets[name]).spec
        assert isinstance(spec, SD3ControlSpec | FluxControlSpec)
        assert [spec.output_behind(n, 7, 3) for n in range(7)] == behind


@pytest.mark.parametrize(
    ("net", "checkpoint"),
    [("SD3", "FLUX"), ("FLUX", "SD3"), ("union", "SD3"), ("SD3.5 large, blur", "FLUX"), ("XLabs", "SD3")],
)
def test_a_wrong_pairing_is_refused(
    net: str, checkpoint: str, opened: dict[str, Checkpoint], nets: dict[str, Path], hint: Image, memory: WeightMemory
) -> None:
    model, vae = opened[checkpoint].model, opened[checkpoint].vae
    (steered,) = apply_control([prompt(model, 10)], open_control(nets[net], memory), hint, vae=vae)
    with pytest.raises(ValueError, match="it steers a transformer of another kind; use one that was made"):
        run(model, SIGMAS, steered)


def test_a_control_network_of_a_unet_is_refused(
    opened: dict[str, Checkpoint], hint: Image, memory: WeightMemory, tiny: ModuleType, tmp_path: Path
) -> None:
    control = open_control(tiny.write_control_net(tmp_path / "sd1.safetensors", tiny.SD1), memory)
    (steered,) = apply_control([prompt(opened["SD3"].model, 10)], control, hint)
    with pytest.raises(ValueError, match="it steers a UNet, and the model has none"):
        run(opened["SD3"].model, SIGMAS, steered)


def test_without_an_autoencoder_nothing_is_seen(nets: dict[str, Path], hint: Image, memory: WeightMemory) -> None:
    with pytest.raises(ValueError, match="link the model's VAE to input 'vae'"):
        apply_control([], open_control(nets["SD3"], memory), hint)


def test_headers_tell_what_they_are_for(nets: dict[str, Path]) -> None:
    assert describe_control(nets["SD3"]).spec.title == "a ControlNet for Stable Diffusion 3"
    union = describe_control(nets["union"]).spec
    assert union.title == "a union ControlNet for FLUX.1"
    assert union.kinds is not None
    assert set(union.kinds) >= {"depth", "openpose", "blur"}


def test_layouts_that_are_not_supported_are_refused_by_name(nets: dict[str, Path], tmp_path: Path) -> None:
    large, xlabs = load_file(nets["SD3.5 large, blur"]), load_file(nets["XLabs' layout"])
    text = "time_text_embed.text_embedder.linear_1.weight"
    cases = {
        "through the embedding of the network that it steers": large | {text: torch.zeros(64, 64)},
        "other layers than XLabs'": {key: w for key, w in xlabs.items() if not key.startswith("input_hint_block.")},
        "through 8 channels, not 16": xlabs | {"input_hint_block.0.weight": torch.zeros(8, 3, 3, 3)},
        "shown 18 channels beside a latent of 16": load_file(nets["FLUX"] / WEIGHTS)
        | {"controlnet_x_embedder.weight": torch.zeros(64, 72)},
        "1 missing \\(transformer_blocks.1.attn.qkv.bias\\)": {
            key: w for key, w in large.items() if key != "transformer_blocks.1.attn.qkv.bias"
        },
        "1 unknown \\(final_layer.linear.weight\\)": xlabs | {"final_layer.linear.weight": torch.zeros(64, 64)},
        "of another kind than SD3's and FLUX.1's": {
            "controlnet_blocks.0.weight": torch.zeros(1),
            "double_blocks.0.img_attn.qkv.weight": torch.zeros(1),
        },
    }
    for words, tensors in cases.items():
        save_file(tensors, tmp_path / "net.safetensors")
        with pytest.raises(HeaderError, match=words):
            describe_control(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("folder", "values"), [("sd3.5-controlnet-depth", (-1.0, 1.0)), ("canny", (63.75, 0.75)), ("snapshot", (1.0, 0.0))]
)
def test_a_folder_for_sd35_large_says_by_its_name_what_its_pictures_show(
    folder: str, values: tuple[float, float], nets: dict[str, Path], tmp_path: Path
) -> None:
    copytree(nets["SD3.5 large blur"], tmp_path / folder)
    hint = describe_control(tmp_path / folder).spec.hint
    assert (hint.gain, hint.offset) == values


def test_a_network_that_leans_on_the_steered_one_shares_its_embedding(
    nets: dict[str, Path], hint: Image, tiny_dits: ModuleType, tmp_path: Path
) -> None:
    memory = WeightMemory(precision="exact")
    save_file(
        tiny_dits.checkpoint(tiny_dits.SPECS["SD3"], vae_prefix="first_stage_model."), tmp_path / "sd3.safetensors"
    )
    checkpoint = open_checkpoint(tmp_path / "sd3.safetensors", memory)
    assert checkpoint.vae is not None
    net = open_control(nets["SD3.5 large, blur"], memory)
    (steered,) = apply_control([prompt(checkpoint.model, 10)], net, hint, vae=checkpoint.vae)
    run(checkpoint.model, SIGMAS, steered)
    parts = (checkpoint.model, checkpoint.vae, net)
    assert memory.resident_bytes == sum(part.weights.source.size(memory.policy) for part in parts)


@pytest.mark.parametrize("net", ["SD3 inpainting", "SD3.5 large, depth", "union", "XLabs' layout"])
def test_half_the_digits_steer_nearly_as_well(
    net: str, nets: dict[str, Path], hint: Image, tiny_dits: ModuleType, tmp_path: Path
) -> None:
    name = "SD3" if "SD3" in net else "FLUX"
    save_file(
        tiny_dits.checkpoint(tiny_dits.SPECS[name], vae_prefix="first_stage_model."), tmp_path / "net.safetensors"
    )
    mask = Mask(torch.ones(1, HEIGHT, WIDTH // 2)) if "inpainting" in net else None
    results = []
    for memory in (WeightMemory(precision="exact"), WeightMemory(precision="bf16")):
        checkpoint = open_checkpoint(tmp_path / "net.safetensors", memory)
        text = prompt(checkpoint.model, 10)
        control = open_control(nets[net], memory)
        (steered,) = apply_control([text], control, hint, vae=checkpoint.vae, mask=mask)
        results.append(run(checkpoint.model, SIGMAS, steered))
    exact, found = results
    assert (found - exact).square().mean().sqrt() < 0.03 * exact.square().mean().sqrt()


@torch.inference_mode()
def test_flux_repaints_with_a_mask_behind_the_latent_of_each_token(
    nets: dict[str, Path], opened: dict[str, Checkpoint], hint: Image, memory: WeightMemory, tmp_path: Path
) -> None:
    """alimama's networks for FLUX.1: diffusers' ControlNet, whose picture has four numbers more a token."""
    network = FluxControlNetModel.from_pretrained(nets["FLUX"], low_cpu_mem_usage=False)
    network.controlnet_x_embedder = torch.nn.Linear(68, 64)
    torch.nn.init.normal_(network.controlnet_x_embedder.weight, generator=torch.Generator().manual_seed(1))
    network.save_pretrained(tmp_path / "net")
    net = open_control(tmp_path / "net", memory)
    assert net.spec.title == "an inpainting ControlNet for FLUX.1"
    latent, kept, x = normal(1, 1, 16, 6, 8), torch.rand(1, 1, 6, 8), normal(2, 1, 16, 6, 8)
    text, pooled, guidance, level = normal(3, 1, 7, 48), normal(4, 1, 24), torch.tensor([3.5]), torch.tensor([0.5])
    places = torch.zeros(3, 4, 3)
    places[..., 1], places[..., 2] = torch.arange(3)[:, None], torch.arange(4)
    expected, _ = network(
        hidden_states=packed(x), controlnet_cond=torch.cat([packed(latent), packed(kept)], dim=-1), timestep=level,
        encoder_hidden_states=text, pooled_projections=pooled, guidance=guidance, img_ids=places.reshape(-1, 3),
        txt_ids=torch.zeros(7, 3), return_dict=False,
    )  # fmt: skip
    with net.weights.use() as controller:
        embedded = controller.embed(torch.cat([latent, kept], dim=1))
        found = controller.steer(x, level, NetworkInputs(text, pooled=pooled, guidance=guidance), embedded, ())
    torch.testing.assert_close(found.blocks[0], expected[0], **CLOSE)

    model, vae = opened["FLUX"].model, opened["FLUX"].vae
    masks = [Mask(mask) for mask in (torch.zeros(1, 6, 8), torch.ones(1, 6, 8))]
    results = [run(model, SIGMAS, *apply_control([prompt(model, 10)], net, hint, vae=vae, mask=mask)) for mask in masks]
    assert not torch.allclose(*results, rtol=0, atol=1e-3)


def test_a_mask_is_wanted_by_networks_that_repaint_and_by_no_others(
    nets: dict[str, Path], hint: Image, opened: dict[str, Checkpoint], memory: WeightMemory
) -> None:
    vae, mask = opened["SD3"].vae, Mask(torch.ones(1, HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="use ApplyInpaintControlNet, which takes a mask"):
        apply_control([], open_control(nets["SD3 inpainting"], memory), hint, vae=vae)
    with pytest.raises(ValueError, match="not shown which part to repaint; use ApplyControlNet"):
        apply_control([], open_control(nets["SD3"], memory), hint, vae=vae, mask=mask)
