"""Conditions made ready and evaluated, against ComfyUI 0.8.0's results with a stub for a network.

The stub of cond_batching.json is D = 0.5 x + mean(context) at sigma 5; every call is recorded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.families.specs import ModelSpec, UNetSpec
from latentgraph.diffusion.families.stable_diffusion import SD_LATENT
from latentgraph.diffusion.levels.space import discrete_space
from latentgraph.diffusion.sampling.conditioning import prepare_conditions
from latentgraph.diffusion.sampling.denoiser import estimate
from latentgraph.diffusion.sampling.guidance import ClassifierFree, Estimates
from latentgraph.diffusion.sampling.network_inputs import NetworkInputs
from latentgraph.diffusion.types import Area, Condition, Conditioning

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "cond_batching.json").read_text("utf-8"))
SPACE = discrete_space()
SIGMA = torch.tensor(5.0)
NEGATIVE = -1.0
NETWORK = UNetSpec(
    in_channels=4,
    out_channels=4,
    widths=(32,),
    res_blocks=(1,),
    depths_in=((1,),),
    depths_out=((1, 1),),
    depth_middle=1,
    heads=(8,),
    context_width=2,
    linear_projection=False,
)
SPEC = ModelSpec(family="sd1", network=NETWORK, latent=SD_LATENT, prediction="eps", resolution=512)


def condition(value: float, *, tokens: int = 77, **options: Any) -> Condition:
    return Condition(torch.full((1, tokens, 2), float(value)), **options)


@dataclass
class StubNetwork:
    """Answers so that D = 0.5 x + mean(context)."""

    sigma: Tensor = SIGMA
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
        sigma = self.sigma.reshape(-1, 1, 1, 1)
        value = inputs.context.mean(dim=(1, 2)).reshape(-1, 1, 1, 1)
        x = x * (sigma**2 + 1) ** 0.5
        negatives = (value < 0).flatten().int().tolist()
        self.calls.append(
            {
                "batch": len(x),
                "hw": list(x.shape[2:]),
                "cond_or_uncond": negatives,
                "ctx_len": inputs.context.shape[1],
            }
        )
        return (x - (0.5 * x + value)) / sigma


AREA = Area(height=8, width=10, y=4, x=6)
TOP_HALF = torch.zeros(1, 32, 40)
TOP_HALF[:, :16] = 1.0

CASES: dict[str, tuple[list[Condition], list[Condition], float]] = {
    "plain cfg7": ([condition(1)], [condition(NEGATIVE)], 7.0),
    "cfg1 shortcut": ([condition(1)], [condition(NEGATIVE)], 1.0),
    "combine two positives": ([condition(1), condition(2)], [condition(NEGATIVE)], 7.0),
    "combine with strengths 1 and 3 (second via area full? no: strength only)": (
        [condition(1), condition(2, strength=3.0)],
        [condition(NEGATIVE)],
        2.0,
    ),
    "area h8 w10 y4 x6 strength 1 + base": ([condition(1), condition(2, area=AREA)], [condition(NEGATIVE)], 2.0),
    "area at corner y0 x0, strength 2, alone": (
        [condition(2, area=Area(height=8, width=10, y=0, x=0), strength=2.0)],
        [condition(NEGATIVE)],
        2.0,
    ),
    "area percentage (.5,.5,.25,.3) + base": (
        [condition(1), condition(2, area=Area(height=0.5, width=0.5, y=0.25, x=0.3, unit="fraction"))],
        [condition(NEGATIVE)],
        2.0,
    ),
    "mask top half strength 1 + base": ([condition(1), condition(2, mask=TOP_HALF)], [condition(NEGATIVE)], 2.0),
    "mask only, uncovered half": ([condition(2, mask=TOP_HALF)], [condition(NEGATIVE)], 2.0),
    "mask bounds": (
        [condition(1), condition(2, mask=TOP_HALF, mask_bounds=True)],
        [condition(NEGATIVE)],
        2.0,
    ),
    "timestep range excludes negative at sigma 5 (start .5)": (
        [condition(1)],
        [condition(NEGATIVE, start=0.5)],
        7.0,
    ),
    "timestep range both halves": (
        [condition(1, end=0.5), condition(2, start=0.5)],
        [condition(NEGATIVE)],
        7.0,
    ),
    "different lengths 77/154 (padded by repetition)": ([condition(1, tokens=154)], [condition(NEGATIVE)], 7.0),
    "different lengths 77/385 (ratio>4, separate calls)": ([condition(1, tokens=385)], [condition(NEGATIVE)], 7.0),
    "batch 2": ([condition(1)], [condition(NEGATIVE)], 7.0),
}


def test_every_case_of_the_reference_is_checked() -> None:
    assert set(CASES) == set(VECTORS)


@pytest.mark.parametrize("name", CASES)
def test_conditions_are_batched_and_joined_as_in_the_reference(name: str) -> None:
    positive, negative, cfg = CASES[name]
    batch = 2 if name == "batch 2" else 1
    x = torch.linspace(-1, 1, batch * 4 * 16 * 20).reshape(batch, 4, 16, 20)
    lists = [Conditioning(tuple(positive)), Conditioning(tuple(negative))]
    positives, negatives = prepare_conditions(lists, spec=SPEC, space=SPACE, latent=x)
    network, guidance = StubNetwork(), ClassifierFree(cfg)
    wanted = [positives, negatives if "negative" in guidance.needs else ()]
    positive, negative = estimate(network, SPACE, wanted, x, SIGMA)
    result = guidance(Estimates(x, SIGMA, {"positive": positive, "negative": negative}))

    expected = VECTORS[name]
    assert {"positive": len(positives), "negative": len(negatives)} == expected["n_conds"]
    for call in network.calls:  # the reference names each condition once, whatever the batch of latents
        call["cond_or_uncond"] = call["cond_or_uncond"][::batch]
    assert network.calls == expected["calls"]
    assert torch.allclose(result[0, 0, 0], torch.tensor(expected["ch0_row0"]), rtol=1e-6, atol=1e-6)
    assert torch.allclose(result[0, 0, 10], torch.tensor(expected["ch0_row10"]), rtol=1e-6, atol=1e-6)
    assert result.mean().item() == pytest.approx(expected["mean"], rel=1e-5)


def prepared_windows(entry: Condition, h: int = 16, w: int = 20) -> tuple[int, int, int, int] | None:
    (conditions,) = prepare_conditions([Conditioning((entry,))], spec=SPEC, space=SPACE, latent=torch.zeros(1, 4, h, w))
    return conditions[0].window


def test_an_area_is_cut_at_the_edge_of_the_latent() -> None:
    assert prepared_windows(condition(1, area=Area(height=30, width=30, y=10, x=4))) == (6, 16, 10, 4)


def test_an_area_outside_of_the_latent_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="row 16, column 0 of the latent, outside of its 16 rows and 20 columns"):
        prepared_windows(condition(1, area=Area(height=8, width=8, y=16, x=0)))


def test_the_bounds_of_an_empty_mask_are_a_small_window_without_weight() -> None:
    entry = condition(1, mask=torch.zeros(1, 16, 20), mask_bounds=True)
    (conditions,) = prepare_conditions(
        [Conditioning((entry,))], spec=SPEC, space=SPACE, latent=torch.zeros(1, 4, 16, 20)
    )
    assert conditions[0].window == (8, 8, 0, 0)
    assert conditions[0].is_weightless


def test_the_bounds_of_a_small_mask_leave_a_network_enough_to_see() -> None:
    mask = torch.zeros(1, 16, 20)
    mask[:, 4:6, 5:15] = 1.0
    assert prepared_windows(condition(1, mask=mask, mask_bounds=True)) == (8, 10, 4, 5)


def test_the_copy_for_an_area_takes_the_text_of_the_smallest_condition_around_it() -> None:
    around = condition(-2, area=Area(height=10, width=12, y=3, x=5))
    elsewhere = condition(-3, area=Area(height=8, width=8, y=0, x=12))
    lists = [Conditioning((condition(1, area=AREA),)), Conditioning((condition(-1), around, elsewhere))]
    _, negatives = prepare_conditions(lists, spec=SPEC, space=SPACE, latent=torch.zeros(1, 4, 16, 20))
    assert negatives[3].window == (8, 10, 4, 6)
    assert negatives[3].inputs.context.mean() == -2


def test_an_area_that_both_lists_have_is_not_copied() -> None:
    lists = [Conditioning((condition(1, area=AREA),)), Conditioning((condition(-1), condition(-2, area=AREA)))]
    prepared = prepare_conditions(lists, spec=SPEC, space=SPACE, latent=torch.zeros(1, 4, 16, 20))
    assert [len(conditions) for conditions in prepared] == [1, 2]


def test_text_of_another_width_is_an_error_that_names_both() -> None:
    wide = Conditioning((Condition(torch.zeros(1, 77, 3)),))
    with pytest.raises(ValueError, match="3 wide, but a sd1 network attends to 2"):
        prepare_conditions([wide], spec=SPEC, space=SPACE, latent=torch.zeros(1, 4, 16, 20))
