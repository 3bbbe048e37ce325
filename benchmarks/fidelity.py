"""Writes docs/fidelity.md: how near `exact` is to the reference, by sampler and by family, and `auto` to `exact`.

    python -m benchmarks.fidelity [--prompts N] [--output FILE]

Reads the reference's vectors, and builds its graphs and small checkpoints, from `tests/`: it runs in a clone of the repository.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import latentgraph.models
from latentgraph.diffusion.checkpoints.opening import Checkpoint, open_checkpoint, open_network
from latentgraph.diffusion.latents.autoencoder import decode
from latentgraph.diffusion.latents.batches import empty_latent
from latentgraph.diffusion.names import Precision
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.precision import resolve
from latentgraph.diffusion.pictures.differences import psnr
from latentgraph.diffusion.sampling.calls import call_of
from latentgraph.diffusion.sampling.network_inputs import NetworkInputs
from latentgraph.diffusion.sampling.run import sample
from latentgraph.diffusion.sampling.vectors import vector_of
from latentgraph.diffusion.types import Condition, Image, PicturePrompt
from latentgraph.graph import Context
from latentgraph.nodes.text import TextEncode

from .networks import median

ROOT = Path(__file__).parents[1]
PROMPTS = (
    "red apple", "cat face", "dog face", "pizza", "rocket", "sunflower", "octopus", "guitar", "red heart",
    "smiling face with sunglasses", "robot", "strawberry", "house", "tropical fish", "snowman", "ghost",
    "avocado, 3d", "flat penguin", "noto owl", "butterfly on a blue background",
)  # fmt: skip
RUNS = (("euler", "normal"), ("dpmpp_2m", "karras"), ("euler_ancestral", "normal"), ("uni_pc", "simple"))
FLOOR = 35.0  # dB, what the median of `auto` against `exact` is to reach
SETTINGS = {
    "eps_karras10": "eps, karras, 10 steps",
    "eps_normal8_img2img": "eps, normal, img2img",
    "flow_simple8": "flow, simple, 8 steps",
    "eps_karras10_cfg": "eps, guided",
    "eps_karras10_mask": "eps, masked",
}


def module(path: str) -> ModuleType:
    """Returns a module of the tests, which are no packages."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{ROOT / path} is not there; run this in a clone of the repository.")
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


def sampler_rows() -> Iterator[str]:
    """Yields a row for each sampler: against the reference's results, on an exact denoiser."""
    tests = module("tests/diffusion/test_samplers.py")
    yield "| sampler | " + " | ".join(SETTINGS.values()) + " |"
    yield "|---" * (1 + len(SETTINGS)) + "|"
    for name in tests.VECTORS["eps_karras10"]:
        cells = []
        for setting in SETTINGS:
            if name not in tests.VECTORS[setting]:
                cells.append("")
                continue
            expected = tests.VECTORS[setting][name]
            result = tests.sample(tests.SETTINGS[setting], name, tests.SETTINGS[setting].denoise).flatten()
            known = torch.tensor(expected["first8"] + expected["last4"])
            cells.append(_difference(result[[*range(8), -4, -3, -2, -1]], known))
        yield f"| {name} | " + " | ".join(cells) + " |"


def graph_rows(folder: Path) -> tuple[bool, list[str]]:
    """Returns whether this machine rounds as the reference's, and a row for each of its whole graphs."""
    tests, tiny = module("tests/diffusion/test_end_to_end.py"), module("tests/diffusion/tiny.py")
    memory = WeightMemory(precision="exact")
    base = open_checkpoint(tiny.write_reference_tiny(folder / "tiny.safetensors"), memory)
    inpaint = open_checkpoint(tiny.write_reference_tiny(folder / "inpaint.safetensors", in_channels=9), memory)
    y, x = torch.arange(64).reshape(-1, 1, 1), torch.arange(64).reshape(-1, 1)
    picture = Image(((7 * y + 13 * x + 29 * torch.arange(3)) % 64).float().unsqueeze(0) / 63)
    graphs = tests.Graphs(base.model, inpaint.model, base.vae, picture)
    encoded = tests.sha256(tests.encode(graphs.vae, graphs.image).samples)
    rows = ["| graph | latent | picture |", "|---|---|---|"]
    for name, run in tests.GRAPHS.items():
        expected, latent = tests.VECTORS[name], run(graphs)
        same = tests.sha256(latent.samples) == expected.get("latent_sha256_f32")
        known = torch.tensor(expected["latent_first8"])
        cell = "bit-equal" if same else _difference(latent.samples.flatten()[:8], known)
        shown = ""
        if "image_sha256_u8" in expected:
            pixels = tests.to_bytes(decode(graphs.vae, latent).pixels)
            shown = "bit-equal" if tests.sha256(pixels) == expected["image_sha256_u8"] else "others"
        rows.append(f"| {name} | {cell} | {shown} |")
    return encoded == tests.VECTORS[tests.ENCODED]["sha256_f32"], rows


@dataclass(frozen=True)
class Family:
    """A small network with made-up weights, read from a file; what it is fed; and what diffusers' own makes of that."""

    name: str
    kind: Any
    network: Any
    x: Tensor
    time: Tensor
    inputs: NetworkInputs
    plain: Tensor


def family_rows(folder: Path) -> Iterator[str]:
    """Yields a row for each family: one call of the network, `exact` and `auto`, against diffusers' own in float32."""
    yield "| family | `exact` against diffusers in float32 | `auto` against `exact` |"
    yield "|---|---|---|"
    for family in _families(folder):
        exact = _call(family, torch.float32)
        policy = resolve("auto")
        auto = _call(family, policy.unet if family.kind == "unet" else policy.transformer, diffusers_attention=True)
        error = (auto - exact).square().mean().sqrt() / exact.square().mean().sqrt()
        yield f"| {family.name} | {_difference(exact, family.plain)} | {error.item():.1e} of the RMS |"


def picture_rows(prompts: int) -> Iterator[str]:
    """Yields a row for each sampler: pictures of the bundled model in `auto` against `exact`."""
    path = Path(latentgraph.models.__file__).parent / "emoji.safetensors"
    precisions: tuple[Precision, Precision] = ("exact", "auto")
    models = [open_checkpoint(path, WeightMemory(precision=precision)) for precision in precisions]
    yield "| sampler | median | least | to reach |"
    yield "|---|---|---|---|"
    for sampler, scheduler in RUNS:
        values = []
        for seed, text in enumerate(PROMPTS[:prompts]):
            run = {"seed": seed, "steps": 20, "cfg": 5.0, "sampler": sampler, "scheduler": scheduler}
            values.append(psnr(*(_picture(model, text, run) for model in models)))
        yield f"| {sampler}, {scheduler} | {median(values):.1f} dB | {min(values):.1f} dB | {FLOOR:.0f} dB |"


def _picture(model: Checkpoint, text: str, run: dict[str, Any]) -> Image:
    if model.clip is None or model.vae is None:
        raise SystemExit("the bundled model lacks its text encoder or its autoencoder.")
    positive, negative = (TextEncode(clip=model.clip, text=each).run(Context()) for each in (text, ""))
    return decode(model.vae, sample(model.model, positive, negative, empty_latent(width=128, height=128), **run))


def _families(folder: Path) -> Iterator[Family]:
    yield from _unets(folder)
    yield from _transformers(folder)


def _unets(folder: Path) -> Iterator[Family]:
    tiny = module("tests/diffusion/tiny.py")
    files = {
        "Stable Diffusion 1.x": tiny.sd1_tensors(),
        "Stable Diffusion 1.x, inpainting": tiny.sd1_tensors(in_channels=9),
        "Stable Diffusion 1.x, InstructPix2Pix": tiny.sd1_tensors(in_channels=8),
        "Stable Diffusion 2.x": tiny.sd2_tensors(),
        "Stable Diffusion 2 depth": tiny.sd2_tensors(in_channels=5),
        "Stable Diffusion 2.1 unCLIP": tiny.unclip_tensors(),
        "Stable Diffusion XL": tiny.sdxl_tensors(),
        "Stable Diffusion XL refiner": tiny.refiner_tensors(),
    }
    for name, tensors in files.items():
        path = tiny.write(folder / f"{name}.safetensors", tensors)
        model = open_checkpoint(path, WeightMemory(precision="exact")).model
        spec: Any = model.spec.network
        latent, time = _draw(1, 1, 4, 16, 16), torch.tensor([500.0])
        concat = _draw(4, 1, spec.in_channels - 4, 16, 16) if spec.in_channels > 4 else None
        shown = (PicturePrompt(_draw(3, 1, spec.picture_width)),) if spec.vector_width and not spec.pooled_width else ()
        pooled = _draw(3, 1, spec.pooled_width) if spec.pooled_width else None
        condition = Condition(_draw(2, 1, 77, model.spec.context_width), pooled=pooled, pictures=shown)
        vector = vector_of(condition, spec=model.spec, latent=latent)
        inputs = NetworkInputs(condition.embedding, vector.pooled, vector.sizes, concat=concat)
        with model.weights.use() as network:
            plain = _unet_by_diffusers(network.config, load_file(path), latent, time, inputs)
            yield Family(name, "unet", network, latent, time, inputs, plain)


@torch.inference_mode()
def _unet_by_diffusers(
    config: Any, tensors: dict[str, Tensor], latent: Tensor, time: Tensor, inputs: NetworkInputs
) -> Tensor:
    """Diffusers' class, its own conversion of the file's keys, and its own attention."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    network: Any = UNet2DConditionModel.from_config(config)
    weights = {key: weight.float() for key, weight in tensors.items()}
    blocks = config["layers_per_block"][0]  # the small ones have as many on each level
    network.load_state_dict(convert_ldm_unet_checkpoint(weights, {**config, "layers_per_block": blocks}))
    told: dict[str, Any] = {"class_labels": inputs.pooled}
    if config["addition_embed_type"] == "text_time":
        told = {"added_cond_kwargs": {"text_embeds": inputs.pooled, "time_ids": inputs.sizes}}
    x = latent if inputs.concat is None else torch.cat([latent, inputs.concat], dim=1)
    result: Tensor = network.eval()(x, time, inputs.context, **told).sample
    return result


@torch.inference_mode()
def _transformers(folder: Path) -> Iterator[Family]:
    dits, tests = module("tests/diffusion/tiny_dits.py"), module("tests/diffusion/test_dits.py")
    titles = {
        "SD3": "Stable Diffusion 3",
        "SD3.5": "Stable Diffusion 3.5",
        "FLUX": "FLUX.1 dev",
        "schnell": "FLUX.1 schnell",
        "FLUX.2": "FLUX.2",
    }
    for key, title in titles.items():
        spec = dits.SPECS[key]
        path = folder / f"{key}.safetensors"
        save_file(dits.original(spec, dits.weights(spec)), path)
        x, time, inputs = tests.some_inputs(spec, 16, 16)
        plain = tests.plainly(dits.network(spec), spec, x, time, inputs)
        with open_network(path, WeightMemory(precision="exact")).weights.use() as network:
            yield Family(title, spec.kind, network, x, time, inputs, plain)


@torch.inference_mode()
def _call(family: Family, dtype: torch.dtype, *, diffusers_attention: bool = False) -> Tensor:
    from diffusers.models.attention_processor import AttnProcessor2_0

    from latentgraph.diffusion.networks.patches import shared_copy

    network = shared_copy(family.network)
    if dtype != torch.float32:
        state = {name: weight.to(dtype) for name, weight in network.state_dict().items()}
        network.load_state_dict(state, assign=True)
    if diffusers_attention and family.kind == "unet":
        network.set_attn_processor(AttnProcessor2_0())
    return call_of(family.kind, network)(family.x, family.time, family.inputs).float()


def _draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _difference(found: Tensor, expected: Tensor) -> str:
    """The largest difference, as a part of the largest expected value; "bit-equal" where there is none."""
    if torch.equal(found, expected):
        return "bit-equal"
    return f"{((found - expected).abs().max() / expected.abs().max()).item():.0e}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Measures everything and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "fidelity.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        same, graphs = graph_rows(Path(folder))
        families = list(family_rows(Path(folder)))
    kernels = "rounds as the reference's processor does" if same else "rounds otherwise than the reference's processor"
    auto = str(resolve("auto").unet).removeprefix("torch.")
    page = f"""# Fidelity

Written by `python -m benchmarks.fidelity`, on an {_processor()} with torch {torch.__version__}; its matrix library {kernels}.
The reference is ComfyUI 0.8.0 on a CPU; its results are in `tests/vectors/`. A number is the largest difference as a part of
the largest value; float32 itself has 6e-08.

## Whole graphs in `exact`

A small model with made-up weights, from the seed to the picture. How to have the reference's rounding on any x86 processor is
said in `tests/diffusion/test_end_to_end.py`.

{chr(10).join(graphs)}

## Samplers in `exact`

Each on data for which the denoiser is known, so that nothing but the sampler is compared: twelve values of the latent.

{chr(10).join(sampler_rows())}

## Families: one call of the network

Small networks with made-up weights, read from files in their makers' layout, against diffusers' own class with the same
weights, called as its pipelines do. `exact` writes a UNet's attention out in a fixed order; `auto` is {auto} here.
Made-up weights are no trained ones: what rounding does to a picture is the next table's matter.

{chr(10).join(families)}

## Pictures in `auto` against `exact`

The bundled model, 128x128, 20 steps with guidance, {given.prompts} prompts with a seed each: the PSNR between the two pictures.

{chr(10).join(picture_rows(given.prompts))}
"""
    given.output.write_text(page, encoding="utf-8")
    print(json.dumps({"written": str(given.output)}))


if __name__ == "__main__":
    main()
