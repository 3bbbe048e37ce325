"""Nodes that denoise with a sampler, noise levels, noise and guidance that are chosen one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import Field

from latentgraph.diffusion.model import Guider, Model
from latentgraph.diffusion.sampling.guidance import ClassifierFree, Dual, ListName, Nested, Perpendicular
from latentgraph.diffusion.types import Conditioning, Latent, Noise, Sampler, Sigmas
from latentgraph.graph import ComfyName, Context, Known, Node, OutputFacts
from latentgraph.graph.params import MAX_SEED

from .carried import check_text
from .facts import check_latent, sampled_facts
from .sampling import MAX_CFG, step_teller

Lists = Mapping[ListName, Conditioning]


class CustomSampled(NamedTuple):
    """The latent at the last noise level, and the estimate of the clean one that was made on the way to it."""

    latent: Latent
    denoised: Latent


class SamplerCustom(
    Node,
    version=1,
    lane="device",
    comfy=ComfyName("SamplerCustom", {"latent": "latent_image", "seed": "noise_seed"}),
):
    """Denoise a latent with a sampler and noise levels of your own."""

    model: Model = Field(description="The denoising network.")
    positive: Conditioning = Field(description="What to paint.")
    negative: Conditioning = Field(description="What to avoid.")
    sampler: Sampler = Field(description="How to step from one noise level to the next.")
    sigmas: Sigmas = Field(description="The noise levels to go through; none leaves the latent as it is.")
    latent: Latent = Field(description="What to start from: an empty latent, or an encoded picture.")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Which noise: the same seed gives the same picture.")
    cfg: float = Field(
        8.0, ge=0, le=MAX_CFG, description="How strictly to follow the prompts; 1 ignores the negative one."
    )
    add_noise: bool = Field(True, description="Add noise first; off for a latent that still has its noise.")

    def run(self, ctx: Context) -> CustomSampled:
        from latentgraph.diffusion.sampling.run import sample_guided

        lists: Lists = {"positive": self.positive, "negative": self.negative}
        result = sample_guided(
            Guider(self.model, lists, ClassifierFree(self.cfg)),
            self.latent,
            noise=Noise(self.seed, silent=not self.add_noise),
            sampler=self.sampler,
            sigmas=self.sigmas,
            on_step=step_teller(ctx),
            on_notice=ctx.warn,
        )
        return CustomSampled(result.latent, result.denoised)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_text(known, "positive", "negative")
        return _sampled(known, "model")


class SamplerCustomAdvanced(
    Node, version=1, lane="device", comfy=ComfyName("SamplerCustomAdvanced", {"latent": "latent_image"})
):
    """Denoise a latent with noise, guidance, a sampler and noise levels of your own."""

    noise: Noise = Field(description="The noise to start from, and the seed of what the sampler adds.")
    guider: Guider = Field(description="A model and what it is told.")
    sampler: Sampler = Field(description="How to step from one noise level to the next.")
    sigmas: Sigmas = Field(description="The noise levels to go through; none leaves the latent as it is.")
    latent: Latent = Field(description="What to start from: an empty latent, or an encoded picture.")

    def run(self, ctx: Context) -> CustomSampled:
        from latentgraph.diffusion.sampling.run import sample_guided

        result = sample_guided(
            self.guider,
            self.latent,
            noise=self.noise,
            sampler=self.sampler,
            sigmas=self.sigmas,
            on_step=step_teller(ctx),
            on_notice=ctx.warn,
        )
        return CustomSampled(result.latent, result.denoised)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return _sampled(known, "guider")


class RandomNoise(Node, version=1, comfy=ComfyName("RandomNoise", {"seed": "noise_seed"})):
    """Make noise from a seed."""

    seed: int = Field(0, ge=0, le=MAX_SEED, description="Which noise: the same seed gives the same picture.")

    def run(self, ctx: Context) -> Noise:
        return Noise(self.seed)


class DisableNoise(Node, version=1, comfy=ComfyName("DisableNoise")):
    """Add no noise: for a latent that still has its noise, or that is to become noise."""

    def run(self, ctx: Context) -> Noise:
        return Noise(0, silent=True)


class AddNoise(Node, version=1, comfy=ComfyName("AddNoise", {"latent": "latent_image"})):
    """Add noise to a latent without denoising it: as much as lies between the first noise level and the last."""

    model: Model = Field(description="The network that will denoise; it says how noise enters.")
    noise: Noise = Field(description="The noise.")
    sigmas: Sigmas = Field(description="Between which levels; of a single one, up to that.")
    latent: Latent = Field(description="What to add it to.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.sampling.starting import add_noise

        return add_noise(self.model, self.latent, noise=self.noise, sigmas=self.sigmas)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return {"latent": _sampled(known, "model")["latent"]}


class BasicGuider(Node, version=1, cached=False, comfy=ComfyName("BasicGuider")):
    """Follow one prompt without guidance: for models that were distilled to need none."""

    model: Model = Field(description="The denoising network.")
    conditioning: Conditioning = Field(description="What to paint.")

    def run(self, ctx: Context) -> Guider:
        return Guider(self.model, {"positive": self.conditioning}, ClassifierFree(1.0))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return _guided(known, "conditioning")


class CFGGuider(Node, version=1, cached=False, comfy=ComfyName("CFGGuider")):
    """Follow a prompt away from a negative one, as KSampler does."""

    model: Model = Field(description="The denoising network.")
    positive: Conditioning = Field(description="What to paint.")
    negative: Conditioning = Field(description="What to avoid.")
    cfg: float = Field(
        8.0, ge=0, le=MAX_CFG, description="How strictly to follow the prompts; 1 ignores the negative one."
    )

    def run(self, ctx: Context) -> Guider:
        return Guider(self.model, {"positive": self.positive, "negative": self.negative}, ClassifierFree(self.cfg))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return _guided(known, "positive", "negative")


class DualCFGGuider(
    Node,
    version=1,
    cached=False,
    comfy=ComfyName(
        "DualCFGGuider",
        {"positive": "cond1", "second": "cond2", "cfg": "cfg_conds", "second_cfg": "cfg_cond2_negative"},
    ),
):
    """Follow two prompts, one beyond the other: the first beyond the second, and the second beyond the negative one.

    As for a picture with an instruction (InstructPix2Pix): the second has the picture alone, the first both.
    """

    model: Model = Field(description="The denoising network.")
    positive: Conditioning = Field(description="What to paint.")
    second: Conditioning = Field(description="What to paint in the first place.")
    negative: Conditioning = Field(description="What to avoid.")
    cfg: float = Field(8.0, ge=0, le=MAX_CFG, description="How far to go from the second prompt to the first.")
    second_cfg: float = Field(
        8.0, ge=0, le=MAX_CFG, description="How far to go from the negative prompt to the second."
    )
    style: Literal["regular", "nested"] = Field(
        "regular", description="Add both ways, or go the second way towards where the first one leads."
    )

    def run(self, ctx: Context) -> Guider:
        lists: Lists = {"negative": self.negative, "second": self.second, "positive": self.positive}
        rule = Dual if self.style == "regular" else Nested
        return Guider(self.model, lists, rule(self.cfg, self.second_cfg))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return _guided(known, "positive", "second", "negative")


class PerpNegGuider(Node, version=1, cached=False, comfy=ComfyName("PerpNegGuider", {"empty": "empty_conditioning"})):
    """Follow a prompt, and of the negative one avoid only what the prompt does not ask for."""

    model: Model = Field(description="The denoising network.")
    positive: Conditioning = Field(description="What to paint.")
    negative: Conditioning = Field(description="What to avoid.")
    empty: Conditioning = Field(description="The encoding of an empty text, from which both are measured.")
    cfg: float = Field(8.0, ge=0, le=MAX_CFG, description="How strictly to follow the prompts.")
    neg_scale: float = Field(1.0, ge=0, le=MAX_CFG, description="How strictly to avoid; 0 ignores the negative prompt.")

    def run(self, ctx: Context) -> Guider:
        lists: Lists = {"positive": self.positive, "negative": self.negative, "empty": self.empty}
        return Guider(self.model, lists, Perpendicular(self.cfg, self.neg_scale))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return _guided(known, "positive", "negative", "empty")


def _guided(known: Known, *texts: str) -> OutputFacts:
    check_text(known, *texts)
    return {"guider": known.facts("model")}


def _sampled(known: Known, against: str) -> OutputFacts:
    """The facts of what is sampled from input 'latent' by the model of input `against`."""
    check_latent(known, "latent", against)
    facts = sampled_facts(known, against)
    return {"latent": facts, "denoised": facts}
