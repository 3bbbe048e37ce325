"""Nodes that choose how to step from one noise level to the next: by name, or with options."""

from __future__ import annotations

from pydantic import Field

from latentgraph.diffusion.model import Model
from latentgraph.diffusion.names import ErSolver, SamplerName, SdeRule, SeedsSolver
from latentgraph.diffusion.types import Sampler
from latentgraph.graph import ComfyName, Context, Node

ETA = "How much noise to add at each step; 0 adds none."
S_NOISE = "The strength of the noise that is added; 1 is what theory asks for."
MOST = 100


class KSamplerSelect(Node, version=1, comfy=ComfyName("KSamplerSelect", {"sampler": "sampler_name"})):
    """Choose a sampler by name, as KSampler has it."""

    sampler: SamplerName = Field("euler", description="The name.")

    def run(self, ctx: Context) -> Sampler:
        return Sampler(self.sampler)


class SamplerEulerAncestral(Node, version=1, comfy=ComfyName("SamplerEulerAncestral")):
    """Euler's method with fresh noise at each step."""

    eta: float = Field(1.0, ge=0, le=MOST, description=ETA)
    s_noise: float = Field(1.0, ge=0, le=MOST, description=S_NOISE)

    def run(self, ctx: Context) -> Sampler:
        return Sampler("euler_ancestral", (("eta", self.eta), ("s_noise", self.s_noise)))


class SamplerEulerAncestralCFGPP(Node, version=1, comfy=ComfyName("SamplerEulerAncestralCFGPP")):
    """Euler's method with fresh noise at each step, for CFG++: use a guidance of about 1."""

    eta: float = Field(1.0, ge=0, le=1, description=ETA)
    s_noise: float = Field(1.0, ge=0, le=MOST, description=S_NOISE)

    def run(self, ctx: Context) -> Sampler:
        return Sampler("euler_ancestral_cfg_pp", (("eta", self.eta), ("s_noise", self.s_noise)))


class SamplerDPMPP2SAncestral(Node, version=1, comfy=ComfyName("SamplerDPMPP_2S_Ancestral")):
    """DPM-Solver++(2S) with fresh noise at each step; two passes through the network a step."""

    eta: float = Field(1.0, ge=0, le=MOST, description=ETA)
    s_noise: float = Field(1.0, ge=0, le=MOST, description=S_NOISE)

    def run(self, ctx: Context) -> Sampler:
        return Sampler("dpmpp_2s_ancestral", (("eta", self.eta), ("s_noise", self.s_noise)))


class SamplerDPMPPSDE(Node, version=1, comfy=ComfyName("SamplerDPMPP_SDE")):
    """DPM-Solver++ for the SDE; two passes through the network a step."""

    eta: float = Field(1.0, ge=0, le=MOST, description=ETA)
    s_noise: float = Field(1.0, ge=0, le=MOST, description=S_NOISE)
    r: float = Field(0.5, ge=0.01, le=MOST, description="Where in a step the second pass is, as a fraction.")

    def run(self, ctx: Context) -> Sampler:
        return Sampler("dpmpp_sde", (("eta", self.eta), ("s_noise", self.s_noise), ("r", self.r)))


class SamplerDPMPP2MSDE(Node, version=1, comfy=ComfyName("SamplerDPMPP_2M_SDE", {"solver": "solver_type"})):
    """DPM-Solver++(2M) for the SDE; one pass through the network a step."""

    solver: SdeRule = Field("midpoint", description="The rule by which the last two estimates are joined.")
    eta: float = Field(1.0, ge=0, le=MOST, description=ETA)
    s_noise: float = Field(1.0, ge=0, le=MOST, description=S_NOISE)

    def run(self, ctx: Context) -> Sampler:
        return Sampler("dpmpp_2m_sde", (("solver", self.solver), ("eta", self.eta), ("s_noise", self.s_noise)))


class SamplerDPMPP3MSDE(Node, version=1, comfy=ComfyName("SamplerDPMPP_3M_SDE")):
    """DPM-Solver++(3M) for the SDE; one pass through the network a step."""

    eta: float = Field(1.0, ge=0, le=MOST, description=ETA)
    s_noise: float = Field(1.0, ge=0, le=MOST, description=S_NOISE)

    def run(self, ctx: Context) -> Sampler:
        return Sampler("dpmpp_3m_sde", (("eta", self.eta), ("s_noise", self.s_noise)))


class SamplerLMS(Node, version=1, comfy=ComfyName("SamplerLMS")):
    """A linear multistep method; one pass through the network a step."""

    order: int = Field(4, ge=1, le=MOST, description="How many of the last slopes count.")

    def run(self, ctx: Context) -> Sampler:
        return Sampler("lms", (("order", self.order),))


class SamplerDPMAdaptive(Node, version=1, comfy=ComfyName("SamplerDPMAdaptative")):
    """DPM-Solver with steps of its own, as long as a tolerance allows; the noise levels only say where to start and end."""

    order: int = Field(3, ge=2, le=3, description="Of the solver; also its passes through the network a step.")
    rtol: float = Field(0.05, ge=0.0001, le=MOST, description="The error that a step may make, relative to the latent.")
    atol: float = Field(0.0078, ge=0.000001, le=MOST, description="The error that a step may make in any case.")
    h_init: float = Field(
        0.05, ge=0.000001, le=MOST, description="The length of the first step, in the logarithm of sigma."
    )
    pcoeff: float = Field(0.0, ge=0, le=MOST, description="How the last error sets the length of a step.")
    icoeff: float = Field(1.0, ge=0, le=MOST, description="How all errors together set the length of a step.")
    dcoeff: float = Field(0.0, ge=0, le=MOST, description="How the change of the error sets the length of a step.")
    accept_safety: float = Field(
        0.81, ge=0, le=MOST, description="A step that should have been shorter than by this factor is done again."
    )
    eta: float = Field(0.0, ge=0, le=MOST, description=ETA)
    s_noise: float = Field(1.0, ge=0, le=MOST, description=S_NOISE)

    def run(self, ctx: Context) -> Sampler:
        return Sampler("dpm_adaptive", tuple((name, getattr(self, name)) for name in type(self).spec.inputs))


class SamplerERSDE(Node, version=1, comfy=ComfyName("SamplerER_SDE", {"solver": "solver_type"})):
    """A solver of the extended reverse-time SDE; one pass through the network a step."""

    solver: ErSolver = Field("ER-SDE", description="Which equation: its own, the usual one, or the ODE without noise.")
    max_stage: int = Field(3, ge=1, le=3, description="The order; how many of the last estimates count.")
    eta: float = Field(1.0, ge=0, le=MOST, description="How much noise the reverse-time SDE adds; 0 adds none.")
    s_noise: float = Field(1.0, ge=0, le=MOST, description=S_NOISE)

    def run(self, ctx: Context) -> Sampler:
        options = (("solver", self.solver), ("max_stage", self.max_stage), ("eta", self.eta), ("s_noise", self.s_noise))
        return Sampler("er_sde", options)


class SamplerSEEDS2(Node, version=1, comfy=ComfyName("SamplerSEEDS2", {"solver": "solver_type"})):
    """SEEDS of order 2 for the SDE; two passes through the network a step."""

    solver: SeedsSolver = Field(
        "phi_1", description="Mix the two estimates, or integrate the line through them exactly."
    )
    eta: float = Field(1.0, ge=0, le=MOST, description=ETA)
    s_noise: float = Field(1.0, ge=0, le=MOST, description=S_NOISE)
    r: float = Field(0.5, ge=0.01, le=1, description="Where in a step the second pass is, as a fraction.")

    def run(self, ctx: Context) -> Sampler:
        options = (("solver", self.solver), ("eta", self.eta), ("s_noise", self.s_noise), ("r", self.r))
        return Sampler("seeds_2", options)


class SamplerSASolver(
    Node, version=1, comfy=ComfyName("SamplerSASolver", {"start": "sde_start_percent", "end": "sde_end_percent"})
):
    """A stochastic Adams method with a predictor and a corrector; it adds noise in a part of the run alone."""

    model: Model = Field(
        description="The network that will denoise; its noise levels say where the part begins and ends."
    )
    eta: float = Field(1.0, ge=0, le=10, description="How much noise to add in that part; 0 adds none.")
    start: float = Field(0.2, ge=0, le=1, description="Where the part begins, as a fraction of the run.")
    end: float = Field(0.8, ge=0, le=1, description="Where the part ends, as a fraction of the run.")
    s_noise: float = Field(1.0, ge=0, le=MOST, description=S_NOISE)
    predictor_order: int = Field(3, ge=1, le=6, description="How many of the last estimates the predictor uses.")
    corrector_order: int = Field(4, ge=0, le=6, description="How many the corrector uses; 0 is no corrector.")
    use_pece: bool = Field(False, description="Ask the network again after the corrector: two passes a step.")
    simple_order_2: bool = Field(False, description="Use simpler weights where the order is 2.")

    def run(self, ctx: Context) -> Sampler:
        from latentgraph.diffusion.sampling.spaces import sampling_space

        space = sampling_space(self.model)
        window = (space.percent_to_sigma(self.start), space.percent_to_sigma(self.end))
        options = (
            *(("eta", self.eta), ("window", window), ("s_noise", self.s_noise)),
            *(("predictor_order", self.predictor_order), ("corrector_order", self.corrector_order)),
            *(("pece", self.use_pece), ("simple_order_2", self.simple_order_2)),
        )
        return Sampler("sa_solver", options)
