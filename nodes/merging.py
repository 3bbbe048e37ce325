"""Nodes that mix networks. Mixtures are light handles, made when they are first used."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from latentgraph.diffusion.adapters.files import unlike
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.types import Clip
from latentgraph.graph import ComfyName, Context, Known, Node, OutputFacts

from .adapters import network_of
from .facts import check_unet

FIRST_MODEL = "The network that a ratio of 1 gives; the result is of its kind."
SECOND_MODEL = "The network that a ratio of 0 gives."
FIRST_CLIP, SECOND_CLIP = "The text encoders that a ratio of 1 gives.", "The text encoders that a ratio of 0 gives."


class _TwoModels:
    """What is known of the first model is true of the mixture, if the second one can be mixed in."""

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return _mixed(known, "model")


class _TwoClips:
    """What is known of the first text encoders is true of the mixture, if the second ones can be mixed in."""

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return _mixed(known, "clip")


_MODELS = {"model": "model1", "other": "model2"}
_CLIPS = {"clip": "clip1", "other": "clip2"}


class MergeModels(_TwoModels, Node, version=1, cached=False, comfy=ComfyName("ModelMergeSimple", _MODELS)):
    """Mix two networks of one structure: each weight is the mean of theirs by a ratio."""

    model: Model = Field(description=FIRST_MODEL)
    other: Model = Field(description=SECOND_MODEL)
    ratio: float = Field(1.0, ge=0, le=1, description="How much of `model` is in the mixture.")

    def run(self, ctx: Context) -> Model:
        from latentgraph.diffusion.networks.blending import mix
        from latentgraph.diffusion.networks.variants import merge

        return merge(self.model, self.other, mix(self.ratio))


class MergeModelBlocks(_TwoModels, Node, version=1, cached=False, comfy=ComfyName("ModelMergeBlocks", _MODELS)):
    """Mix two networks of one structure, with a ratio for each part of the UNet."""

    model: Model = Field(description=FIRST_MODEL)
    other: Model = Field(description=SECOND_MODEL)
    input: float = Field(1.0, ge=0, le=1, description="How much of `model` is in the blocks on the way down.")
    middle: float = Field(1.0, ge=0, le=1, description="How much of `model` is in the middle block.")
    out: float = Field(1.0, ge=0, le=1, description="How much of `model` is in the blocks on the way up.")

    def run(self, ctx: Context) -> Model:
        from latentgraph.diffusion.networks.blending import mix_blocks
        from latentgraph.diffusion.networks.variants import merge

        return merge(self.model, self.other, mix_blocks(input=self.input, middle=self.middle, out=self.out))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_unet(known, ": use MergeModels")
        return super().infer(known)


class AddModels(_TwoModels, Node, version=1, cached=False, comfy=ComfyName("ModelMergeAdd", _MODELS)):
    """Add the weights of a network, usually a difference of two, to those of another."""

    model: Model = Field(description="The network that is added to; the result is of its kind.")
    other: Model = Field(description="What is added.")

    def run(self, ctx: Context) -> Model:
        from latentgraph.diffusion.networks.blending import sum_of_both
        from latentgraph.diffusion.networks.variants import merge

        return merge(self.model, self.other, sum_of_both())


class SubtractModels(_TwoModels, Node, version=1, cached=False, comfy=ComfyName("ModelMergeSubtract", _MODELS)):
    """Take the weights of a network from those of another: what the one learned beyond the other, to be added to a third."""

    model: Model = Field(description="The network that is taken from.")
    other: Model = Field(description="What is taken away.")
    multiplier: float = Field(1.0, ge=-10, le=10, description="What the difference is multiplied with.")

    def run(self, ctx: Context) -> Model:
        from latentgraph.diffusion.networks.blending import difference
        from latentgraph.diffusion.networks.variants import merge

        return merge(self.model, self.other, difference(self.multiplier))


class MergeClips(_TwoClips, Node, version=1, cached=False, comfy=ComfyName("CLIPMergeSimple", _CLIPS)):
    """Mix the text encoders of two models of one family: each weight is the mean of theirs by a ratio."""

    clip: Clip = Field(description=FIRST_CLIP)
    other: Clip = Field(description=SECOND_CLIP)
    ratio: float = Field(1.0, ge=0, le=1, description="How much of `clip` is in the mixture.")

    def run(self, ctx: Context) -> Clip:
        from latentgraph.diffusion.networks.blending import mix
        from latentgraph.diffusion.networks.variants import merge

        return merge(self.clip, self.other, mix(self.ratio))


class AddClips(_TwoClips, Node, version=1, cached=False, comfy=ComfyName("CLIPMergeAdd", _CLIPS)):
    """Add the weights of text encoders, usually a difference of two, to those of others."""

    clip: Clip = Field(description="The text encoders that are added to.")
    other: Clip = Field(description="What is added.")

    def run(self, ctx: Context) -> Clip:
        from latentgraph.diffusion.networks.blending import sum_of_both
        from latentgraph.diffusion.networks.variants import merge

        return merge(self.clip, self.other, sum_of_both())


class SubtractClips(_TwoClips, Node, version=1, cached=False, comfy=ComfyName("CLIPMergeSubtract", _CLIPS)):
    """Take the weights of text encoders from those of others."""

    clip: Clip = Field(description="The text encoders that are taken from.")
    other: Clip = Field(description="What is taken away.")
    multiplier: float = Field(1.0, ge=-10, le=10, description="What the difference is multiplied with.")

    def run(self, ctx: Context) -> Clip:
        from latentgraph.diffusion.networks.blending import difference
        from latentgraph.diffusion.networks.variants import merge

        return merge(self.clip, self.other, difference(self.multiplier))


def _mixed(known: Known, name: str) -> OutputFacts:
    first, second = network_of(known, name), network_of(known, "other", kind=name)
    if first is not None and second is not None and (reason := unlike(first, second)) is not None:
        families: Any = known.fact("other", "family"), known.fact(name, "family")
        known.problem(
            "other",
            f"is of the {families[0]} family and input {name!r} of the {families[1]} family, with another structure: "
            f"{reason}; networks of one structure can be mixed",
        )
    return {name: known.facts(name)}
