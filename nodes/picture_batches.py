"""Nodes that make pictures of one colour, and repeat and take apart batches of pictures."""

from __future__ import annotations

from pydantic import Field

from latentgraph.diffusion.pictures.sizes import MAX_SIDE, Size
from latentgraph.diffusion.types import Image
from latentgraph.graph import ComfyName, Context, Facts, Known, Node, OutputFacts

from .facts import batch_of, size_facts, size_of

MAX_BATCH = 4096


class EmptyImage(Node, version=1, comfy=ComfyName("EmptyImage")):
    """Make pictures of one colour, to paint or to lay others on."""

    width: int = Field(512, ge=1, le=MAX_SIDE, description="Width in pixels.")
    height: int = Field(512, ge=1, le=MAX_SIDE, description="Height in pixels.")
    batch_size: int = Field(1, ge=1, le=MAX_BATCH, description="How many pictures.")
    color: int = Field(
        0, ge=0, le=0xFFFFFF, description="The colour, as 0xRRGGBB: 0 is black, 0xff0000 red, 0xffffff white."
    )

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.batches import solid_image

        return solid_image(self.color, width=self.width, height=self.height, batch_size=self.batch_size)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        width, height = known.value("width"), known.value("height")
        return {"image": size_facts(Size(width, height) if width and height else None, known.value("batch_size"))}


class ImageFromBatch(Node, version=1, comfy=ComfyName("ImageFromBatch", {"index": "batch_index"})):
    """Take some pictures out of a batch; beyond its end there are none."""

    image: Image = Field(description="The batch.")
    index: int = Field(0, ge=0, le=MAX_BATCH - 1, description="The first one to take, counted from 0.")
    length: int = Field(1, ge=1, le=MAX_BATCH, description="How many to take at most.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.batches import image_from_batch

        return image_from_batch(self.image, self.index, self.length)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        batch, index, length = batch_of(known, "image"), known.value("index"), known.value("length")
        if batch is None or index is None or length is None:
            return {"image": _like(known, None)}
        if index >= batch:
            known.problem("index", f"is {index}, but input 'image' has {batch} pictures, from 0 to {batch - 1}")
            return {"image": _like(known, None)}
        return {"image": _like(known, min(length, batch - index))}


class RepeatImage(Node, version=1, comfy=ComfyName("RepeatImageBatch")):
    """Repeat a batch of pictures."""

    image: Image = Field(description="The batch.")
    amount: int = Field(1, ge=1, le=MAX_BATCH, description="How many times over.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.batches import repeat_image

        return repeat_image(self.image, self.amount)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        batch, amount = batch_of(known, "image"), known.value("amount")
        return {"image": _like(known, batch * amount if batch and amount else None)}


def _like(known: Known, batch: int | None) -> Facts:
    """Facts of so many pictures like those of input 'image'."""
    return size_facts(size_of(known, "image"), batch)
