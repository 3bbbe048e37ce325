"""From a guider and a latent to a denoised latent: one run, as KSampler and SamplerCustom make it.

This module puts the others together: schedule, noise, masking, sampler, denoiser, guidance. Behaviour as in
ComfyUI 0.8.0. Neither torch's random state nor its settings are touched, but for what `compiling` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from ..families.specs import LatentFormat
from ..image_prompts.showing import ShownPictures, show
from ..latents.batches import to_vae_space
from ..latents.previews import preview_picture
from ..levels.schedules import cut_sigmas, ksampler_sigmas
from ..model import Guider, Model
from ..names import SamplerName, ScheduleName
from ..networks.exhaustion import smaller_pictures
from ..networks.shallow import Depth
from ..networks.threads import threads_worth
from ..samplers.drive import Denoise, FinishedStep, run_sampler
from ..types import Conditioning, Latent, Noise, Sampler, Sigmas
from .conditioning import PreparedCondition, prepare_conditions
from .controls import Steering, spread_controls
from .coverage import find_gap
from .guidance import ClassifierFree, ListName, Perpendicular
from .guided import check_ending, guided_denoiser
from .passes import Setting
from .spaces import sampling_space
from .starting import Start, start_of
from .step_cache import StepCache


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
Lists = Mapping[ListName, tuple[PreparedCondition, ...]]


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
    model, spec = guider.model, guider.model.spec
    start = start_of(model, latent, noise=noise, sampler=sampler, sigmas=sigmas)
    lists = _prepared_lists(guider, start)
    if on_notice is not None:
        _tell_gaps(guider, start, lists, on_notice)
    last = _LastEstimate(on_step, spec.latent)
    pictures = [show(prompt, start.space, model.weights.precision) for prompt in model.image_prompts]
    with ExitStack() as held:
        x = run_sampler(start.begin(last), _denoiser(guider, start, lists, pictures, held, max_batch))
    check_ending(x, start.sigmas[-1].item())

    def finished(result: Tensor) -> Latent:
        return replace(latent, samples=to_vae_space(result, spec.latent).float().cpu(), cell=spec.latent.downscale)

    return Sampled(finished(x), finished(x if last.denoised is None else last.denoised))


def _prepared_lists(guider: Guider, start: Start) -> Lists:
    """Returns the conditions of each of the guider's lists, ready for the run."""
    names = list(guider.lists)
    prepared = prepare_conditions(
        list(guider.lists.values()),
        spec=guider.model.spec,
        space=start.space,
        latent=start.latent,
        noise_mask=start.mask,
        negative=names.index("negative") if "negative" in names else None,
        seed=start.seed,
    )
    lists = spread_controls(dict(zip(names, prepared, strict=True)))
    if guider.model.weights.policy.precision == "exact":
        return lists  # even what adds nothing has its place in a batch
    return {name: _without_weightless(conditions) for name, conditions in lists.items()}


def _tell_gaps(guider: Guider, start: Start, lists: Lists, on_notice: OnNotice) -> None:
    """Tells of each prompt that counts and that leaves out a part of the run or of the picture."""
    for name in guider.lists:
        if name in guider.rule.needs and (gap := find_gap(lists[name], start.sigmas, start.latent)):
            on_notice(f"the {name} prompt {gap}")


def _denoiser(
    guider: Guider,
    start: Start,
    lists: Lists,
    pictures: Sequence[ShownPictures],
    held: ExitStack,
    max_batch: int | None,
) -> Denoise:
    """Returns what answers the run's queries by the model's network, which is in memory as long as `held` is."""
    model, batch, rows, columns = guider.model, len(start.latent), *start.latent.shape[2:]
    options, cell = model.options, model.spec.latent.downscale
    exact = model.weights.policy.precision == "exact"
    network = held.enter_context(model.weights.use(smaller_pictures(batch, columns * cell, rows * cell)))
    depth = None if options.quality is None else Depth()
    setting = Setting(
        network,
        model.spec.network.kind,
        start.space,
        lists,
        changes=options.changes,
        steer=Steering(chain.from_iterable(lists.values()), held, model=model),
        pictures=pictures,
        max_batch=max_batch,
        share=not exact,  # there the composition of each batch counts
        compiled=options.compiled and not exact,
        depth=depth,
    )
    denoise = guided_denoiser(setting, guider.rule, options)
    if options.quality is not None and depth is not None:
        denoise = StepCache(options.quality, sigmas=start.sigmas, space=start.space, depth=depth).wrap(denoise)
    if not exact:  # there they might move the last bits
        held.enter_context(threads_worth(network, batch * rows * columns))
    return denoise


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
