"""From a guider and a latent to a denoised latent: one run, as KSampler and SamplerCustom make it.

This module puts the others together: schedule, noise, masking, sampler, denoiser, guidance. Behaviour as in
ComfyUI 0.8.0. Every random number comes from a seed; neither torch's random state nor its settings are touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from ..families.specs import LatentFormat, ModelSpec
from ..image_prompts.showing import show
from ..latents.batches import fit_empty, to_model_space, to_vae_space
from ..latents.previews import preview_picture
from ..levels.edits import without_repeats
from ..levels.limits import check_levels
from ..levels.schedules import cut_sigmas, ksampler_sigmas
from ..levels.space import SamplingSpace, make_space
from ..levels.space_spec import PredictionName, SpaceSpec
from ..model import Guider, Model
from ..names import SamplerName, ScheduleName
from ..networks.exhaustion import smaller_pictures
from ..networks.faults import NOT_FINITE, NonFiniteError
from ..networks.shallow import Depth
from ..networks.threads import threads_worth
from ..samplers.catalogue import Method, method_of
from ..samplers.drive import FinishedStep, observed, run_sampler
from ..samplers.noise import NoiseSource, initial_noise, inpaint_noise
from ..samplers.problem import Problem, Steps
from ..types import Conditioning, Latent, Noise, Sampler, Sigmas
from .conditioning import PreparedCondition, prepare_conditions
from .controls import Steering, spread_controls
from .coverage import find_gap
from .guidance import ClassifierFree, Perpendicular
from .guided import check_ending, guided_denoiser
from .masking import fit_mask, gradual, masked
from .passes import Setting
from .step_cache import StepCache

_PREDICTIONS: dict[str, PredictionName] = {
    "eps": "eps",
    "v": "v_prediction",
    "edm": "edm",
    "flow": "flow",
}


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
OnNotice = Callable[[str], None]
"""Called with a sentence about something that is no error and hardly meant."""


def space_of(spec: ModelSpec) -> SpaceSpec:
    """Returns the space that networks of this kind were trained in."""
    return SpaceSpec(_PREDICTIONS[spec.prediction], spec.levels, spec.sigma_data)


def sampling_space(model: Model) -> SamplingSpace:
    """Returns the space that a model denoises in: its own, or the one that was chosen for it."""
    return make_space(model.options.space or space_of(model.spec))


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
    on_notice: OnNotice | None = None,
) -> Latent:
    """Returns the latent, denoised, as KSampler does it: `sample_guided` with classifier-free guidance and a schedule.

    denoise: below 1 starts from the latent with so much noise that this fraction of a longer schedule is left.
    start_at_step, end_at_step: run a part of the schedule. add_noise off: the latent already carries the noise of its
    first step. leftover_noise: stop at the noise level of end_at_step instead of going all the way to a clean latent.
    """
    space = sampling_space(model)
    sigmas = ksampler_sigmas(space, sampler=sampler, schedule=scheduler, steps=steps, denoise=denoise)
    sigmas = cut_sigmas(sigmas, start=start_at_step or 0, end=end_at_step, leftover_noise=leftover_noise)
    result = sample_guided(
        Guider(model, {"positive": positive, "negative": negative}, ClassifierFree(cfg)),
        latent,
        noise=Noise(seed, silent=not add_noise),
        sampler=Sampler(sampler),
        sigmas=Sigmas(sigmas),
        max_batch=max_batch,
        on_step=on_step,
        on_notice=on_notice,
    )
    return result.latent


class Sampled(NamedTuple):
    """A run's result, and the estimate that its last step was heading for: the same, noise aside."""

    latent: Latent
    denoised: Latent


@torch.inference_mode()
def sample_guided(
    guider: Guider,
    latent: Latent,
    *,
    noise: Noise,
    sampler: Sampler,
    sigmas: Sigmas,
    max_batch: int | None = None,
    on_step: OnStep | None = None,
    on_notice: OnNotice | None = None,
) -> Sampled:
    """Returns the latent, denoised: float32 on the CPU, in VAE space, with the given mask and batch_index.

    max_batch: the most latents in one pass through the network; less memory, and other last bits. on_step is called
    after every step; the run stops at once if it raises. Levels that follow their equals are left out. A run without any
    level returns the latent as it is. on_notice is told of prompts that leave out a part of the run or of the picture. Raises
    ValueError for levels at which nothing can be sampled.
    """
    if len(sigmas.values) == 0:
        return Sampled(latent, latent)
    guider = _with_perp_neg(guider)
    model = guider.model
    spec, space, policy = model.spec, sampling_space(model), model.weights.policy
    start = _start(spec, latent, policy.device)
    first = torch.zeros_like(start)
    if not noise.silent:
        first = initial_noise(start.shape, noise.seed, latent.batch_index).to(start)
    method = method_of(sampler)
    levels = without_repeats(_sound(sigmas, space))
    run = _Run(method, space, levels, noise.seed, start, first, _fitted_mask(latent, start), model.options.gradual_mask)
    prepared = prepare_conditions(
        list(guider.lists.values()),
        spec=spec,
        space=space,
        latent=start,
        noise_mask=run.mask,
        negative=list(guider.lists).index("negative") if "negative" in guider.lists else None,
        seed=noise.seed,
    )
    lists = spread_controls(dict(zip(guider.lists, prepared, strict=True)))
    if policy.precision != "exact":  # there even what adds nothing has its place in a batch
        lists = {name: _without_weightless(conditions) for name, conditions in lists.items()}
    if on_notice is not None:
        for name in guider.rule.needs & guider.lists.keys():
            if gap := find_gap(lists[name], levels, start):
                on_notice(f"the {name} prompt {gap}")
    last = _LastEstimate(on_step, spec.latent)
    cell = spec.latent.downscale
    advice = smaller_pictures(len(start), start.shape[3] * cell, start.shape[2] * cell)
    pictures = [show(prompt, space, model.weights.precision) for prompt in model.image_prompts]
    with ExitStack() as held:
        network = held.enter_context(model.weights.use(advice))
        setting = Setting(
            network,
            spec.network.kind,
            space,
            lists,
            changes=model.options.changes,
            steer=Steering(chain.from_iterable(lists.values()), held, model=model),
            pictures=pictures,
            max_batch=max_batch,
            share=policy.precision != "exact",  # there the composition of each batch counts
            compiled=model.options.compiled and policy.precision != "exact",
            depth=None if model.options.quality is None else Depth(),
        )
        denoise = guided_denoiser(setting, guider.rule, model.options)
        if model.options.quality is not None and setting.depth is not None:
            cache = StepCache(model.options.quality, sigmas=levels, space=space, depth=setting.depth)
            denoise = cache.wrap(denoise)
        if policy.precision != "exact":  # there they might move the last bits
            held.enter_context(threads_worth(network, len(start) * start.shape[2] * start.shape[3]))
        x = run_sampler(run.begin(last), denoise)
    check_ending(x, levels[-1].item())

    def finished(result: Tensor) -> Latent:
        return replace(latent, samples=to_vae_space(result, spec.latent).float().cpu(), cell=cell)

    return Sampled(finished(x), finished(x if last.denoised is None else last.denoised))


@torch.inference_mode()
def add_noise(model: Model, latent: Latent, *, noise: Noise, sigmas: Sigmas) -> Latent:
    """Returns the latent with as much noise as lies between the first level and the last, in VAE space.

    A single level is taken for what it is; with no level at all the latent stays as it is.
    """
    if len(sigmas.values) == 0:
        return latent
    spec, space = model.spec, sampling_space(model)
    levels = _sound(sigmas, space)
    start = _start(spec, latent, torch.device("cpu"))
    amount = (levels[0] - levels[-1]).abs() if len(levels) > 1 else levels[0]
    first = torch.zeros_like(start) if noise.silent else initial_noise(start.shape, noise.seed, latent.batch_index)
    x = to_vae_space(space.noise_scaling(amount, first, start), spec.latent)
    samples = x.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return replace(latent, samples=samples, cell=spec.latent.downscale)


@dataclass(frozen=True, eq=False, slots=True)
class _Run:
    """What a sampler starts from. start: (B, C, h, w), the clean latent, scaled; noise, mask: like start."""

    method: Method
    space: SamplingSpace
    sigmas: Tensor
    seed: int
    start: Tensor
    noise: Tensor
    mask: Tensor | None
    gradual_mask: float | None

    def begin(self, on_step: Callable[[FinishedStep], None]) -> Steps:
        """Starts the sampler, masked and observed as need be; it ends in what a run hands on."""
        steps = self.method.start(Problem(self._noised(), self.sigmas, self.space, self._source()))
        steps = observed(steps, len(self.sigmas) - 1, on_step)
        if self.mask is not None:
            noise = self.noise
            if self.method.fresh_inpaint_noise:
                noise = inpaint_noise(self.start.shape, self.seed).to(self.start)
            mask_at = None
            if self.gradual_mask is not None:
                mask_at = gradual(self.mask, space=self.space, sigmas=self.sigmas, strictness=self.gradual_mask)
            steps = masked(steps, mask=self.mask, latent=self.start, noise=noise, space=self.space, mask_at=mask_at)
        x = yield from steps
        return self.space.inverse_noise_scaling(self.sigmas[-1], x)

    def _noised(self) -> Tensor:
        first = self.sigmas[0]
        return self.space.noise_scaling(first, self.noise, self.start, max_denoise=self.space.is_max(first.item()))

    def _source(self) -> NoiseSource:
        return NoiseSource(self.start, self.sigmas, self.seed)


def _sound(sigmas: Sigmas, space: SamplingSpace) -> Tensor:
    """The levels of a run. Raises ValueError if nothing can be sampled at one of them."""
    check_levels(sigmas.values.tolist(), highest=1.0 if space.path.is_flow else math.inf)
    return sigmas.values


def _start(spec: ModelSpec, latent: Latent, device: torch.device) -> Tensor:
    """The latent in the network's units; an empty one stays zero, whatever the family's shift.

    Always contiguous, because the layout in memory moves the last bits. Raises NonFiniteError for one that holds NaN.
    """
    samples = fit_empty(latent, spec.latent).float().contiguous().to(device)
    if not samples.isfinite().all():
        raise NonFiniteError(f"the latent that the run begins with {NOT_FINITE}. Look at the nodes that made it.")
    return to_model_space(samples, spec.latent) if samples.any() else samples


def _fitted_mask(latent: Latent, start: Tensor) -> Tensor | None:
    return None if latent.noise_mask is None else fit_mask(latent.noise_mask.to(start), start)


def _with_perp_neg(guider: Guider) -> Guider:
    """Returns the guider with plain guidance made Perp-Neg, if its model asks for that."""
    asked, rule = guider.model.options.perp_neg, guider.rule
    if asked is None or not isinstance(rule, ClassifierFree) or "negative" not in guider.lists:
        return guider
    return replace(guider, lists={**guider.lists, "empty": asked.empty}, rule=Perpendicular(rule.scale, asked.scale))


def _without_weightless(conditions: tuple[PreparedCondition, ...]) -> tuple[PreparedCondition, ...]:
    return tuple(condition for condition in conditions if not condition.is_weightless)


class _LastEstimate:
    """Keeps the last step's estimate of a run, and reports each step to who asked for it."""

    def __init__(self, on_step: OnStep | None, latent_format: LatentFormat) -> None:
        self.denoised: Tensor | None = None
        self._on_step = on_step
        self._latent_format = latent_format

    def __call__(self, done: FinishedStep) -> None:
        self.denoised = done.denoised
        if self._on_step is not None:
            self._on_step(StepReport(done.step + 1, done.total, done.denoised, self._latent_format))
