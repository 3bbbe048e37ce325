"""Nodes that say how good something is."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from latentgraph.diffusion.types import Image, Vae
from latentgraph.graph import Context, Known, Node, OutputFacts

from .autoencoders import percent
from .facts import batch_of, cropped_size, size_facts, size_of


class RoundTrip(NamedTuple):
    """A picture as an autoencoder gives it back, and how close it is to the original."""

    image: Image
    psnr: float


class VAERoundTrip(Node, version=1, lane="device"):
    """Encode pictures and decode them again, to see what of their detail an autoencoder keeps.

    The PSNR is in dB: 20 is rough, 30 good, 40 hardly to be seen. What img2img and inpainting do not change can't come out any
    better, unless the original is pasted back.
    """

    vae: Vae = Field(description="The autoencoder.")
    image: Image = Field(description="The pictures; sides that are no multiple of 8 are cropped around the centre.")

    def run(self, ctx: Context) -> RoundTrip:
        from latentgraph.diffusion.latents.autoencoder import decode, encode
        from latentgraph.diffusion.pictures.differences import psnr
        from latentgraph.diffusion.pictures.resize import crop_to_cells

        latent = encode(self.vae, self.image, on_progress=lambda done: percent(ctx)(done / 2), on_notice=ctx.warn)
        image = decode(self.vae, latent, on_progress=lambda done: percent(ctx)(0.5 + done / 2), on_notice=ctx.warn)
        return RoundTrip(image, psnr(image, crop_to_cells(self.image, self.vae.spec.downscale)))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return {"image": size_facts(cropped_size(known), batch_of(known, "image"))}


class ImageDifference(Node, version=1):
    """Say how close pictures are to others of the same size: the PSNR in dB, 100 where there is no difference."""

    image: Image = Field(description="The pictures.")
    other: Image = Field(description="What they are compared with; one picture, or as many.")

    def run(self, ctx: Context) -> float:
        from latentgraph.diffusion.pictures.differences import psnr

        return psnr(self.image, self.other)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        size, other = size_of(known, "image"), size_of(known, "other")
        if size is not None and other is not None and size != other:
            known.problem(
                "other",
                f"is {other}, but input 'image' is {size}; scale or crop one to the size of the other",
            )
        return {}
