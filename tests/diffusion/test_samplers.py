"""Every sampler against ComfyUI's results on an analytic denoiser, end to end from seed to latent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.levels.schedules import ksampler_sigmas
from latentgraph.diffusion.levels.space import SamplingSpace, discrete_space, flow_space
from latentgraph.diffusion.names import SamplerName, ScheduleName
from latentgraph.diffusion.samplers.catalogue import SAMPLERS
from latentgraph.diffusion.samplers.drive import Denoise, run_sampler, unguided
from latentgraph.diffusion.samplers.noise import NoiseSource, initial_noise, inpaint_noise
from latentgraph.diffusion.samplers.problem import Answer, Problem, Query
from latentgraph.diffusion.sampling.masking import masked

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "samplers.json").read_text())
ZERO = torch.zeros(1, 4, 8, 8)
LATENT = torch.linspace(-1, 1, 256).sin().reshape(1, 4, 8, 8)
MASK = torch.zeros(1, 4, 8, 8)
MASK[:, :, 2:6, 3:7] = 1.0
MASK[:, :, 0, 0] = 0.5
SEED = 0


def denoise_eps(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + sigma**2)


def denoise_flow(x: Tensor, sigma: Tensor) -> Tensor:
    return x * (1 - sigma) / ((1 - sigma) ** 2 + sigma**2)


def denoise_guided(query: Query) -> Answer:
    positive = denoise_eps(query.x, query.sigma)
    negative = 0.8 * positive
    return Answer(negative + (positive - negative) * 1.5, negative)


@dataclass(frozen=True)
class Setting:
    """How one set of vectors was made."""

    space: SamplingSpace
    schedule: ScheduleName
    steps: int
    denoise: Denoise = unguided(denoise_eps)
    strength: float = 1.0
    latent: Tensor = ZERO
    mask: Tensor | None = None


SETTINGS = {
    "eps_karras10": Setting(discrete_space(), "karras", 10),
    "eps_normal8_img2img": Setting(discrete_space(), "normal", 8, strength=0.6, latent=LATENT),
    "flow_simple8": Setting(flow_space(), "simple", 8, unguided(denoise_flow)),
    "eps_karras10_cfg": Setting(discrete_space(), "karras", 10, denoise_guided),
    "eps_karras10_mask": Setting(discrete_space(), "karras", 10, latent=LATENT, mask=MASK),
}
CASES = [(name, sampler) for name in SETTINGS for sampler in VECTORS[name]]


def sample(setting: Setting, name: SamplerName, denoise: Denoise) -> Tensor:
    sampler, space, latent = SAMPLERS[name], setting.space, setting.latent
    sigmas = ksampler_sigmas(
        space, sampler=name, schedule=setting.schedule, steps=setting.steps, denoise=setting.strength
    )
    noise = initial_noise(latent.shape, SEED)
    x = space.noise_scaling(sigmas[0], noise, latent, max_denoise=space.is_max(sigmas[0].item()))
    steps = sampler.start(Problem(x, sigmas, space, NoiseSource(x, sigmas, SEED)))
    if setting.mask is not None:
        kept = inpaint_noise(latent.shape, SEED) if sampler.fresh_inpaint_noise else noise
        steps = masked(steps, mask=setting.mask, latent=latent, noise=kept, space=space)
    return space.inverse_noise_scaling(sigmas[-1], run_sampler(steps, denoise))


@pytest.mark.parametrize(("setting", "sampler"), CASES)
def test_a_sampler_is_comfyuis(setting: str, sampler: SamplerName) -> None:
    expected = VECTORS[setting][sampler]
    calls: list[float] = []

    def denoise(query: Query) -> Answer:
        calls.append(query.sigma.item())
        return SETTINGS[setting].denoise(query)

    result = sample(SETTINGS[setting], sampler, denoise)

    values, known = result.flatten()[[*range(8), -4, -3, -2, -1]], torch.tensor(expected["first8"] + expected["last4"])
    torch.testing.assert_close(values, known, rtol=1e-6, atol=1e-6)
    assert result.mean().item() == pytest.approx(expected["mean"], abs=1e-6)
    assert result.std().item() == pytest.approx(expected["std"], rel=1e-5)
    assert calls == pytest.approx(expected["call_sigmas"], rel=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_repeats_and_leaves_its_inputs_alone(name: SamplerName) -> None:
    space, sigmas = flow_space(), torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
    x = initial_noise((1, 4, 8, 8), 3)
    x_before, sigmas_before = x.clone(), sigmas.clone()

    first, second = (
        run_sampler(SAMPLERS[name].start(Problem(x, sigmas, space, NoiseSource(x, sigmas, 1))), unguided(denoise_flow))
        for _ in range(2)
    )

    assert torch.equal(first, second)
    assert torch.equal(x, x_before)
    assert torch.equal(sigmas, sigmas_before)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_single_step_to_zero_reaches_the_estimate(name: SamplerName) -> None:
    space, sigmas = discrete_space(), torch.tensor([10.0, 0.0])
    x = initial_noise((1, 4, 8, 8), 3) * 10
    steps = SAMPLERS[name].start(Problem(x, sigmas, space, NoiseSource(x, sigmas, 1)))
    result = run_sampler(steps, unguided(denoise_eps))
    torch.testing.assert_close(result, denoise_eps(x, sigmas[0]), rtol=1e-5, atol=5e-3)  # uni_pc stops at 0.001


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_schedule_without_a_step_returns_the_start_and_asks_nothing(name: SamplerName) -> None:
    def never(query: Query) -> Answer:
        raise AssertionError("no estimate is needed")

    space, sigmas = discrete_space(), torch.tensor([10.0])
    x = initial_noise((1, 4, 8, 8), 3)
    assert run_sampler(SAMPLERS[name].start(Problem(x, sigmas, space, NoiseSource(x, sigmas, 1))), never) is x


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_may_take_turns(name: SamplerName) -> None:
    """Many runs can be held at once and answered in any order: none shares state with another."""
    space, sigmas = discrete_space(), torch.tensor([10.0, 5.0, 2.0, 0.5, 0.0])

    def start(seed: int) -> Any:
        x = initial_noise((1, 4, 8, 8), seed) * 10
        return SAMPLERS[name].start(Problem(x, sigmas, space, NoiseSource(x, sigmas, seed)))

    alone = [run_sampler(start(seed), unguided(denoise_eps)) for seed in (1, 2)]
    runs = [start(1), start(2)]
    queries = [next(run) for run in runs]
    together: list[Tensor] = []
    while len(together) < 2:
        for i, run in enumerate(runs):
            try:
                queries[i] = run.send(unguided(denoise_eps)(queries[i]))
            except StopIteration as finished:
                together.append(finished.value)

    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_negative_estimate_is_wanted_by_cfg_plus_plus_alone(name: SamplerName) -> None:
    space, sigmas = discrete_space(), torch.tensor([10.0, 5.0, 2.0, 0.5, 0.0])
    x = initial_noise((1, 4, 8, 8), 3) * 10
    wanted: set[bool] = set()

    def denoise(query: Query) -> Answer:
        wanted.add(query.wants_negative)
        denoised = denoise_eps(query.x, query.sigma)
        return Answer(denoised, denoised if query.wants_negative else denoised * torch.nan)

    result = run_sampler(SAMPLERS[name].start(Problem(x, sigmas, space, NoiseSource(x, sigmas, 1))), denoise)
    assert wanted == {name.endswith("_cfg_pp")}
    assert result.isfinite().all()


CFG_PP = [name for name in SAMPLERS if name.endswith("_cfg_pp")]


@pytest.mark.parametrize("name", [name for name in CFG_PP if name != "dpmpp_2s_ancestral_cfg_pp"])  # see its docstring
def test_without_guidance_cfg_plus_plus_is_the_sampler_that_it_is_named_after(name: SamplerName) -> None:
    space, sigmas = discrete_space(), torch.tensor([10.0, 5.0, 2.0, 0.5, 0.0])
    x = initial_noise((1, 4, 8, 8), 3) * 10
    plain: Any = name.removesuffix("_cfg_pp")

    def run(which: SamplerName) -> Tensor:
        steps = SAMPLERS[which].start(Problem(x, sigmas, space, NoiseSource(x, sigmas, 1)))
        return run_sampler(steps, unguided(denoise_eps))

    assert torch.allclose(run(name), run(plain), rtol=1e-5, atol=1e-5)


def test_a_sampler_on_a_gpu_makes_the_picture_of_the_one_on_the_cpu() -> None:
    for name, sampler in SAMPLERS.items():
        if name.endswith("_gpu"):
            twin: Any = name.removesuffix("_gpu")
            assert repr(sampler.start) == repr(SAMPLERS[twin].start)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "dpm_adaptive"])  # it has to look at its error
def test_latents_may_lie_on_another_device_than_levels(name: SamplerName) -> None:
    """The meta device stands for a GPU: it too refuses to mix, but for levels that are single numbers."""
    space, sigmas = flow_space(), torch.tensor([1.0, 0.8, 0.5, 0.3, 0.1, 0.0])
    x = torch.empty(1, 4, 8, 8, device="meta")
    steps = SAMPLERS[name].start(Problem(x, sigmas, space, NoiseSource(x, sigmas, 1)))
    result = run_sampler(steps, unguided(denoise_flow))
    assert (result.device.type, result.shape) == ("meta", x.shape)
