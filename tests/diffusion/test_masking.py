"""Sampling under a mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.levels.space import SamplingSpace, discrete_space, flow_space
from latentgraph.diffusion.names import SamplerName
from latentgraph.diffusion.samplers.catalogue import SAMPLERS
from latentgraph.diffusion.samplers.drive import run_sampler, unguided
from latentgraph.diffusion.samplers.noise import NoiseSource, initial_noise
from latentgraph.diffusion.samplers.problem import Problem, Steps
from latentgraph.diffusion.sampling.masking import fit_mask, gradual, masked

LATENT = torch.linspace(-1, 1, 256).reshape(1, 4, 8, 8)
NOISE = initial_noise((1, 4, 8, 8), 0)
SIGMAS = torch.tensor([0.9, 0.6, 0.3, 0.0])
by_space = pytest.mark.parametrize("space", [discrete_space(), flow_space()], ids=["diffusion", "flow"])


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return x * 0.5


def start(space: SamplingSpace, name: SamplerName = "euler") -> Steps:
    x = space.noise_scaling(SIGMAS[0], NOISE, LATENT)
    return SAMPLERS[name].start(Problem(x, SIGMAS, space, NoiseSource(x, SIGMAS, 0)))


def sample(space: SamplingSpace, mask: Tensor, name: SamplerName = "euler") -> Tensor:
    return run_sampler(
        masked(start(space, name), mask=mask, latent=LATENT, noise=NOISE, space=space), unguided(denoise)
    )


@by_space
@pytest.mark.parametrize("name", ["euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "lcm"])
def test_what_the_mask_keeps_comes_back(space: SamplingSpace, name: SamplerName) -> None:
    torch.testing.assert_close(sample(space, torch.zeros_like(LATENT), name), LATENT)


@by_space
def test_a_mask_of_ones_changes_nothing(space: SamplingSpace) -> None:
    assert torch.equal(sample(space, torch.ones_like(LATENT)), run_sampler(start(space), unguided(denoise)))


@by_space
def test_the_network_sees_the_kept_part_noised_to_the_current_level(space: SamplingSpace) -> None:
    mask = torch.zeros_like(LATENT)
    mask[..., :4] = 1.0
    seen: list[tuple[Tensor, Tensor]] = []

    def recording(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append((x, sigma))
        return denoise(x, sigma)

    run_sampler(masked(start(space), mask=mask, latent=LATENT, noise=NOISE, space=space), unguided(recording))
    for x, sigma in seen:
        torch.testing.assert_close(x[..., 4:], space.noise_scaling(sigma, NOISE, LATENT)[..., 4:])


def test_a_soft_mask_blends_the_estimate_with_the_latent() -> None:
    mask = torch.full_like(LATENT, 0.25)
    space, level = discrete_space(), SIGMAS[:1]
    x = space.noise_scaling(level[0], NOISE, LATENT)
    to_zero = torch.tensor([0.9, 0.0])
    steps = SAMPLERS["euler"].start(Problem(x, to_zero, space, NoiseSource(x, to_zero, 0)))
    result = run_sampler(masked(steps, mask=mask, latent=LATENT, noise=NOISE, space=space), unguided(denoise))
    torch.testing.assert_close(result, 0.25 * denoise(x, level) + 0.75 * LATENT)


def test_a_mask_is_fitted_to_the_latent_without_rounding() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :7, :] = 1.0
    fitted = fit_mask(mask, LATENT)
    assert fitted.shape == LATENT.shape
    assert fitted[0, 0, :, 0].tolist() == [1, 1, 1, 0.5, 0, 0, 0, 0]


@pytest.mark.parametrize(("masks", "batch"), [(1, 3), (2, 3), (4, 3), (3, 3)])
def test_masks_are_repeated_or_cut_to_the_batch(masks: int, batch: int) -> None:
    mask = torch.arange(masks).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8).float()
    fitted = fit_mask(mask, LATENT.repeat(batch, 1, 1, 1))
    assert fitted[:, 0, 0, 0].tolist() == [i % masks for i in range(batch)]


@by_space
def test_a_gradual_mask_lets_a_cell_change_once_so_much_of_the_run_is_left(space: SamplingSpace) -> None:
    mask = torch.linspace(0, 1, 5).reshape(1, 1, 1, 5)
    sigmas = torch.cat([space.sigmas[[999, 700, 400, 100]], torch.zeros(1)])
    times = space.timestep(sigmas[:-1])
    left = (times - space.timestep(space.sigmas[0])) / (times[0] - space.timestep(space.sigmas[0]))
    mask_at = gradual(mask, space=space, sigmas=sigmas)
    for sigma, share in zip(sigmas, left, strict=False):
        assert torch.equal(mask_at(sigma), (mask >= share).float())
    assert mask_at(sigmas[0]).flatten().tolist() == [0, 0, 0, 0, 1]


def test_a_lenient_gradual_mask_stays_part_soft() -> None:
    space, mask = flow_space(), torch.tensor([0.2, 0.6]).reshape(1, 1, 1, 2)
    sigmas = torch.tensor([0.9, 0.5, 0.0])
    strict, lenient = (gradual(mask, space=space, sigmas=sigmas, strictness=s)(sigmas[1]) for s in (1.0, 0.75))
    torch.testing.assert_close(lenient, 0.75 * strict + 0.25 * mask)


def test_a_gradual_mask_takes_the_place_of_the_soft_one_at_each_level() -> None:
    space, half = discrete_space(), torch.full_like(LATENT, 0.5)
    at: list[float] = []

    def all_or_nothing(sigma: Tensor) -> Tensor:
        at.append(sigma.item())
        return torch.zeros_like(LATENT) if sigma > 0.5 else torch.ones_like(LATENT)

    seen: list[Tensor] = []

    def recording(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x)
        return denoise(x, sigma)

    steps = masked(start(space), mask=half, latent=LATENT, noise=NOISE, space=space, mask_at=all_or_nothing)
    run_sampler(steps, unguided(recording))
    assert at == pytest.approx([0.9, 0.6, 0.3])
    torch.testing.assert_close(seen[1], space.noise_scaling(SIGMAS[1], NOISE, LATENT))
