"""Small networks of every family with made-up weights, read from files, against diffusers' own with the same weights.

They are built by `tests/`, whose modules are no packages: this runs in a clone of the repository.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from diffusers import EDMEulerScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.models.attention_processor import AttnProcessor2_0
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import open_checkpoint, open_network
from latentgraph.diffusion.levels.space import SamplingSpace
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.patches import shared_copy
from latentgraph.diffusion.networks.precision import resolve
from latentgraph.diffusion.sampling.calls import call_of
from latentgraph.diffusion.sampling.network_inputs import NetworkInputs
from latentgraph.diffusion.sampling.spaces import sampling_space
from latentgraph.diffusion.sampling.vectors import vector_of
from latentgraph.diffusion.types import Condition, PicturePrompt

ROOT = Path(__file__).parents[1]
CELLS = 16  # along a side of every latent


def module(path: str) -> ModuleType:
    """Returns a module of the tests."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{ROOT / path} is not there; run this in a clone of the repository.")
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


def difference(found: Tensor, expected: Tensor) -> str:
    """Returns the largest difference, as a part of the largest expected value; "bit-equal" where there is none."""
    if torch.equal(found, expected):
        return "bit-equal"
    return f"{((found - expected).abs().max() / expected.abs().max()).item():.0e}"


def family_rows(folder: Path) -> Iterator[str]:
    """Yields a row for each family: one call of the network, `exact` and `auto`, against diffusers' own in float32."""
    yield "| family | `exact` against diffusers in float32 | `auto` against `exact` |"
    yield "|---|---|---|"
    for family in _families(folder):
        exact = _call(family, torch.float32)
        auto = _call(family, resolve("auto").denoiser(family.kind), diffusers_attention=True)
        error = (auto - exact).square().mean().sqrt() / exact.square().mean().sqrt()
        yield f"| {family.name} | {difference(exact, family.plain)} | {error.item():.1e} of the RMS |"


def _as_it_is(output: Tensor) -> Tensor:
    return output


@dataclass(frozen=True)
class Family:
    """A small network, read from a file; what it is fed; and what diffusers' own makes of that.

    denoised: what becomes of its output before that is compared.
    """

    name: str
    kind: Any
    network: Any
    x: Tensor
    time: Tensor
    inputs: NetworkInputs
    plain: Tensor
    denoised: Callable[[Tensor], Tensor] = _as_it_is


def _families(folder: Path) -> Iterator[Family]:
    tiny = module("tests/diffusion/tiny.py")
    yield from _unets(folder, tiny)
    yield from _continuous(folder, tiny)
    yield from _plain_unets(folder, tiny)
    yield from _transformers(folder)


def _unets(folder: Path, tiny: ModuleType) -> Iterator[Family]:
    bert = module("tests/diffusion/tiny_texts.py").bert()
    ldm = {key: w for key, w in tiny.sd1_tensors().items() if not key.startswith("cond_stage_model.")}
    files = {
        "Latent Diffusion, text to picture": ldm
        | {f"cond_stage_model.transformer.{key}": w for key, w in bert.items()},
        "Latent Diffusion, classes": tiny.classes_tensors(),
        "Stable Diffusion 1.x": tiny.sd1_tensors(),
        "Stable Diffusion 1.x, inpainting": tiny.sd1_tensors(in_channels=9),
        "Stable Diffusion 1.x, InstructPix2Pix": tiny.sd1_tensors(in_channels=8),
        "Stable Diffusion 2.x": tiny.sd2_tensors(),
        "Stable Diffusion 2 depth": tiny.sd2_tensors(in_channels=5),
        "Stable Diffusion 2.1 unCLIP": tiny.unclip_tensors(),
        "Stable Diffusion x4 upscaler": tiny.x4_tensors(),
        "Stable Diffusion XL": tiny.sdxl_tensors(),
        "Stable Diffusion XL refiner": tiny.refiner_tensors(),
    }
    for name, tensors in files.items():
        path = tiny.write(folder / f"{name}.safetensors", tensors)
        model = open_checkpoint(path, WeightMemory(precision="exact")).model
        x, time = _draw(1, 1, model.spec.latent.channels, CELLS, CELLS), torch.tensor([500.0])
        inputs = _inputs(model.spec, x)
        with model.weights.use() as network:
            plain = _by_diffusers(network.config, path)(x, time, inputs)
            yield Family(name, "unet", network, x, time, inputs, plain)


def _continuous(folder: Path, tiny: ModuleType) -> Iterator[Family]:
    """Networks of EDM's levels, whose input and output are scaled as their scheduler in diffusers does it."""
    playground = {"edm_mean": torch.zeros(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)}
    cosxl = {"edm_vpred.sigma_max": torch.tensor([120.0])}
    v: dict[str, Any] = {"sigma_data": 1.0, "prediction_type": "v_prediction"}
    rows: Mapping[str, tuple[dict[str, Tensor], dict[str, Any]]] = {
        "Playground 2.5": (tiny.sdxl_tensors() | playground, {}),
        "CosXL": (tiny.sdxl_tensors() | cosxl, v),
        "CosXL edit": (tiny.sdxl_tensors(in_channels=8) | cosxl, v),
    }
    for name, (tensors, config) in rows.items():
        path = tiny.write(folder / f"{name}.safetensors", tensors)
        model = open_checkpoint(path, WeightMemory(precision="exact")).model
        space, scheduler = sampling_space(model), EDMEulerScheduler(**config)
        sigma = torch.tensor(3.0)
        latent = _draw(1, 1, 4, CELLS, CELLS) * sigma
        inputs = _inputs(model.spec, latent)
        with model.weights.use() as network, torch.inference_mode():
            plain = _by_diffusers(network.config, path)(
                scheduler.precondition_inputs(latent, sigma), scheduler.precondition_noise(sigma)[None], inputs
            )
            yield Family(
                name,
                "unet",
                network,
                space.scale_input(latent, sigma),
                space.timestep(sigma)[None],
                inputs,
                scheduler.precondition_outputs(latent, plain, sigma),
                partial(_denoised, space, latent, sigma),
            )


def _denoised(space: SamplingSpace, latent: Tensor, sigma: Tensor, output: Tensor) -> Tensor:
    return space.denoised(latent, output, sigma)


def _plain_unets(folder: Path, tiny: ModuleType) -> Iterator[Family]:
    unets = module("tests/diffusion/unets.py")
    rows = {
        "unconditional": (tiny.PlainLayout(64), {}),
        "inpainting": (tiny.LDM_INPAINT, {}),
        "super-resolution": (tiny.LDM_SUPERRES, {}),
        "semantic synthesis": (tiny.LDM_SEGMENTS, tiny.segment_tensors()),
    }
    for name, (layout, tensors) in rows.items():
        path = tiny.write(folder / f"{name}.safetensors", tensors or tiny.ldm_tensors(layout))
        model = open_checkpoint(path, WeightMemory(precision="exact")).model
        x, time = _draw(1, 1, 3, CELLS, CELLS), torch.tensor([500.0])
        inputs = _inputs(model.spec, x)
        state = {key.removeprefix(tiny.UNET): w.float() for key, w in load_file(path).items()}
        with model.weights.use() as network, torch.inference_mode():
            plain = unets.ldm_unet(state, layout, _with_concat(x, inputs), time)
            yield Family(f"Latent Diffusion, {name} (by its formula)", "plain_unet", network, x, time, inputs, plain)


@torch.inference_mode()
def _transformers(folder: Path) -> Iterator[Family]:
    dits, tests = module("tests/diffusion/tiny_dits.py"), module("tests/diffusion/test_dits.py")
    rows = {
        "Stable Diffusion 3": dits.SD3,
        "Stable Diffusion 3.5": dits.SD35,
        "FLUX.1 dev": dits.FLUX,
        "FLUX.1 schnell": dits.SCHNELL,
        "FLUX.1 fill": dits.FILL,
        "FLUX.1 canny, depth": replace(dits.FLUX, in_channels=32),
        "FLUX.1 Kontext, with a picture": dits.FLUX,
        "FLUX.2 dev": dits.FLUX2,
        "FLUX.2 klein": replace(dits.FLUX2, guidance=False),
        "FLUX.2 dev, with a picture": dits.FLUX2,
    }
    for name, spec in rows.items():
        path = folder / f"{name}.safetensors"
        save_file(dits.original(spec, dits.weights(spec)), path)
        x, time, inputs = tests.some_inputs(spec, CELLS, CELLS)
        if name.endswith("with a picture"):
            inputs = replace(inputs, references=(_draw(9, 2, spec.out_channels, 8, 20),))
        plain = tests.plainly(dits.network(spec), spec, _with_concat(x, inputs), time, inputs)
        with open_network(path, WeightMemory(precision="exact")).weights.use() as network:
            yield Family(name, spec.kind, network, x, time, inputs, plain)


def _inputs(spec: Any, latent: Tensor) -> NetworkInputs:
    """Returns what a UNet is fed beside a latent: made-up values of every kind that it takes."""
    network, extra = spec.network, spec.network.in_channels - spec.latent.channels
    pictured = network.picture_width and network.pooled_width is None
    condition = Condition(
        _draw(2, 1, 77, spec.context_width),
        pooled=_draw(3, 1, network.pooled_width) if network.pooled_width else None,
        pictures=(PicturePrompt(_draw(3, 1, network.picture_width)),) if pictured else (),
    )
    vector = vector_of(condition, spec=spec, latent=latent)
    return NetworkInputs(
        condition.embedding,
        vector.pooled,
        vector.sizes,
        concat=_draw(4, 1, extra, CELLS, CELLS) if extra else None,
        noise_level=torch.tensor([35]) if spec.knows_noise else None,
    )


def _by_diffusers(config: Any, path: Path) -> Callable[[Tensor, Tensor, NetworkInputs], Tensor]:
    """Returns diffusers' class with its own conversion of a file's keys, and its own attention."""
    network: Any = UNet2DConditionModel.from_config(config)
    weights = {key: weight.float() for key, weight in load_file(path).items()}
    blocks = config["layers_per_block"][0]  # the small ones have as many on each level
    network.load_state_dict(convert_ldm_unet_checkpoint(weights, {**config, "layers_per_block": blocks}))
    network.eval()

    @torch.inference_mode()
    def call(x: Tensor, time: Tensor, inputs: NetworkInputs) -> Tensor:
        told: dict[str, Any] = {"class_labels": inputs.pooled if inputs.noise_level is None else inputs.noise_level}
        if config["addition_embed_type"] == "text_time":
            told = {"added_cond_kwargs": {"text_embeds": inputs.pooled, "time_ids": inputs.sizes}}
        result: Tensor = network(_with_concat(x, inputs), time, inputs.context, **told).sample
        return result

    return call


@torch.inference_mode()
def _call(family: Family, dtype: torch.dtype, *, diffusers_attention: bool = False) -> Tensor:
    network = shared_copy(family.network)
    if dtype != torch.float32:
        state = {name: weight.to(dtype) for name, weight in network.state_dict().items()}
        network.load_state_dict(state, assign=True)
    if diffusers_attention and family.kind == "unet":
        network.set_attn_processor(AttnProcessor2_0())
    return family.denoised(call_of(family.kind, network)(family.x, family.time, family.inputs).float())


def _with_concat(x: Tensor, inputs: NetworkInputs) -> Tensor:
    return x if inputs.concat is None else torch.cat([x, inputs.concat], dim=1)


def _draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
