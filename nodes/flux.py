"""Nodes for what FLUX networks are told beside a prompt: how strongly to follow it, and pictures to go by."""

from __future__ import annotations

from pydantic import Field

from latentgraph.diffusion.pictures.sizes import kontext_size
from latentgraph.diffusion.types import Conditioning, Image, Latent
from latentgraph.graph import ComfyName, Context, Known, Node, OutputFacts

from .facts import SameFacts, batch_of, size_facts, size_of


class FluxGuidance(SameFacts, Node, version=1, comfy=ComfyName("FluxGuidance")):
    """Say how strongly FLUX dev and its kin follow a prompt. They were distilled to be told, so cfg stays 1; other networks
    do not look at it."""

    conditioning: Conditioning = Field(description="The prompt.")
    guidance: float = Field(
        3.5, ge=0, le=100, description="How strongly: about 3.5 for dev, 2.5 for Kontext, 30 for fill."
    )

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import set_guidance

        return set_guidance(self.conditioning, self.guidance)


class ReferenceLatent(Node, version=1, comfy=ComfyName("ReferenceLatent")):
    """Give a network a picture to go by, as FLUX Kontext and FLUX.2 take them; several times for several pictures."""

    conditioning: Conditioning = Field(description="The prompt, which says what to make of the picture.")
    latent: Latent | None = Field(None, description="The encoded picture; without one the prompt stays as it is.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import add_reference

        return self.conditioning if self.latent is None else add_reference(self.conditioning, self.latent)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        facts = known.facts("conditioning")
        if not known.each("latent"):
            return {"conditioning": facts}
        channels = known.fact("latent", "latent_channels")
        return {"conditioning": {**facts, "references": (*facts.get("references", ()), channels)}}


class ScaleImageForKontext(Node, version=1, comfy=ComfyName("FluxKontextImageScale")):
    """Resize pictures to the nearest of the sizes, about a megapixel each, that FLUX Kontext was trained on."""

    image: Image = Field(description="The pictures.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.resize import resize_image

        height, width = self.image.pixels.shape[1:3]
        size = kontext_size(width / height)
        return resize_image(self.image, width=size.width, height=size.height, method="lanczos", crop="center")

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        size = size_of(known, "image")
        fitted = None if size is None else kontext_size(size.width / size.height)
        return {"image": size_facts(fitted, batch_of(known, "image"))}
