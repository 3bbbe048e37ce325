"""Sigma tables, times and predictions, against ComfyUI's numbers and against their own definitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.levels.space import discrete_space, flow_space, make_space
from latentgraph.diffusion.levels.space_spec import (
    ContinuousLevels,
    DiscreteLevels,
    FlowLevels,
    FluxLevels,
    PredictionName,
    SpaceSpec,
    flux_shift,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "sigmas.json").read_text())
SPACES = {
    "sd_eps": discrete_space(),
    "sd_zsnr_v": discrete_space("v_prediction", zero_terminal_snr=True),
    "sd3_flow_shift3": flow_space(),
    "flux_dev_shift1.15": make_space(SpaceSpec("flow", FluxLevels())),
    "flux_schnell_shift1": flow_space(shift=1.0, multiplier=1.0),
    "edm_0.002_120": make_space(SpaceSpec("edm", ContinuousLevels())),
    "edm_playground_0.002_80": make_space(SpaceSpec("edm", ContinuousLevels(sigma_max=80.0), sigma_data=0.5)),
}
by_space = pytest.mark.parametrize("name", SPACES)


def draw(seed: int) -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@by_space
def test_the_table_is_comfyuis_to_the_bit(name: str) -> None:
    vector = VECTORS["tables"][name]
    sigmas = SPACES[name].sigmas
    assert len(sigmas) == vector["len"]
    assert sigmas[vector["index"]].tolist() == vector["sigma"]


@by_space
def test_the_ends_of_the_table_are_the_least_and_greatest_level(name: str) -> None:
    space = SPACES[name]
    assert (space.sigma_min, space.sigma_max) == (space.sigmas.min().item(), space.sigmas.max().item())


@by_space
def test_percent_to_sigma_is_comfyuis(name: str) -> None:
    percents, expected = VECTORS["percent_to_sigma"][name]
    assert [SPACES[name].percent_to_sigma(p) for p in percents] == pytest.approx(expected, rel=2e-7)


@by_space
def test_timestep_of_sigma_is_comfyuis(name: str) -> None:
    sigmas, expected = (torch.tensor(v) for v in VECTORS["timestep_of_sigma"][name])
    assert torch.equal(SPACES[name].timestep(sigmas), expected)


@by_space
def test_sigma_of_timestep_is_comfyuis(name: str) -> None:
    timesteps, expected = (torch.tensor(v) for v in VECTORS["sigma_of_timestep"][name])
    assert torch.equal(SPACES[name].sigma(timesteps), expected)


@by_space
def test_a_scalar_and_a_batch_of_levels_give_the_same_times(name: str) -> None:
    space = SPACES[name]
    sigmas = torch.tensor([0.9, 0.3])
    assert space.timestep(sigmas).tolist() == [space.timestep(s).item() for s in sigmas]


SIGMA_DATA = 0.7


def network_output(prediction: PredictionName, noise: Tensor, latent: Tensor, sigma: Tensor) -> Tensor:
    """What a perfect network would answer, from the definition of each prediction."""
    if prediction == "eps":
        return noise
    if prediction == "flow":
        return noise - latent
    if prediction in ("x0", "img_to_img"):
        return latent
    std = (SIGMA_DATA**2 + sigma**2).sqrt()  # of x = latent + sigma * noise
    velocity = noise * SIGMA_DATA / std - latent * sigma / (SIGMA_DATA * std)
    return -velocity if prediction == "edm" else velocity


PREDICTIONS: tuple[PredictionName, ...] = ("eps", "v_prediction", "edm", "flow", "x0", "img_to_img")
by_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)


@by_prediction
def test_a_perfect_prediction_gives_the_latent_back(prediction: PredictionName) -> None:
    space = make_space(SpaceSpec(prediction, FlowLevels(), SIGMA_DATA))
    latent, noise = draw(1), draw(2)
    sigma = torch.tensor([0.2, 0.8])
    x = space.noise_scaling(sigma, noise, latent)
    output = network_output(prediction, noise, latent, sigma.reshape(2, 1, 1, 1))
    torch.testing.assert_close(space.denoised(x, output, sigma), latent)


@pytest.mark.parametrize("prediction", [*PREDICTIONS, "lcm"])
def test_levels_per_sample_equal_separate_calls_to_the_bit(prediction: PredictionName) -> None:
    space = make_space(SpaceSpec(prediction, FlowLevels(), SIGMA_DATA))
    x, output = draw(1), draw(2)
    sigma = torch.tensor([0.3, 0.7])
    for i, s in enumerate(sigma):
        assert torch.equal(space.denoised(x, output, sigma)[i], space.denoised(x[i], output[i], s))
        assert torch.equal(space.scale_input(x, sigma)[i], space.scale_input(x[i], s))
        assert torch.equal(space.noise_scaling(sigma, output, x)[i], space.noise_scaling(s, output[i], x[i]))
        assert torch.equal(space.inverse_noise_scaling(sigma, x)[i], space.inverse_noise_scaling(s, x[i]))


def test_a_consistency_network_goes_from_x_itself_to_its_estimate_with_the_level() -> None:
    space = make_space(SpaceSpec("lcm", DiscreteLevels(stride=20)))
    x, output = draw(1), draw(2)
    clean, noisy = space.sigmas[0], space.sigmas[-1]
    skip = 0.25 / (190.0**2 + 0.25)  # its lowest level is that of timestep 19
    torch.testing.assert_close(space.denoised(x, output, clean), x - output * clean + skip * x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(space.denoised(x, output, noisy), x - output * noisy, rtol=1e-4, atol=1e-4)


def test_a_distilled_table_has_every_twentieth_level_and_the_times_of_the_whole_one() -> None:
    whole, distilled = SPACES["sd_eps"], make_space(SpaceSpec("lcm", DiscreteLevels(stride=20)))
    assert torch.equal(distilled.sigmas, whole.sigmas[19::20])
    assert distilled.sigma_max == whole.sigma_max
    assert torch.equal(distilled.timestep(distilled.sigmas), torch.arange(19.0, 1000.0, 20.0))
    torch.testing.assert_close(distilled.sigma(distilled.timestep(distilled.sigmas)), distilled.sigmas)
    assert distilled.percent_to_sigma(0.5) == pytest.approx(whole.percent_to_sigma(0.5), rel=1e-3)


def test_the_time_of_a_continuous_v_network_is_an_angle() -> None:
    space = make_space(SpaceSpec("v_prediction", ContinuousLevels(0.03, 500.0, time="arctan")))
    levels = torch.tensor([0.03, 1.0, 500.0])
    assert space.timestep(levels[1]).item() == pytest.approx(0.5)
    torch.testing.assert_close(space.sigma(space.timestep(levels)), levels, rtol=1e-3, atol=0.0)


def test_flux_shifts_larger_pictures_more() -> None:
    assert flux_shift(width=256, height=256) == pytest.approx(0.5)
    assert flux_shift(width=1024, height=1024) == pytest.approx(1.15)
    assert flux_shift(width=512, height=1024) == pytest.approx(flux_shift(width=1024, height=512))


def test_a_diffusion_networks_input_has_unit_variance() -> None:
    sigma = torch.tensor(5.0)
    x = draw(0) + sigma * draw(1)
    assert SPACES["sd_eps"].scale_input(x, sigma).std().item() == pytest.approx(1.0, abs=0.1)


def test_pure_noise_starts_with_the_variance_of_noised_unit_data() -> None:
    sigma, noise, zero = torch.tensor(3.0), draw(0), torch.zeros(2, 4, 8, 8)
    space = SPACES["sd_eps"]
    assert torch.equal(space.noise_scaling(sigma, noise, zero, max_denoise=True), noise * 10.0**0.5)
    assert torch.equal(space.noise_scaling(sigma, noise, zero), noise * 3.0)


def test_a_flow_ignores_max_denoise_and_undoes_its_scale() -> None:
    space, sigma = SPACES["sd3_flow_shift3"], torch.tensor(0.25)
    x = space.noise_scaling(sigma, torch.zeros(2, 4, 8, 8), draw(0), max_denoise=True)
    torch.testing.assert_close(space.inverse_noise_scaling(sigma, x), draw(0))


def test_the_top_level_is_recognised_within_rounding() -> None:
    space = SPACES["sd_eps"]
    assert space.is_max(space.sigma_max * (1 - 1e-6))
    assert space.is_max(100.0)
    assert not space.is_max(space.sigma_max * 0.999)


@by_space
def test_log_snr_and_its_inverse_agree_with_alpha(name: str) -> None:
    path, sigma = SPACES[name].path, torch.tensor([0.1, 0.5, 0.9])
    alpha = 1 - sigma if path.is_flow else torch.ones(3)
    torch.testing.assert_close(path.log_snr(sigma), (alpha / sigma).log())
    torch.testing.assert_close(path.sigma_at(path.log_snr(sigma)), sigma)
