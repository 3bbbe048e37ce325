"""From a model, conditions and a latent to a denoised latent: one run, as KSampler and KSamplerAdvanced make it.

This module puts the others together: schedule, noise, masking, sampler, denoiser, guidance. Behaviour as in
ComfyUI 0.8.0. Every random number comes from `seed`; neither torch's random state nor its settings are touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .conditioning import PreparedCondition, prepare_conditions
from .denoiser import Network, estimate, unet_network
from .drive import Denoise, FinishedStep, observed, run_sampler
from .families import LatentFormat, ModelSpec
from .guidance import ClassifierFree, Estimates, Guidance
from .latents import to_model_space, to_vae_space, widen_empty
from .masking import fit_mask, masked
from .names import SamplerName, ScheduleName
from .noise import NoiseSource, initial_noise, inpaint_noise
from .previews import preview_picture
from .problem import Answer, Problem, Query, Steps
from .samplers import Sampler, sampler_named
from .sampling_space import SamplingSpace, discrete_space
from .schedules import cut_sigmas, ksampler_sigmas
from .space_spec import PredictionName
from .types import Conditioning, Latent, Model

_PREDICTIONS: dict[str, PredictionName] = {"eps": "eps", "v": "v_prediction"}


@dataclass(frozen=True, eq=False, slots=True)
class StepReport:
    """Step number `step`, from 1, of `total` is done. denoised: (B, C, h, w), what the run is heading for, scaled."""

    step: int
    total: int
    denoised: Tensor
    latent_format: LatentFormat

    def preview(self, item: int = 0) -> Tensor:
        """Returns uint8 (h, w, 3), a small rough picture of one item of the batch."""
        return preview_picture(self.denoised[item], self.latent_format)


OnStep = Callable[[StepReport], None]


def sampling_space(spec: ModelSpec) -> SamplingSpace:
    """Returns the space that a network of this kind denoises in."""
    return discrete_space(_PREDICTIONS[spec.prediction], zero_terminal_snr=spec.zero_terminal_snr)


@torch.inference_mode()
def sample(
    model: Model,
    positive: Conditioning,
    negative: Conditioning,
    latent: Latent,
    *,
    seed: int,
    steps: int,
    cfg: float,
    sampler: SamplerName,
    scheduler: ScheduleName,
    denoise: float = 1.0,
    start_at_step: int | None = None,
    end_at_step: int | None = None,
    add_noise: bool = True,
    leftover_noise: bool = False,
    max_batch: int | None = None,
    on_step: OnStep | None = None,
) -> Latent:
    """Returns the latent, denoised: float32 on the CPU, in VAE space, with the given mask and batch_index.

    denoise: below 1 starts from the latent with so much noise that this fraction of a longer schedule is left.
    start_at_step, end_at_step: run a part of the schedule. add_noise off: the latent already carries the noise of its
    first step. leftover_noise: stop at the noise level of end_at_step instead of going all the way to a clean latent.
    max_batch: the most latents in one pass through the network; less memory, and other last bits. on_step is called
    after every step; the run stops at once if it raises. A run without any step returns the latent as it is.
    """
    space = sampling_space(model.spec)
    sigmas = ksampler_sigmas(space, sampler=sampler, schedule=scheduler, steps=steps, denoise=denoise)
    sigmas = cut_sigmas(sigmas, start=start_at_step or 0, end=end_at_step, leftover_noise=leftover_noise)
    if len(sigmas) == 0:
        return latent
    policy = model.weights.memory.policy
    start = _start(model.spec, latent, policy.device)
    noise = torch.zeros_like(start)
    if add_noise:
        noise = initial_noise(start.shape, seed, latent.batch_index).to(start)
    run = _Run(sampler_named(sampler), space, sigmas, seed, start, noise, _fitted_mask(latent, start))
    positives, negatives = prepare_conditions(
        [positive, negative], spec=model.spec, space=space, latent=start, noise_mask=run.mask
    )
    if policy.precision != "exact":  # there even what adds nothing has its place in a batch
        positives, negatives = _without_weightless(positives), _without_weightless(negatives)
    with model.weights.use() as unet:
        guided = _guided(unet_network(unet), space, positives, negatives, ClassifierFree(cfg), max_batch)
        x = run_sampler(run.begin(_reporter(on_step, model.spec.latent)), guided)
    return replace(latent, samples=to_vae_space(x, model.spec.latent).float().cpu())


@dataclass(frozen=True, eq=False, slots=True)
class _Run:
    """What a sampler starts from. start: (B, C, h, w), the clean latent, scaled; noise, mask: like start."""

    sampler: Sampler
    space: SamplingSpace
    sigmas: Tensor
    seed: int
    start: Tensor
    noise: Tensor
    mask: Tensor | None

    def begin(self, on_step: Callable[[FinishedStep], None] | None) -> Steps:
        """Starts the sampler, masked and observed as need be; it ends in what a run hands on."""
        steps = self.sampler.start(Problem(self._noised(), self.sigmas, self.space, self._source()))
        if on_step is not None:
            steps = observed(steps, len(self.sigmas) - 1, on_step)
        if self.mask is not None:
            noise = self.noise
            if self.sampler.fresh_inpaint_noise:
                noise = inpaint_noise(self.start.shape, self.seed).to(self.start)
            steps = masked(steps, mask=self.mask, latent=self.start, noise=noise, space=self.space)
        x = yield from steps
        return self.space.inverse_noise_scaling(self.sigmas[-1], x)

    def _noised(self) -> Tensor:
        first = self.sigmas[0]
        return self.space.noise_scaling(first, self.noise, self.start, max_denoise=self.space.is_max(first.item()))

    def _source(self) -> NoiseSource:
        return NoiseSource(self.start, self.sigmas, self.seed)


def _start(spec: ModelSpec, latent: Latent, device: torch.device) -> Tensor:
    """The latent in the network's units; an empty one stays zero, whatever the family's shift.

    Always contiguous, because the layout in memory moves the last bits.
    """
    samples = widen_empty(latent.samples.float().contiguous(), spec.latent.channels).to(device)
    return to_model_space(samples, spec.latent) if samples.any() else samples


def _fitted_mask(latent: Latent, start: Tensor) -> Tensor | None:
    return None if latent.noise_mask is None else fit_mask(latent.noise_mask.to(start), start)


def _without_weightless(conditions: tuple[PreparedCondition, ...]) -> tuple[PreparedCondition, ...]:
    return tuple(condition for condition in conditions if not condition.is_weightless)


def _guided(
    network: Network,
    space: SamplingSpace,
    positives: tuple[PreparedCondition, ...],
    negatives: tuple[PreparedCondition, ...],
    guidance: Guidance,
    max_batch: int | None,
) -> Denoise:
    def denoise(query: Query) -> Answer:
        x, sigma = query.x, query.sigma
        wanted = [positives, negatives if guidance.needs_negative or query.wants_negative else ()]
        estimates = Estimates(x, sigma, *estimate(network, space, wanted, x, sigma, max_batch=max_batch))
        return Answer(guidance(estimates), estimates.negative)

    return denoise


def _reporter(on_step: OnStep | None, latent_format: LatentFormat) -> Callable[[FinishedStep], None] | None:
    if on_step is None:
        return None
    return lambda done: on_step(StepReport(done.step + 1, done.total, done.denoised, latent_format))
