"""Nodes that take a model and give it on with another guidance of every run.

What they ask for is done in the order of the nodes. Some cost a pass through the network more a step.
"""

from __future__ import annotations

import re
from dataclasses import replace

from pydantic import Field

from latentgraph.diffusion.families.dit_specs import Flux2Spec, FluxSpec, MMDiTSpec
from latentgraph.diffusion.families.specs import UNETS, DenoiserSpec, network_words
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.sampling.options import Correction, NormLimit, ProjectedGuidance, ZeroStar
from latentgraph.diffusion.sampling.options import PerpNeg as PerpNegSetting
from latentgraph.diffusion.sampling.options import PerturbedAttentionGuidance as PerturbedAttentionSetting
from latentgraph.diffusion.sampling.options import SelfAttentionGuidance as SelfAttentionSetting
from latentgraph.diffusion.sampling.options import SkipLayerGuidance as SkipLayerSetting
from latentgraph.diffusion.types import Conditioning
from latentgraph.graph import ComfyName, Context, Known, Node, OutputFacts

from .carried import check_text
from .facts import SameFacts, UNetAlone
from .ranges import check_part

MODEL = "The denoising network."
MAX_SCALE = 100
_LIST_OF_NUMBERS = r"^[\d\s,]*$"


class RescaleCFG(SameFacts, Node, version=1, cached=False, comfy=ComfyName("RescaleCFG")):
    """Keep strong guidance from over-exposing pictures, of v networks above all."""

    model: Model = Field(description=MODEL)
    multiplier: float = Field(
        0.7, ge=0, le=1, description="How far to keep the contrast that there is without guidance."
    )

    def run(self, ctx: Context) -> Model:
        return replace(self.model, options=replace(self.model.options, rescale=self.multiplier))


class SelfAttentionGuidance(UNetAlone, Node, version=1, cached=False, comfy=ComfyName("SelfAttentionGuidance")):
    """Steer away from a picture in which whatever the network looks at is blurred; it costs a pass more a step."""

    model: Model = Field(description=MODEL)
    scale: float = Field(0.5, ge=-2, le=5, description="How far to steer away.")
    blur_sigma: float = Field(2.0, ge=0, le=10, description="How much to blur, in latent cells.")

    def run(self, ctx: Context) -> Model:
        return _corrected(self.model, SelfAttentionSetting(self.scale, self.blur_sigma))


class PerturbedAttentionGuidance(
    UNetAlone, Node, version=1, cached=False, comfy=ComfyName("PerturbedAttentionGuidance")
):
    """Steer away from a picture in whose middle nothing looks at anything else (PAG); it costs a pass more a step."""

    model: Model = Field(description=MODEL)
    scale: float = Field(3.0, ge=0, le=MAX_SCALE, description="How far to steer away.")

    def run(self, ctx: Context) -> Model:
        return _corrected(self.model, PerturbedAttentionSetting(self.scale))


class _TransformerAlone(SameFacts):
    """What is known of the model stays true, if it is a transformer."""

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        spec = known.fact("model", "spec")
        if spec is not None and spec.network.kind in UNETS:
            found = network_words(spec.network.kind)
            use = ": use PerturbedAttentionGuidance" if spec.network.kind == "unet" else ""
            words = f"is of the {spec.family} family, whose network is {found}; blocks of a transformer alone can be left out"
            known.problem("model", words + use)
        check_part(known, "nothing would ever be left out")
        if spec is not None:
            for name, blocks in _blocks(spec.network).items():
                _check_numbers(known, name, blocks)
        return super().infer(known)


def _blocks(network: DenoiserSpec) -> dict[str, int]:
    """Returns how many blocks a transformer has, by the input that numbers them."""
    if isinstance(network, MMDiTSpec):
        return {"layers": network.depth, "double": network.depth}
    if isinstance(network, FluxSpec | Flux2Spec):
        return {"layers": network.double_blocks, "double": network.double_blocks, "single": network.single_blocks}
    return {}


def _check_numbers(known: Known, name: str, blocks: int) -> None:
    """Reports a block that a network does not have."""
    text = known.value(name)
    beyond = [number for number in _numbers(text or "") if number >= blocks]
    if beyond:
        known.problem(
            name, f"names block {beyond[0]}, but input 'model' has {blocks} of that kind, from 0 to {blocks - 1}"
        )


class SkipLayerGuidanceSD3(
    _TransformerAlone,
    Node,
    version=1,
    cached=False,
    comfy=ComfyName("SkipLayerGuidanceSD3", {"start": "start_percent", "end": "end_percent"}),
):
    """Steer away from a picture made without some of the transformer's blocks, as is published with Stable Diffusion 3.5."""

    model: Model = Field(description=MODEL)
    layers: str = Field("7, 8, 9", pattern=_LIST_OF_NUMBERS, description="Which blocks are left out, from 0.")
    scale: float = Field(3.0, ge=0, le=10, description="How far to steer away.")
    start: float = Field(0.01, ge=0, le=1, description="From which fraction of a run on; 0 is its noisiest end.")
    end: float = Field(0.15, ge=0, le=1, description="Up to which fraction of a run.")

    def run(self, ctx: Context) -> Model:
        return _skipping(self.model, SkipLayerSetting(_numbers(self.layers), (), self.scale, self.start, self.end))


class SkipLayerGuidanceDiT(
    _TransformerAlone,
    Node,
    version=1,
    cached=False,
    comfy=ComfyName(
        "SkipLayerGuidanceDiT",
        {
            "double": "double_layers",
            "single": "single_layers",
            "start": "start_percent",
            "end": "end_percent",
            "rescaling": "rescaling_scale",
        },
    ),
):
    """Steer away from a picture made without some of the blocks of any transformer.

    Text and picture have streams of their own in double blocks, and one for both in single blocks.
    """

    model: Model = Field(description=MODEL)
    double: str = Field(
        "7, 8, 9", pattern=_LIST_OF_NUMBERS, description="Which blocks with two streams are left out, from 0."
    )
    single: str = Field(
        "7, 8, 9", pattern=_LIST_OF_NUMBERS, description="Which blocks with one stream are left out, from 0."
    )
    scale: float = Field(3.0, ge=0, le=10, description="How far to steer away.")
    start: float = Field(0.01, ge=0, le=1, description="From which fraction of a run on; 0 is its noisiest end.")
    end: float = Field(0.15, ge=0, le=1, description="Up to which fraction of a run.")
    rescaling: float = Field(0.0, ge=0, le=10, description="How far to keep the contrast that there is without it.")

    def run(self, ctx: Context) -> Model:
        double, single = _numbers(self.double), _numbers(self.single)
        return _skipping(self.model, SkipLayerSetting(double, single, self.scale, self.start, self.end, self.rescaling))


class CFGZeroStar(SameFacts, Node, version=1, cached=False, comfy=ComfyName("CFGZeroStar")):
    """Scale what is avoided to fit what is wanted, so that early steps of flow models do not overshoot (CFG-Zero*)."""

    model: Model = Field(description=MODEL)

    def run(self, ctx: Context) -> Model:
        return _corrected(self.model, ZeroStar())


class CFGNorm(SameFacts, Node, version=1, cached=False, comfy=ComfyName("CFGNorm")):
    """Let guidance make nothing stronger than it is without, as Qwen-Image wants it."""

    model: Model = Field(description=MODEL)
    strength: float = Field(1.0, ge=0, le=MAX_SCALE, description="What the result is multiplied by.")

    def run(self, ctx: Context) -> Model:
        return _corrected(self.model, NormLimit(self.strength))


class APG(SameFacts, Node, version=1, cached=False, comfy=ComfyName("APG")):
    """Guide strongly without over-saturating (adaptive projected guidance): what makes pictures only stronger is weighed apart.

    As in ComfyUI, it goes `cfg` times as far beyond what the prompt gives alone, where plain guidance goes cfg - 1 times; a
    cfg of 1 stays without guidance.
    """

    model: Model = Field(description=MODEL)
    eta: float = Field(
        1.0, ge=-10, le=10, description="How much of guidance along the picture itself is kept; the paper takes 0."
    )
    norm_threshold: float = Field(
        5.0, ge=0, le=50, description="How long guidance may be, over a whole latent; 0 is no limit."
    )
    momentum: float = Field(
        0.0,
        ge=-5,
        le=1,
        description="How much of earlier steps' guidance is added; the paper takes negative ones, such as -0.5.",
    )

    def run(self, ctx: Context) -> Model:
        return _corrected(self.model, ProjectedGuidance(self.eta, self.norm_threshold, self.momentum))


class PerpNeg(Node, version=1, cached=False, comfy=ComfyName("PerpNeg", {"empty": "empty_conditioning"})):
    """Make plain guidance avoid only what the prompt does not ask for, as PerpNegGuider does."""

    model: Model = Field(description=MODEL)
    empty: Conditioning = Field(description="The encoding of an empty text, from which both prompts are measured.")
    neg_scale: float = Field(
        1.0, ge=0, le=MAX_SCALE, description="How strictly to avoid; 0 ignores the negative prompt."
    )

    def run(self, ctx: Context) -> Model:
        options = replace(self.model.options, perp_neg=PerpNegSetting(self.empty, self.neg_scale))
        return replace(self.model, options=options)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_text(known, "empty")
        return {"model": known.facts("model")}


def _corrected(model: Model, correction: Correction) -> Model:
    return replace(model, options=replace(model.options, corrections=(*model.options.corrections, correction)))


def _skipping(model: Model, setting: SkipLayerSetting) -> Model:
    return _corrected(model, setting) if setting.double or setting.single else model


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))
