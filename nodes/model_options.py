"""Nodes that take a model and give it on with something to ask of every run: other levels, or a UNet that works otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from latentgraph.diffusion.families.specs import UNetSpec
from latentgraph.diffusion.levels.space_spec import (
    ContinuousLevels,
    DiscreteLevels,
    FlowLevels,
    FluxLevels,
    SpaceSpec,
    flux_shift,
)
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.pictures.sizes import CELL, MAX_SIDE
from latentgraph.diffusion.sampling.options import Downscale, NetworkChange, TokenMerging
from latentgraph.diffusion.sampling.options import FreeU as FreeUSetting
from latentgraph.graph import ComfyName, Context, Known, Node, OutputFacts

from .facts import SameFacts, UNetAlone
from .ranges import check_levels_fall, check_part

MODEL = "The denoising network."
SHIFT = "How far the levels are shifted towards noise; larger pictures want more."
LCM_STRIDE = 20  # 50 of 1000 levels, which latent consistency models were distilled for
EDM_DATA = 0.5  # std of the data that networks of the "edm" kind were trained for, Karras et al. 2022, arXiv:2206.00364


Resizing = Literal["bicubic", "nearest-exact", "bilinear", "area", "bislerp"]
_DOWNSCALE = {
    "block": "block_number",
    "factor": "downscale_factor",
    "start": "start_percent",
    "end": "end_percent",
    "after_skip": "downscale_after_skip",
    "shrink": "downscale_method",
    "grow": "upscale_method",
}


class _NoFlow(SameFacts):
    """What is known of the model stays true, if it was trained on other noise levels than those of rectified flow."""

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        spec = known.fact("model", "spec")
        if spec is not None and spec.prediction == "flow":
            known.problem(
                "model",
                f"is of the {spec.family} family, which was trained on rectified flow; to shift its levels, use "
                "ModelSamplingFlux or ModelSamplingSD3",
            )
        return super().infer(known)


class _BetweenEnds(_NoFlow):
    """The same, and the lowest level may not be above the highest."""

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_levels_fall(known)
        return super().infer(known)


class ModelSamplingDiscrete(_NoFlow, Node, version=1, cached=False, comfy=ComfyName("ModelSamplingDiscrete")):
    """Say what a network of the Stable Diffusion kind predicts, where its file does not tell."""

    model: Model = Field(description=MODEL)
    sampling: Literal["eps", "v_prediction", "lcm", "x0", "img_to_img"] = Field(
        "eps", description="What it predicts; lcm for a network with a latent consistency LoRA."
    )
    zsnr: bool = Field(False, description="Whether its noise levels end in pure noise (zero terminal SNR).")

    def run(self, ctx: Context) -> Model:
        stride = LCM_STRIDE if self.sampling == "lcm" else 1
        return _in_space(self.model, SpaceSpec(self.sampling, DiscreteLevels(self.zsnr, stride)))


class ModelSamplingContinuousEDM(
    _BetweenEnds, Node, version=1, cached=False, comfy=ComfyName("ModelSamplingContinuousEDM")
):
    """Say what a network predicts that was trained at every noise level between two ends."""

    model: Model = Field(description=MODEL)
    sampling: Literal["v_prediction", "edm", "eps"] = Field("v_prediction", description="What it predicts.")
    sigma_max: float = Field(120.0, ge=0.001, le=1000, description="The highest noise level.")
    sigma_min: float = Field(0.002, ge=0.001, le=1000, description="The lowest noise level.")

    def run(self, ctx: Context) -> Model:
        data = EDM_DATA if self.sampling == "edm" else 1.0
        return _in_space(self.model, SpaceSpec(self.sampling, ContinuousLevels(self.sigma_min, self.sigma_max), data))


class ModelSamplingContinuousV(
    _BetweenEnds, Node, version=1, cached=False, comfy=ComfyName("ModelSamplingContinuousV")
):
    """Say what a network predicts that is told a noise level as an angle."""

    model: Model = Field(description=MODEL)
    sampling: Literal["v_prediction"] = Field("v_prediction", description="What it predicts.")
    sigma_max: float = Field(500.0, ge=0.001, le=1000, description="The highest noise level.")
    sigma_min: float = Field(0.03, ge=0.001, le=1000, description="The lowest noise level.")

    def run(self, ctx: Context) -> Model:
        levels = ContinuousLevels(self.sigma_min, self.sigma_max, time="arctan")
        return _in_space(self.model, SpaceSpec(self.sampling, levels))


class ModelSamplingSD3(SameFacts, Node, version=1, cached=False, comfy=ComfyName("ModelSamplingSD3")):
    """Shift the noise levels of a rectified-flow model of the Stable Diffusion 3 kind."""

    model: Model = Field(description=MODEL)
    shift: float = Field(3.0, ge=0.01, le=100, description=SHIFT)

    def run(self, ctx: Context) -> Model:
        return _in_space(self.model, SpaceSpec("flow", FlowLevels(self.shift)))


class ModelSamplingAuraFlow(SameFacts, Node, version=1, cached=False, comfy=ComfyName("ModelSamplingAuraFlow")):
    """Shift the noise levels of a rectified-flow model that is told them from 0 to 1, like AuraFlow or FLUX schnell."""

    model: Model = Field(description=MODEL)
    shift: float = Field(1.73, ge=0.01, le=100, description=SHIFT)

    def run(self, ctx: Context) -> Model:
        return _in_space(self.model, SpaceSpec("flow", FlowLevels(self.shift, multiplier=1.0)))


class ModelSamplingFlux(SameFacts, Node, version=1, cached=False, comfy=ComfyName("ModelSamplingFlux")):
    """Shift the noise levels of FLUX as its makers do, by the size of the picture."""

    model: Model = Field(description=MODEL)
    max_shift: float = Field(1.15, ge=0, le=100, description="The shift for a picture of 1024x1024 pixels.")
    base_shift: float = Field(0.5, ge=0, le=100, description="The shift for a picture of 256x256 pixels.")
    width: int = Field(1024, ge=16, le=MAX_SIDE, multiple_of=CELL, description="Width of the picture in pixels.")
    height: int = Field(1024, ge=16, le=MAX_SIDE, multiple_of=CELL, description="Height of the picture in pixels.")

    def run(self, ctx: Context) -> Model:
        shift = flux_shift(width=self.width, height=self.height, base_shift=self.base_shift, max_shift=self.max_shift)
        return _in_space(self.model, SpaceSpec("flow", FluxLevels(shift)))


class FreeU(UNetAlone, Node, version=1, cached=False, comfy=ComfyName("FreeU")):
    """Strengthen a UNet's main path against its shortcuts: cleaner pictures for nothing. For SD2: 1.1, 1.2, 0.9, 0.2."""

    model: Model = Field(description=MODEL)
    b1: float = Field(1.1, ge=0, le=10, description="Strength of the main path in the innermost blocks.")
    b2: float = Field(1.2, ge=0, le=10, description="Strength of the main path in the blocks further out.")
    s1: float = Field(
        0.9, ge=0, le=10, description="What is left of the shortcut's broad forms in the innermost blocks."
    )
    s2: float = Field(0.2, ge=0, le=10, description="What is left of them in the blocks further out.")

    def run(self, ctx: Context) -> Model:
        return _free_u(ctx, self.model, FreeUSetting(self.b1, self.b2, self.s1, self.s2))


class FreeUAdaptive(UNetAlone, Node, version=1, cached=False, comfy=ComfyName("FreeU_V2")):
    """FreeU in its makers' later version: it strengthens the main path where that is strong already."""

    model: Model = Field(description=MODEL)
    b1: float = Field(1.3, ge=0, le=10, description="Strength of the main path in the innermost blocks.")
    b2: float = Field(1.4, ge=0, le=10, description="Strength of the main path in the blocks further out.")
    s1: float = Field(
        0.9, ge=0, le=10, description="What is left of the shortcut's broad forms in the innermost blocks."
    )
    s2: float = Field(0.2, ge=0, le=10, description="What is left of them in the blocks further out.")

    def run(self, ctx: Context) -> Model:
        return _free_u(ctx, self.model, FreeUSetting(self.b1, self.b2, self.s1, self.s2, adaptive=True))


class DeepShrink(UNetAlone, Node, version=1, cached=False, comfy=ComfyName("PatchModelAddDownscale", _DOWNSCALE)):
    """Compose on a smaller scale, so that pictures larger than a UNet was trained for don't repeat themselves (kohya)."""

    model: Model = Field(description=MODEL)
    block: int = Field(
        3, ge=1, le=32, description="Behind which of the blocks on the way down its features are shrunk."
    )
    factor: float = Field(2.0, ge=0.1, le=9, description="By how much they are shrunk.")
    start: float = Field(0.0, ge=0, le=1, description="From which fraction of a run on; 0 is its noisiest end.")
    end: float = Field(0.35, ge=0, le=1, description="Up to which fraction of a run.")
    after_skip: bool = Field(True, description="Leave the block's shortcut in its full size.")
    shrink: Resizing = Field("bicubic", description="How they are shrunk.")
    grow: Resizing = Field("bicubic", description="How they are enlarged again.")

    def run(self, ctx: Context) -> Model:
        setting = Downscale(
            self.block, self.factor, self.start, self.end, self.after_skip, shrink=self.shrink, grow=self.grow
        )
        return _changed(self.model, setting)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_part(known, "nothing would ever be shrunk")
        return super().infer(known)


class MergeTokens(UNetAlone, Node, version=1, cached=False, comfy=ComfyName("TomePatchModel")):
    """Save time on large pictures: at a UNet's full size, places that look alike are attended from as one (ToMe)."""

    model: Model = Field(description=MODEL)
    ratio: float = Field(0.3, ge=0, le=1, description="How many of all places are merged; three quarters at most.")

    def run(self, ctx: Context) -> Model:
        network = self.model.spec.network
        if isinstance(network, UNetSpec) and not any((*network.depths_in[0], *network.depths_out[-1])):
            ctx.warn("this UNet attends to nothing at full size, so no places are merged")
        return _changed(self.model, TokenMerging(self.ratio))


class StepCache(SameFacts, Node, version=1, cached=False):
    """Save time by taking most of a step from an earlier one, wherever the picture keeps a quality.

    A UNet then computes its outermost layers alone (DeepCache), a transformer its first block. What that costs in quality is
    measured on the way, and a step that would miss the floor is computed in full. A result is not to the bit that of a run
    without it.
    """

    model: Model = Field(description=MODEL)
    quality: float = Field(
        30.0,
        ge=15,
        le=60,
        description="The PSNR in dB that a picture keeps against the run without it: 25 is fast, 40 hardly to be told apart.",
    )

    def run(self, ctx: Context) -> Model:
        return _with(self.model, quality=self.quality)


class CompileModel(SameFacts, Node, version=1, cached=False, comfy=ComfyName("TorchCompileModel")):
    """Let torch compile the network, for long work on a GPU: the first steps take minutes, all later ones less time.

    What was compiled is used again for as long as the process lives, and compiled anew for other sizes of pictures. With
    `--precision exact` nothing is compiled.
    """

    model: Model = Field(description=MODEL)

    def run(self, ctx: Context) -> Model:
        from latentgraph.diffusion.networks.compiling import find_compiler

        policy = self.model.weights.policy
        if policy.precision != "exact":
            find_compiler(policy.device)
        return _with(self.model, compiled=True)


class DifferentialDiffusion(SameFacts, Node, version=1, cached=False, comfy=ComfyName("DifferentialDiffusion")):
    """Let a soft mask say how early each part of a picture begins to change, instead of how strongly it is blended."""

    model: Model = Field(description=MODEL)
    strength: float = Field(1.0, ge=0, le=1, description="How strictly; less blends softly as well.")

    def run(self, ctx: Context) -> Model:
        return _with(self.model, gradual_mask=self.strength)


def _free_u(ctx: Context, model: Model, setting: FreeUSetting) -> Model:
    network = model.spec.network
    if isinstance(network, UNetSpec) and not {2 * network.widths[0], 4 * network.widths[0]} & {*network.widths}:
        ctx.warn(
            f"this UNet has no blocks 2 or 4 times as wide as its first, {network.widths[0]}, so FreeU changes nothing"
        )
    return _changed(model, setting)


def _with(model: Model, **changes: Any) -> Model:
    return replace(model, options=replace(model.options, **changes))


def _in_space(model: Model, space: SpaceSpec) -> Model:
    return _with(model, space=space)


def _changed(model: Model, setting: NetworkChange) -> Model:
    return _with(model, changes=(*model.options.changes, setting))
