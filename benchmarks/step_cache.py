"""What StepCache saves, and what it costs: wall time and PSNR together, on the bundled model.

    python -m benchmarks.step_cache [--prompts N] [--steps N]

Each picture is made without the cache and with it, in turn; the PSNR is that of the two, decoded. Times are of sampling alone.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import latentgraph.models
from latentgraph.diffusion.checkpoints.opening import Checkpoint, open_checkpoint
from latentgraph.diffusion.latents.autoencoder import decode
from latentgraph.diffusion.latents.batches import empty_latent
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.pictures.differences import psnr
from latentgraph.diffusion.sampling.run import sample
from latentgraph.diffusion.types import Image
from latentgraph.graph import Context
from latentgraph.nodes.text import TextEncode

from .networks import median

PROMPTS = ("a red apple", "octopus", "smiling face with sunglasses", "guitar", "pizza", "robot", "sunflower", "snowman")
RUNS = (("dpmpp_2m", "karras"), ("euler", "normal"), ("euler_ancestral", "normal"))
FLOORS = (25.0, 30.0, 35.0)


def picture(model: Checkpoint, texts: tuple[Any, Any], quality: float | None, **run: Any) -> tuple[Image, float]:
    """Returns a picture and the seconds that sampling it took."""
    asked = replace(model.model, options=replace(model.model.options, quality=quality))
    begun = time.perf_counter()
    latent = sample(asked, *texts, empty_latent(width=128, height=128), cfg=5.0, **run)
    seconds = time.perf_counter() - begun
    assert model.vae is not None
    return decode(model.vae, latent), seconds


def main() -> None:
    """Measures everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    model = open_checkpoint(Path(latentgraph.models.__file__).parent / "emoji.safetensors", WeightMemory())
    if model.clip is None:
        raise SystemExit("the bundled model has no text encoder.")
    texts = {text: TextEncode(clip=model.clip, text=text).run(Context()) for text in ("", *PROMPTS[: given.prompts])}
    table = Table("sampler", "floor", "PSNR: least, median", "time against the run without", box=None)
    for sampler, scheduler in RUNS:
        ratios: dict[float, list[float]] = {floor: [] for floor in FLOORS}
        values: dict[float, list[float]] = {floor: [] for floor in FLOORS}
        for seed, text in enumerate(PROMPTS[: given.prompts]):
            run = {"seed": seed, "steps": given.steps, "sampler": sampler, "scheduler": scheduler}
            plain, seconds = picture(model, (texts[text], texts[""]), None, **run)
            for floor in FLOORS:
                cached, fewer = picture(model, (texts[text], texts[""]), floor, **run)
                values[floor].append(psnr(cached, plain))
                ratios[floor].append(fewer / seconds)
        for floor in FLOORS:
            table.add_row(
                f"{sampler}, {scheduler}",
                f"{floor:.0f} dB",
                f"{min(values[floor]):.1f}, {median(values[floor]):.1f} dB",
                f"{median(ratios[floor]):.2f} x",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
