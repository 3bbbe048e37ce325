"""Schedules between chosen levels, against ComfyUI's scheduler nodes and against what they say of themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.levels.chosen import (
    ALIGNED,
    aligned_levels,
    exponential_levels,
    flux2_levels,
    karras_levels,
    laplace_levels,
    polyexponential_levels,
    turbo_levels,
    vp_levels,
)
from latentgraph.diffusion.levels.schedules import beta_levels, denoise_sigmas
from latentgraph.diffusion.levels.space import discrete_space

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "sigmas.json").read_text())
SD = discrete_space()
ENDS = {"sigma_max": 14.614642, "sigma_min": 0.0291675}  # the nodes' defaults
LAST_BIT = 1.2e-7  # relative: ComfyUI's exp is a vector library's, ours is rounded from float64

FOUND: dict[str, Tensor] = {
    "KarrasScheduler(10)": karras_levels(10, **ENDS),
    "ExponentialScheduler(10)": exponential_levels(10, **ENDS),
    "PolyexponentialScheduler(10,rho=1)": polyexponential_levels(10, **ENDS),
    "PolyexponentialScheduler(10,rho=2)": polyexponential_levels(10, rho=2.0, **ENDS),
    "LaplaceScheduler(10)": laplace_levels(10, **ENDS),
    "VPScheduler(10)": vp_levels(10),
    "SDTurboScheduler(1,1.0)": turbo_levels(SD, 1),
    "SDTurboScheduler(4,1.0)": turbo_levels(SD, 4),
    "SDTurboScheduler(3,0.5)": turbo_levels(SD, 3, denoise=0.5),
    "AlignYourStepsScheduler(SD1,10,1.0)": aligned_levels("SD1", 10),
    "AlignYourStepsScheduler(SDXL,10,1.0)": aligned_levels("SDXL", 10),
    "AlignYourStepsScheduler(SD1,20,1.0)": aligned_levels("SD1", 20),
    "AlignYourStepsScheduler(SDXL,15,0.6)": aligned_levels("SDXL", 15, denoise=0.6),
    "BasicScheduler(normal,10,0.7)": denoise_sigmas(SD, "normal", 10, denoise=0.7),
    "BetaSamplingScheduler(10,0.5,0.7)": beta_levels(SD, 10, alpha=0.5, beta=0.7),
}


@pytest.mark.parametrize("case", VECTORS["custom_nodes_sd_eps"])
def test_a_schedule_is_that_of_comfyuis_node(case: str) -> None:
    expected = torch.tensor(VECTORS["custom_nodes_sd_eps"][case])
    torch.testing.assert_close(FOUND[case], expected, rtol=LAST_BIT, atol=0.0)


@pytest.mark.parametrize("model", ALIGNED)
def test_an_aligned_schedule_of_its_own_length_is_the_table(model: Any) -> None:
    assert aligned_levels(model, 10)[:-1].tolist() == pytest.approx(ALIGNED[model][:-1])


def test_an_aligned_schedule_of_nothing_is_empty() -> None:
    assert len(aligned_levels("SD1", 10, denoise=0.0)) == 0


def test_more_turbo_steps_than_there_are_end_with_the_last() -> None:
    assert torch.equal(turbo_levels(SD, 10, denoise=0.3), turbo_levels(SD, 3, denoise=0.3))


@pytest.mark.parametrize("levels", FOUND.values(), ids=FOUND)
def test_every_schedule_falls(levels: Tensor) -> None:
    assert levels.dtype == torch.float32
    assert (levels.diff() < 0).all()


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (
            lambda: karras_levels(5, sigma_max=14.6, sigma_min=0.03, rho=0.01),
            "a rho of 0.01 is too small for levels up to 14.6",
        ),
        (lambda: karras_levels(5, sigma_max=14.6, sigma_min=0.0), "noise level 5 of 6 is 0, where no noise is left"),
        (lambda: vp_levels(5, beta_d=5000.0), "noise level 1 of 6 is inf"),
    ],
)
def test_settings_that_make_no_levels_are_refused(make: Callable[[], Tensor], wrong: str) -> None:
    with pytest.raises(ValueError, match=f"^{wrong}"):
        make()


def test_flux2s_levels_of_the_largest_pictures_are_all_noise_to_the_last() -> None:
    assert flux2_levels(4, width=16384, height=16384).tolist() == [1, 1, 1, 1, 0]
