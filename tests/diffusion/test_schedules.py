"""Schedules against ComfyUI's numbers, and the cuts that KSampler makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from latentgraph.diffusion.levels.schedules import SCHEDULES, cut_sigmas, ksampler_sigmas, schedule_sigmas
from latentgraph.diffusion.levels.space import discrete_space, flow_space, make_space
from latentgraph.diffusion.levels.space_spec import ContinuousLevels, FluxLevels, SpaceSpec

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "sigmas.json").read_text())
SD = discrete_space()
SPACES = {
    "sd_eps": SD,
    "sd_zsnr_v": discrete_space("v_prediction", zero_terminal_snr=True),
    "sd3_flow_shift3": flow_space(),
    "flux_dev_shift1.15": make_space(SpaceSpec("flow", FluxLevels())),
    "flux_schnell_shift1": flow_space(shift=1.0, multiplier=1.0),
    "edm_0.002_120": make_space(SpaceSpec("edm", ContinuousLevels())),
    "edm_playground_0.002_80": make_space(SpaceSpec("edm", ContinuousLevels(sigma_max=80.0), sigma_data=0.5)),
}
LAST_BIT = 1.2e-7  # relative: ComfyUI's exp is a vector library's, ours is rounded from float64


def assert_same_sigmas(sigmas: torch.Tensor, expected: list[float]) -> None:
    assert sigmas.dtype == torch.float32
    torch.testing.assert_close(sigmas, torch.tensor(expected), rtol=LAST_BIT, atol=0.0)


@pytest.mark.parametrize("steps", [1, 4, 20, 30])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("space", SPACES)
def test_a_schedule_is_comfyuis(space: str, schedule: Any, steps: int) -> None:
    expected = VECTORS["schedules"][space][str(steps)][schedule]
    if expected == [
        None,
        0.0,
    ]:  # not a number there, for want of a second level; a single step starts from the top here
        expected = [SPACES[space].sigma_max, 0.0]
        assert schedule_sigmas(SPACES[space], schedule, steps).tolist() == pytest.approx(expected, rel=1e-3)
        return
    assert_same_sigmas(schedule_sigmas(SPACES[space], schedule, steps), expected)


@pytest.mark.parametrize("case", VECTORS["ksampler_sd_eps"])
def test_ksampler_visits_comfyuis_levels(case: str) -> None:
    sampler, schedule, steps, denoise = case.split("/")
    choice: dict[str, Any] = {"sampler": sampler, "schedule": schedule}
    sigmas = ksampler_sigmas(SD, **choice, steps=int(steps), denoise=float(denoise))
    expected = VECTORS["ksampler_sd_eps"][case]
    if isinstance(expected, dict):  # a long list, given by its length and ends
        assert len(sigmas) == expected["len"]
        assert_same_sigmas(sigmas[: len(expected["first"])], expected["first"])
        assert_same_sigmas(sigmas[-len(expected["last"]) :], expected["last"])
    else:
        assert_same_sigmas(sigmas, expected)


@pytest.mark.parametrize(("schedule", "count"), [("normal", 11), ("ddim_uniform", 12)])  # 12: every 90th of 1000
def test_a_model_whose_lowest_level_is_nearly_zero_gets_no_second_zero(schedule: Any, count: int) -> None:
    sigmas = schedule_sigmas(flow_space(shift=0.001), schedule, 10)
    assert len(sigmas) == count
    assert 0 < sigmas[-1] < 1e-5


def test_nothing_is_visited_without_denoising() -> None:
    assert len(ksampler_sigmas(SD, sampler="euler", schedule="normal", steps=20, denoise=0.0)) == 0


def test_a_schedule_needs_a_step() -> None:
    with pytest.raises(ValueError, match="schedule of 0 steps"):
        schedule_sigmas(SD, "karras", 0)


def test_a_misspelt_schedule_is_answered_with_the_nearest_name() -> None:
    wrong: Any = "karas"
    with pytest.raises(ValueError, match=r"unknown schedule 'karas'\. Did you mean 'karras'"):
        schedule_sigmas(SD, wrong, 4)


def test_a_misspelt_sampler_is_answered_with_the_nearest_name() -> None:
    wrong: Any = "dpm2"
    with pytest.raises(ValueError, match="Did you mean 'dpm_2'"):
        ksampler_sigmas(SD, sampler=wrong, schedule="normal", steps=4)


LEVELS = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("start", "end", "leftover_noise", "expected"),
    [
        (0, None, False, [8, 4, 2, 1, 0]),
        (0, 10000, False, [8, 4, 2, 1, 0]),
        (0, 4, True, [8, 4, 2, 1, 0]),
        (0, 2, True, [8, 4, 2]),
        (0, 2, False, [8, 4, 0]),
        (2, None, False, [2, 1, 0]),
        (1, 3, True, [4, 2, 1]),
        (4, None, False, []),
        (2, 2, True, []),
        (3, 2, False, []),
    ],
)
def test_a_cut_keeps_the_steps_from_start_to_end(
    start: int, end: int | None, leftover_noise: bool, expected: list[float]
) -> None:
    assert cut_sigmas(LEVELS, start=start, end=end, leftover_noise=leftover_noise).tolist() == expected


def test_a_cut_leaves_the_schedule_as_it_was() -> None:
    sigmas = LEVELS.clone()
    cut_sigmas(sigmas, end=2)
    assert torch.equal(sigmas, LEVELS)
