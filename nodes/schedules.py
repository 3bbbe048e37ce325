"""Nodes that choose the noise levels of a run."""

from __future__ import annotations

from pydantic import Field

from latentgraph.diffusion.levels.limits import written_levels
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.names import AlignedModel, ScheduleName
from latentgraph.diffusion.pictures.sizes import MAX_SIDE
from latentgraph.diffusion.types import Sigmas
from latentgraph.graph import ComfyName, Context, Known, Node, OutputFacts

from .ranges import check_denoise, check_levels_fall
from .sampling import MAX_STEPS

STEPS = "How many noise levels to go through; more are slower."
DENOISE = "How much to change: 1 paints anew; less takes the last steps of a schedule."
MAX_SIGMA = 5000
SIGMA_MAX, SIGMA_MIN = 14.614642, 0.0291675  # of Stable Diffusion 1, 2 and XL


class _BetweenEnds:
    """The lowest level may not be above the highest."""

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_levels_fall(known)
        return {}


class BasicScheduler(Node, version=1, comfy=ComfyName("BasicScheduler")):
    """Space a model's noise levels as KSampler does."""

    model: Model = Field(description="The network that will denoise.")
    scheduler: ScheduleName = Field("normal", description="How the noise levels are spaced.")
    steps: int = Field(20, ge=1, le=MAX_STEPS, description=STEPS)
    denoise: float = Field(1.0, ge=0, le=1, description=DENOISE)

    def run(self, ctx: Context) -> Sigmas:
        from latentgraph.diffusion.levels.schedules import denoise_sigmas
        from latentgraph.diffusion.sampling.spaces import sampling_space

        return Sigmas(denoise_sigmas(sampling_space(self.model), self.scheduler, self.steps, denoise=self.denoise))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_denoise(known)
        return {}


class BetaSamplingScheduler(Node, version=1, comfy=ComfyName("BetaSamplingScheduler")):
    """Space a model's noise levels by a Beta distribution: small parameters are dense at both ends."""

    model: Model = Field(description="The network that will denoise.")
    steps: int = Field(20, ge=1, le=MAX_STEPS, description=STEPS)
    alpha: float = Field(
        0.6, ge=0.01, le=50, description="The distribution's first parameter: smaller is denser below."
    )
    beta: float = Field(
        0.6, ge=0.01, le=50, description="The distribution's second parameter: smaller is denser above."
    )

    def run(self, ctx: Context) -> Sigmas:
        from latentgraph.diffusion.levels.schedules import beta_levels
        from latentgraph.diffusion.sampling.spaces import sampling_space

        return Sigmas(beta_levels(sampling_space(self.model), self.steps, alpha=self.alpha, beta=self.beta))


class SDTurboScheduler(Node, version=1, comfy=ComfyName("SDTurboScheduler")):
    """The noise levels of a turbo model, which was distilled for one step or a few."""

    model: Model = Field(description="The network that will denoise.")
    steps: int = Field(1, ge=1, le=10, description=STEPS)
    denoise: float = Field(1.0, ge=0, le=1, description=DENOISE)

    def run(self, ctx: Context) -> Sigmas:
        from latentgraph.diffusion.levels.chosen import turbo_levels
        from latentgraph.diffusion.sampling.spaces import sampling_space

        return Sigmas(turbo_levels(sampling_space(self.model), self.steps, denoise=self.denoise))


class Flux2Scheduler(Node, version=1, comfy=ComfyName("Flux2Scheduler")):
    """The noise levels that FLUX.2 was made for: shifted towards noise by the size of the picture and the number of steps."""

    steps: int = Field(20, ge=1, le=4096, description=STEPS)
    width: int = Field(1024, ge=16, le=MAX_SIDE, description="Width of the picture in pixels.")
    height: int = Field(1024, ge=16, le=MAX_SIDE, description="Height of the picture in pixels.")

    def run(self, ctx: Context) -> Sigmas:
        from latentgraph.diffusion.levels.chosen import flux2_levels

        return Sigmas(flux2_levels(self.steps, width=self.width, height=self.height))


class AlignYourStepsScheduler(Node, version=1, comfy=ComfyName("AlignYourStepsScheduler", {"model": "model_type"})):
    """Noise levels that were found best for a model in few steps, about ten."""

    model: AlignedModel = Field("SD1", description="Which model they were found for; SD1's also suit SD2.")
    steps: int = Field(10, ge=1, le=MAX_STEPS, description=STEPS)
    denoise: float = Field(1.0, ge=0, le=1, description=DENOISE)

    def run(self, ctx: Context) -> Sigmas:
        from latentgraph.diffusion.levels.chosen import aligned_levels

        return Sigmas(aligned_levels(self.model, self.steps, denoise=self.denoise))


class KarrasScheduler(_BetweenEnds, Node, version=1, comfy=ComfyName("KarrasScheduler")):
    """Noise levels between two ends, dense at the low one."""

    steps: int = Field(20, ge=1, le=MAX_STEPS, description=STEPS)
    sigma_max: float = Field(SIGMA_MAX, ge=0, le=MAX_SIGMA, description="The level to start from.")
    sigma_min: float = Field(SIGMA_MIN, ge=0, le=MAX_SIGMA, description="The last level above 0.")
    rho: float = Field(7.0, ge=0.01, le=100, description="How dense the low end is.")

    def run(self, ctx: Context) -> Sigmas:
        from latentgraph.diffusion.levels.chosen import karras_levels

        levels = karras_levels(self.steps, sigma_max=self.sigma_max, sigma_min=self.sigma_min, rho=self.rho)
        return Sigmas(levels)


class ExponentialScheduler(_BetweenEnds, Node, version=1, comfy=ComfyName("ExponentialScheduler")):
    """Noise levels between two ends, each the same fraction of the one before."""

    steps: int = Field(20, ge=1, le=MAX_STEPS, description=STEPS)
    sigma_max: float = Field(SIGMA_MAX, ge=0.000001, le=MAX_SIGMA, description="The level to start from.")
    sigma_min: float = Field(SIGMA_MIN, ge=0.000001, le=MAX_SIGMA, description="The last level above 0.")

    def run(self, ctx: Context) -> Sigmas:
        from latentgraph.diffusion.levels.chosen import exponential_levels

        return Sigmas(exponential_levels(self.steps, sigma_max=self.sigma_max, sigma_min=self.sigma_min))


class PolyexponentialScheduler(_BetweenEnds, Node, version=1, comfy=ComfyName("PolyexponentialScheduler")):
    """Noise levels between two ends, as exponential ones but denser at the low end the larger rho is."""

    steps: int = Field(20, ge=1, le=MAX_STEPS, description=STEPS)
    sigma_max: float = Field(SIGMA_MAX, ge=0.000001, le=MAX_SIGMA, description="The level to start from.")
    sigma_min: float = Field(SIGMA_MIN, ge=0.000001, le=MAX_SIGMA, description="The last level above 0.")
    rho: float = Field(1.0, ge=0.01, le=100, description="How dense the low end is; 1 is exponential.")

    def run(self, ctx: Context) -> Sigmas:
        from latentgraph.diffusion.levels.chosen import polyexponential_levels

        levels = polyexponential_levels(self.steps, sigma_max=self.sigma_max, sigma_min=self.sigma_min, rho=self.rho)
        return Sigmas(levels)


class LaplaceScheduler(_BetweenEnds, Node, version=1, comfy=ComfyName("LaplaceScheduler")):
    """Noise levels around one that matters most, thinning out to both sides. It does not end in 0."""

    steps: int = Field(20, ge=1, le=MAX_STEPS, description="How many noise levels there are.")
    sigma_max: float = Field(SIGMA_MAX, ge=0, le=MAX_SIGMA, description="The highest level.")
    sigma_min: float = Field(SIGMA_MIN, ge=0, le=MAX_SIGMA, description="The lowest level.")
    mu: float = Field(0.0, ge=-10, le=10, description="The logarithm of the level that matters most.")
    beta: float = Field(0.5, ge=0, le=10, description="How far the levels spread around it.")

    def run(self, ctx: Context) -> Sigmas:
        from latentgraph.diffusion.levels.chosen import laplace_levels

        levels = laplace_levels(
            self.steps, sigma_max=self.sigma_max, sigma_min=self.sigma_min, mu=self.mu, beta=self.beta
        )
        return Sigmas(levels)


class VPScheduler(Node, version=1, comfy=ComfyName("VPScheduler")):
    """Noise levels at even times of the variance-preserving SDE."""

    steps: int = Field(20, ge=1, le=MAX_STEPS, description=STEPS)
    beta_d: float = Field(19.9, ge=0, le=MAX_SIGMA, description="How much faster noise grows at the end than at first.")
    beta_min: float = Field(0.1, ge=0, le=MAX_SIGMA, description="How fast noise grows at first.")
    eps_s: float = Field(0.001, ge=0, le=1, description="The time of the last level above 0.")

    def run(self, ctx: Context) -> Sigmas:
        from latentgraph.diffusion.levels.chosen import vp_levels

        return Sigmas(vp_levels(self.steps, beta_d=self.beta_d, beta_min=self.beta_min, eps_s=self.eps_s))


class ManualSigmas(Node, version=1, comfy=ComfyName("ManualSigmas")):
    """Noise levels that you write down yourself."""

    sigmas: str = Field("1, 0.5, 0", description="The levels, decreasing, with anything between them.")

    def run(self, ctx: Context) -> Sigmas:
        from latentgraph.diffusion.levels.edits import parse_levels

        return Sigmas(parse_levels(self.sigmas))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        text = known.value("sigmas")
        try:
            written_levels("0" if text is None else text)
        except ValueError as wrong:
            known.problem("sigmas", f"can't be read: {wrong}")
        return {}


class SamplingPercentToSigma(
    Node,
    version=1,
    comfy=ComfyName("SamplingPercentToSigma", {"fraction": "sampling_percent", "actual": "return_actual_sigma"}),
):
    """The noise level that a model has reached after a fraction of a run."""

    model: Model = Field(description="The network that will denoise.")
    fraction: float = Field(0.0, ge=0, le=1, description="The fraction: 0 is the noisiest end.")
    actual: bool = Field(
        False, description="At both ends, give the model's own levels instead of ones beyond all that it has."
    )

    def run(self, ctx: Context) -> float:
        from latentgraph.diffusion.sampling.spaces import sampling_space

        space = sampling_space(self.model)
        if self.actual and self.fraction in (0.0, 1.0):
            return space.sigma_max if self.fraction == 0.0 else space.sigma_min
        return space.percent_to_sigma(self.fraction)
