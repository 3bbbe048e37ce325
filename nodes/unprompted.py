"""Nodes that condition a network without a prompt."""

from __future__ import annotations

from pydantic import Field

from latentgraph.diffusion.types import Conditioning, Model
from latentgraph.graph import Context, Known, Node, OutputFacts

from .facts import TEXT, some


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
