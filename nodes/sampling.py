"""The node that denoises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from latentgraph.diffusion.model import Model
from latentgraph.diffusion.names import SamplerName, ScheduleName
from latentgraph.diffusion.types import Conditioning, Latent
from latentgraph.graph import ComfyName, Context, Known, Node, OutputFacts
from latentgraph.graph.params import MAX_SEED

from .carried import check_text
from .facts import check_latent, sampled_facts
from .ranges import check_denoise

if TYPE_CHECKING:
    from torch import Tensor

    from latentgraph.diffusion.sampling.run import OnStep, StepReport

MAX_STEPS = 10000
MAX_CFG = 100


class KSampler(
    Node,
    version=1,
    lane="device",
    comfy=ComfyName(
        "KSampler",
        {"latent": "latent_image", "sampler": "sampler_name"},
        also=(
            ComfyName(
                "KSamplerAdvanced",
                {
                    "latent": "latent_image",
                    "seed": "noise_seed",
                    "sampler": "sampler_name",
                    "leftover_noise": "return_with_leftover_noise",
                },
            ),
        ),
    ),
):
    """Denoise a latent: paint what the prompts say.

    Everything random comes from `seed`. A denoise below 1 starts from the latent given, img2img. To run only a part of the
    schedule, and hand the rest to another KSampler, use the steps to start and end at: the first with `leftover_noise`, the
    second without `add_noise`.
    """

    model: Model = Field(description="The denoising network.")
    positive: Conditioning = Field(description="What to paint.")
    negative: Conditioning = Field(
        description="What to avoid; the encoding of an empty text for nothing in particular."
    )
    latent: Latent = Field(description="What to start from: an empty latent, or an encoded picture.")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Which noise: the same seed gives the same picture.")
    steps: int = Field(20, ge=1, le=MAX_STEPS, description="How many noise levels to go through; more are slower.")
    cfg: float = Field(
        8.0, ge=0, le=MAX_CFG, description="How strictly to follow the prompts; 1 ignores the negative one."
    )
    sampler: SamplerName = Field("euler", description="How to step from one noise level to the next.")
    scheduler: ScheduleName = Field("normal", description="How the noise levels are spaced.")
    denoise: float = Field(1.0, ge=0, le=1, description="How much to change: 1 paints anew, 0 changes nothing.")
    start_at_step: int = Field(0, ge=0, le=MAX_STEPS, description="The first step to run.")
    end_at_step: int = Field(MAX_STEPS, ge=0, le=MAX_STEPS, description="The step to stop before.")
    add_noise: bool = Field(True, description="Add noise first; off for a latent that still has its noise.")
    leftover_noise: bool = Field(False, description="Leave the noise of the step it ends at, for another sampler.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.sampling.run import sample

        return sample(
            self.model,
            self.positive,
            self.negative,
            self.latent,
            seed=self.seed,
            steps=self.steps,
            cfg=self.cfg,
            sampler=self.sampler,
            scheduler=self.scheduler,
            denoise=self.denoise,
            start_at_step=self.start_at_step,
            end_at_step=self.end_at_step,
            add_noise=self.add_noise,
            leftover_noise=self.leftover_noise,
            on_step=step_teller(ctx),
            on_notice=ctx.warn,
        )

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_text(known, "positive", "negative")
        check_latent(known, "latent", "model")
        check_denoise(known)
        return {"latent": sampled_facts(known, "model")}


def step_teller(ctx: Context) -> OnStep:
    """Returns what a run calls after each step: it tells the context, which may stop the run."""
    from latentgraph.diffusion.latents.preview_decoders import PreviewDecoders

    decoders = ctx.resources.get(PreviewDecoders)

    def on_step(report: StepReport) -> None:
        def preview() -> Tensor:
            if decoders is None:
                return report.preview()
            picture: Tensor = decoders.picture(report.denoised[0], report.latent_format)
            return picture

        ctx.progress(report.step, report.total, preview)

    return on_step
