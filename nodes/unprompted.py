"""Nodes that condition a network without a prompt."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from latentgraph.diffusion.model import Model
from latentgraph.diffusion.pictures.sizes import whole_cells
from latentgraph.diffusion.types import Clip, Conditioning, Image, Latent
from latentgraph.graph import Context, Known, Node, OutputFacts

from .facts import TEXT, batch_of, size_facts, size_of, some


class EmptyConditioning(Node, version=1):
    """Say nothing to a network: for one that takes no text, such as those of unconditional latent diffusion.

    To a network that takes text it says zeros, which is less than what an empty prompt says.
    """

    model: Model = Field(description="The denoising network.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import empty

        return empty(self.model.spec.context_width, self.model.spec.pooled_width)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return {"conditioning": some(known.facts("model"), TEXT)}


class ClassConditioning(Node, version=1, lane="device"):
    """Tell a network a class by its number: for class-conditional latent diffusion, which knows ImageNet's 1000 classes.

    The last number is that of no class in particular, and serves as the negative.
    """

    clip: Clip = Field(description="The classes of the model's checkpoint, which it has in place of text encoders.")
    number: int = Field(0, ge=0, le=1_000_000, description="The class; of ImageNet 0 to 999, and 1000 for none.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.text.classes import encode_class

        return encode_class(self.clip, self.number)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        clip, number = known.fact("clip", "spec"), known.value("number")
        if clip is not None and not any(encoder.kind == "classes" for encoder in clip.encoders):
            known.problem("clip", f"reads prompts, of the {clip.family} family; use TextEncode")
        elif clip is not None and number is not None and number >= clip.encoders[0].vocab:
            known.problem("number", f"is {number}, but the model knows the classes 0 to {clip.encoders[0].vocab - 1}")
        return {"conditioning": some(known.facts("clip"), TEXT)}


class SegmentConditions(NamedTuple):
    """What a network samples from that is shown classes: the conditions, and an empty latent of the picture's size."""

    conditioning: Conditioning
    latent: Latent


SEGMENT_CELL = 4  # pixels a cell in latent diffusion's semantic synthesis


class SegmentConditioning(Node, version=1, lane="device"):
    """Tell a network what is where, by a picture of classes: for latent diffusion's semantic synthesis.

    The picture is grey, and the grey level of each pixel, 0 to 255, is the number of its class: of the published model one of
    COCO-Stuff's 182.
    """

    clip: Clip = Field(description="The classes of the model's checkpoint, which it has in place of text encoders.")
    segments: Image = Field(description="The picture of classes.")

    def run(self, ctx: Context) -> SegmentConditions:
        from latentgraph.diffusion.latents.batches import empty_latent
        from latentgraph.diffusion.text.segments import encode_segments

        batch, height, width, _ = self.segments.pixels.shape
        latent = empty_latent(width=width, height=height, batch_size=batch, downscale=SEGMENT_CELL)
        return SegmentConditions(encode_segments(self.clip, self.segments), latent)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        clip = known.fact("clip", "spec")
        if clip is not None and not any(encoder.kind == "segments" for encoder in clip.encoders):
            known.problem("clip", f"is not shown classes by a picture, of the {clip.family} family; use TextEncode")
        size = size_of(known, "segments")
        if size is not None and min(size) < SEGMENT_CELL:
            known.problem("segments", f"is {size}; its sides must be at least {SEGMENT_CELL} pixels")
        cropped = None if size is None else whole_cells(size, SEGMENT_CELL)
        conditioning = {**some(known.facts("clip"), TEXT), "segments": True}
        return {"conditioning": conditioning, "latent": size_facts(cropped, batch_of(known, "segments"))}
