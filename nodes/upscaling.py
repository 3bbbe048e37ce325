"""Nodes that enlarge pictures with a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from latentgraph.diffusion.types import Image, UpscaleModel
from latentgraph.diffusion.upscaling.reading import NEEDS_PACKAGE, can_upscale, describe_upscaler
from latentgraph.graph import ComfyName, Context, FileInput, Known, Node, OutputFacts

from .facts import batch_of, read_header, size_facts


class LoadUpscaleModel(
    Node, version=1, lane="io", cached=False, comfy=ComfyName("UpscaleModelLoader", {"file": "model_name"})
):
    """Open an upscale model: ESRGAN, SwinIR, HAT, DAT and whatever else the package spandrel knows.

    It comes with `pip install "latentgraph[upscale]"`.
    """

    file: Annotated[Path, FileInput("upscale_model")] = Field(description="An upscale model's name or path.")

    def run(self, ctx: Context) -> UpscaleModel:
        from latentgraph.diffusion.networks.memory import WeightMemory
        from latentgraph.diffusion.upscaling.upscale import open_upscaler

        return open_upscaler(self.file, ctx.resource(WeightMemory))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        if path is not None:
            read_header(describe_upscaler, path)
            if not can_upscale():
                known.problem("file", NEEDS_PACKAGE)
        return {}


class ImageUpscaleWithModel(Node, version=1, lane="device", comfy=ComfyName("ImageUpscaleWithModel")):
    """Enlarge pictures with a network, as many times as it was made to; large pictures go through it in tiles."""

    upscale_model: UpscaleModel = Field(description="The network that enlarges.")
    image: Image = Field(description="The pictures.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.upscaling.upscale import upscale

        return upscale(self.upscale_model, self.image, on_progress=lambda done: ctx.progress(round(100 * done), 100))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return {"image": size_facts(None, batch_of(known, "image"))}
