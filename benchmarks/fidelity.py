"""Writes docs/fidelity.md: how near `exact` is to the reference, by sampler and by family, and `auto` to `exact`.

    python -m benchmarks.fidelity [--prompts N] [--output FILE]

Reads the reference's vectors, and builds its graphs and small checkpoints, from `tests/`: it runs in a clone of the repository.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import latentgraph.models
from latentgraph.diffusion.checkpoints.opening import Checkpoint, open_checkpoint
from latentgraph.diffusion.latents.autoencoder import decode
from latentgraph.diffusion.latents.batches import empty_latent
from latentgraph.diffusion.names import Precision
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.precision import resolve
from latentgraph.diffusion.pictures.differences import psnr
from latentgraph.diffusion.sampling.run import sample
from latentgraph.diffusion.types import Image
from latentgraph.graph import Context
from latentgraph.nodes.text import TextEncode

from .families import difference, family_rows, module
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
            cells.append(difference(result[[*range(8), -4, -3, -2, -1]], known))
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
        cell = "bit-equal" if same else difference(latent.samples.flatten()[:8], known)
        shown = ""
        if "image_sha256_u8" in expected:
            pixels = tests.to_bytes(decode(graphs.vae, latent).pixels)
            shown = "bit-equal" if tests.sha256(pixels) == expected["image_sha256_u8"] else "others"
        rows.append(f"| {name} | {cell} | {shown} |")
    return encoded == tests.VECTORS[tests.ENCODED]["sha256_f32"], rows


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
weights, called as its pipelines do. Of EDM's networks (Playground 2.5, CosXL) the denoised latent is compared. What diffusers
reads no file of is held against its formula, written out apart. `exact` writes a UNet's attention out in a fixed order; `auto`
is {auto} here. Made-up weights are no trained ones: what rounding does to a picture is the next table's matter.

{chr(10).join(families)}

## Pictures in `auto` against `exact`

The bundled model, 128x128, 20 steps with guidance, {given.prompts} prompts with a seed each: the PSNR between the two pictures.

{chr(10).join(picture_rows(given.prompts))}
"""
    given.output.write_text(page, encoding="utf-8")
    print(json.dumps({"written": str(given.output)}))


if __name__ == "__main__":
    main()
