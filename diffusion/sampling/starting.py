"""What a run starts from: noise levels, a latent in the network's units, noise, and a mask.

Every random number comes from a seed. Behaviour as in ComfyUI 0.8.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..families.specs import ModelSpec
from ..latents.batches import fit_empty, to_model_space, to_vae_space
from ..levels.edits import without_repeats
from ..levels.limits import check_levels
from ..levels.space import SamplingSpace
from ..model import Model
from ..networks.faults import NOT_FINITE, NonFiniteError
from ..samplers.catalogue import Method, method_of
from ..samplers.drive import FinishedStep, observed
from ..samplers.noise import NoiseSource, initial_noise, inpaint_noise
from ..samplers.problem import Problem, Steps
from ..types import Latent, Noise, Sampler, Sigmas
from .masking import fit_mask, gradual, masked
from .spaces import sampling_space


@dataclass(frozen=True, eq=False, slots=True)
class Start:
    """What a sampler starts from. latent: (B, C, h, w), clean, in the network's units; noise, mask: like it."""

    method: Method
    space: SamplingSpace
    sigmas: Tensor
    seed: int
    latent: Tensor
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
                noise = inpaint_noise(self.latent.shape, self.seed).to(self.latent)
            mask_at = None
            if self.gradual_mask is not None:
                mask_at = gradual(self.mask, space=self.space, sigmas=self.sigmas, strictness=self.gradual_mask)
            steps = masked(steps, mask=self.mask, latent=self.latent, noise=noise, space=self.space, mask_at=mask_at)
        x = yield from steps
        return self.space.inverse_noise_scaling(self.sigmas[-1], x)

    def _noised(self) -> Tensor:
        first = self.sigmas[0]
        return self.space.noise_scaling(first, self.noise, self.latent, max_denoise=self.space.is_max(first.item()))

    def _source(self) -> NoiseSource:
        return NoiseSource(self.latent, self.sigmas, self.seed)


def start_of(model: Model, latent: Latent, *, noise: Noise, sampler: Sampler, sigmas: Sigmas) -> Start:
    """Returns what a run of the model starts from. Raises ValueError for levels at which nothing can be sampled."""
    space = sampling_space(model)
    start = _scaled(model.spec, latent, model.weights.policy.device)
    return Start(
        method=method_of(sampler),
        space=space,
        sigmas=without_repeats(_sound(sigmas, space)),
        seed=noise.seed,
        latent=start,
        noise=_first_noise(noise, latent, start),
        mask=_fitted_mask(latent, start),
        gradual_mask=model.options.gradual_mask,
    )


@torch.inference_mode()
def add_noise(model: Model, latent: Latent, *, noise: Noise, sigmas: Sigmas) -> Latent:
    """Returns the latent with as much noise as lies between the first level and the last, in VAE space.

    A single level is taken for what it is; with no level at all the latent stays as it is.
    """
    if len(sigmas.values) == 0:
        return latent
    spec, space = model.spec, sampling_space(model)
    levels = _sound(sigmas, space)
    start = _scaled(spec, latent, torch.device("cpu"))
    amount = (levels[0] - levels[-1]).abs() if len(levels) > 1 else levels[0]
    x = to_vae_space(space.noise_scaling(amount, _first_noise(noise, latent, start), start), spec.latent)
    samples = x.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return replace(latent, samples=samples, cell=spec.latent.downscale)


def _sound(sigmas: Sigmas, space: SamplingSpace) -> Tensor:
    """The levels of a run. Raises ValueError if nothing can be sampled at one of them."""
    check_levels(sigmas.values.tolist(), highest=1.0 if space.path.is_flow else math.inf)
    return sigmas.values


def _scaled(spec: ModelSpec, latent: Latent, device: torch.device) -> Tensor:
    """The latent in the network's units; an empty one stays zero, whatever the family's shift.

    Always contiguous, because the layout in memory moves the last bits. Raises NonFiniteError for one that holds NaN.
    """
    samples = fit_empty(latent, spec.latent).float().contiguous().to(device)
    if not samples.isfinite().all():
        raise NonFiniteError(f"the latent that the run begins with {NOT_FINITE}. Look at the nodes that made it.")
    return to_model_space(samples, spec.latent) if samples.any() else samples


def _first_noise(noise: Noise, latent: Latent, start: Tensor) -> Tensor:
    """Unit noise like `start`; zeros where none is to be added."""
    if noise.silent:
        return torch.zeros_like(start)
    return initial_noise(start.shape, noise.seed, latent.batch_index).to(start)


def _fitted_mask(latent: Latent, start: Tensor) -> Tensor | None:
    return None if latent.noise_mask is None else fit_mask(latent.noise_mask.to(start), start)
