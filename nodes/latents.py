"""Nodes that make empty latents, and latents of others: their sizes, masks and batches."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from latentgraph.diffusion.names import CropName
from latentgraph.diffusion.pictures.sizes import CELL, MAX_SIDE, Size, cells_of, resized, scaled
from latentgraph.diffusion.types import Latent, Mask
from latentgraph.graph import ComfyName, Context, Facts, Known, Node, OutputFacts

from .facts import (
    LATENT_FORMAT,
    batch_of,
    cell_of,
    check_latent,
    check_noise_mask,
    resized_size,
    size_facts,
    size_of,
    some,
)

LEAST_SIDE = 64  # of a latent that is resized with its aspect kept, in pixels
LatentMethod = Literal["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]


class EmptyLatent(
    Node,
    version=1,
    comfy=ComfyName("EmptyLatentImage", also=(ComfyName("EmptySD3LatentImage"), ComfyName("EmptyFlux2LatentImage"))),
):
    """Make empty latents to paint a picture from nothing; they fit any model.

    Transformers (SD3, FLUX) want sides that are multiples of 16.
    """

    width: int = Field(512, ge=16, le=MAX_SIDE, multiple_of=CELL, description="Width of the picture in pixels.")
    height: int = Field(512, ge=16, le=MAX_SIDE, multiple_of=CELL, description="Height of the picture in pixels.")
    batch_size: int = Field(1, ge=1, le=4096, description="How many pictures to make at once, each from its own noise.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.batches import empty_latent

        return empty_latent(width=self.width, height=self.height, batch_size=self.batch_size)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        width, height = known.value("width"), known.value("height")
        size = Size(width, height) if width and height else None
        return {"latent": size_facts(size, known.value("batch_size"))}


class SetLatentMask(Node, version=1, comfy=ComfyName("SetLatentNoiseMask", {"latent": "samples"})):
    """Let sampling change a latent only where a mask is 1; a soft mask blends."""

    latent: Latent = Field(description="The latent of the picture.")
    mask: Mask = Field(description="1 where it may change; of the picture's size or of the latent's.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.batches import set_noise_mask

        return set_noise_mask(self.latent, self.mask)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_noise_mask(known, "mask", "latent")
        return {"latent": known.facts("latent")}


class LatentUpscale(
    Node, version=1, comfy=ComfyName("LatentUpscale", {"latent": "samples", "method": "upscale_method"})
):
    """Resize latents to a size in pixels of the picture; sample them again at a lower denoise to draw the new detail.

    A size that is no whole number of the latent's cells (8 pixels; FLUX.2's: 16) is rounded down.
    """

    latent: Latent = Field(description="The latents.")
    method: LatentMethod = Field("nearest-exact", description="How values between the old ones are made.")
    width: int = Field(512, ge=0, le=MAX_SIDE, multiple_of=CELL, description="New width; 0 keeps the aspect.")
    height: int = Field(512, ge=0, le=MAX_SIDE, multiple_of=CELL, description="New height; 0 keeps the aspect.")
    crop: CropName = Field("disabled", description="Whether another aspect crops the picture or stretches it.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.pictures.resize import resize_latent

        (h, w), cell = self.latent.samples.shape[-2:], self.latent.downscale
        size = resized(Size(w * cell, h * cell), width=self.width, height=self.height, least=LEAST_SIDE)
        cells = cells_of(size, cell)
        return resize_latent(self.latent, width=cells.width, height=cells.height, method=self.method, crop=self.crop)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        size = resized_size(known, "latent", least=LEAST_SIDE)
        return {"latent": _like_latent(known, None if size is None else cells_of(size, cell_of(known, "latent")))}


class LatentUpscaleBy(
    Node,
    version=1,
    comfy=ComfyName("LatentUpscaleBy", {"latent": "samples", "method": "upscale_method", "factor": "scale_by"}),
):
    """Resize latents by a factor; sample them again at a lower denoise to draw the new detail."""

    latent: Latent = Field(description="The latents.")
    method: LatentMethod = Field("nearest-exact", description="How values between the old ones are made.")
    factor: float = Field(1.5, ge=0.01, le=8, description="How many times as long the sides become.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.batches import scale_latent

        return scale_latent(self.latent, self.factor, method=self.method)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        size, factor = size_of(known, "latent"), known.value("factor")
        if size is None or factor is None:
            return {"latent": _like_latent(known, None)}
        return {"latent": _like_latent(known, scaled(cells_of(size, cell_of(known, "latent")), factor))}


class LatentFromBatch(
    Node, version=1, comfy=ComfyName("LatentFromBatch", {"latent": "samples", "index": "batch_index"})
):
    """Take some latents out of a batch; each keeps the noise that it has there, so one can be made again alone."""

    latent: Latent = Field(description="The batch.")
    index: int = Field(0, ge=0, le=4095, description="The first one to take, counted from 0.")
    length: int = Field(1, ge=1, le=4096, description="How many to take.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.batches import latent_from_batch

        return latent_from_batch(self.latent, self.index, self.length)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        facts = {key: value for key, value in known.facts("latent").items() if key != "batch"}
        return {"latent": facts}


class RepeatLatent(Node, version=1, comfy=ComfyName("RepeatLatentBatch", {"latent": "samples"})):
    """Repeat a batch of latents; every copy gets noise of its own."""

    latent: Latent = Field(description="The batch.")
    amount: int = Field(1, ge=1, le=64, description="How many times over.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.batches import repeat_latent

        return repeat_latent(self.latent, self.amount)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        batch, amount = batch_of(known, "latent"), known.value("amount")
        facts = {key: value for key, value in known.facts("latent").items() if key != "batch"}
        return {"latent": facts | ({"batch": batch * amount} if batch and amount else {})}


class CompositeLatent(Node, version=1, comfy=ComfyName("LatentCompositeMasked")):
    """Lay latents over others, through a mask if there is one.

    A place that is no whole number of the latents' cells (8 pixels; FLUX.2's: 16) is rounded down.
    """

    destination: Latent = Field(description="The latents below.")
    source: Latent = Field(description="The latents above.")
    x: int = Field(
        0, ge=-MAX_SIDE, le=MAX_SIDE, multiple_of=CELL, description="Where the source's left side is, in pixels."
    )
    y: int = Field(0, ge=-MAX_SIDE, le=MAX_SIDE, multiple_of=CELL, description="Where the source's top is, in pixels.")
    resize_source: bool = Field(False, description="Stretch the source to the destination's size.")
    mask: Mask | None = Field(None, description="1 where the source covers; everywhere if there is none.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.pictures.compositing import composite_latent

        return composite_latent(
            self.destination,
            self.source,
            x=self.x // self.destination.downscale,
            y=self.y // self.destination.downscale,
            mask=self.mask,
            resize_source=self.resize_source,
        )

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_latent(known, "source", "destination")
        return {"latent": known.facts("destination")}


class PasteLatent(
    Node, version=1, comfy=ComfyName("LatentComposite", {"destination": "samples_to", "source": "samples_from"})
):
    """Paste latents onto others, fading in at the edges.

    Pixels that are no whole number of the latents' cells (8 pixels; FLUX.2's: 16) are rounded down.
    """

    destination: Latent = Field(description="The latents below.")
    source: Latent = Field(description="The latents above.")
    x: int = Field(0, ge=0, le=MAX_SIDE, multiple_of=CELL, description="Where the source's left side is, in pixels.")
    y: int = Field(0, ge=0, le=MAX_SIDE, multiple_of=CELL, description="Where the source's top is, in pixels.")
    feather: int = Field(0, ge=0, le=MAX_SIDE, multiple_of=CELL, description="Pixels over which its edges fade in.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.pictures.compositing import paste_latent

        x, y, feather = (pixels // self.destination.downscale for pixels in (self.x, self.y, self.feather))
        return paste_latent(self.destination, self.source, x=x, y=y, feather=feather)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_latent(known, "source", "destination")
        return {"latent": known.facts("destination")}


def _like_latent(known: Known, cells: Size | None) -> Facts:
    """Facts of a latent like that of the input 'latent', of so many cells."""
    cell = cell_of(known, "latent")
    size = None if cells is None else Size(cells.width * cell, cells.height * cell)
    return {**some(known.facts("latent"), LATENT_FORMAT), **size_facts(size, batch_of(known, "latent"))}
