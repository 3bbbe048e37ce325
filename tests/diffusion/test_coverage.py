"""A prompt that leaves out a part of a run or of the picture is told of, and one that leaves out nothing is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.model import Guider, Model
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.sampling.guidance import ClassifierFree
from latentgraph.diffusion.sampling.run import sample_guided
from latentgraph.diffusion.types import Area, Condition, Conditioning, Latent, Noise, Sampler, Sigmas

TEXT = torch.ones(1, 77, 24)
LEFT, RIGHT = Area(16, 8, 0, 0), Area(16, 8, 0, 8)
CURE = (
    "its estimate is 0 there, which spoils the picture: combine it with one that holds there, too (ConditioningCombine)"
)


def of(*options: dict[str, Any]) -> Conditioning:
    return Conditioning(tuple(Condition(TEXT, **each) for each in options))


ALL = of({})


@pytest.fixture(scope="module")
def model(reference_tiny: Path) -> Model:
    return open_checkpoint(reference_tiny, WeightMemory(precision="exact")).model


def notices(model: Model, positive: Conditioning, negative: Conditioning = ALL, *, cfg: float = 2.0) -> list[str]:
    told: list[str] = []
    sample_guided(
        Guider(model, {"positive": positive, "negative": negative}, ClassifierFree(cfg)),
        Latent(torch.zeros(1, 4, 16, 16)),
        noise=Noise(1),
        sampler=Sampler("euler"),
        sigmas=Sigmas(torch.tensor([14.0, 5.0, 1.0, 0.0])),
        on_notice=told.append,
    )
    return told


@pytest.mark.parametrize(
    "positive",
    [
        ALL,
        of({"area": LEFT}, {"area": RIGHT}),
        of({"area": LEFT}, {}),
        of({"end": 0.5}, {"start": 0.5}),
        of({"mask": torch.full((1, 8, 8), 0.01)}),
        of({"area": LEFT, "start": 0.5}, {}),
    ],
)
def test_prompts_that_leave_nothing_out_are_not_talked_of(model: Model, positive: Conditioning) -> None:
    assert notices(model, positive) == []


def test_steps_at_which_a_prompt_does_not_hold_are_told(model: Model) -> None:
    assert notices(model, of({"end": 0.1})) == [
        f"the positive prompt holds nowhere at 2 steps, 2 the first of them, of 3; {CURE}"
    ]
    assert notices(model, of({"end": 0.1}, {"start": 0.6})) == [
        f"the positive prompt holds nowhere at step 2 of 3; {CURE}"
    ]


def test_a_prompt_without_weight_holds_nowhere(model: Model) -> None:
    expected = [f"the positive prompt holds nowhere at 3 steps, 1 the first of them, of 3; {CURE}"]
    assert notices(model, of({"strength": 0.0})) == expected
    assert notices(model, of({"mask": torch.zeros(1, 8, 8)})) == expected


def test_a_part_of_the_picture_without_a_prompt_is_told(model: Model) -> None:
    assert notices(model, of({"area": LEFT})) == [
        f"the positive prompt holds in 50 % of the picture alone at step 1 of 3, and nothing in the rest; {CURE}"
    ]
    late = notices(model, of({"area": LEFT}, {"area": RIGHT, "end": 0.1}))
    assert late == [
        f"the positive prompt holds in 50 % of the picture alone at step 2 of 3, and nothing in the rest; {CURE}"
    ]


def test_nearly_all_of_a_picture_is_not_called_all_of_it(model: Model) -> None:
    almost = torch.ones(1, 16, 16)
    almost[0, 0, 0] = 0.0
    assert notices(model, of({"mask": almost}))[0].startswith("the positive prompt holds in 99 % of the picture")


def test_a_negative_prompt_counts_where_it_is_needed(model: Model) -> None:
    negative = of({"start": 0.6})
    assert notices(model, ALL, negative, cfg=1.0) == []
    assert notices(model, ALL, negative) == [
        f"the negative prompt holds nowhere at 2 steps, 1 the first of them, of 3; {CURE}"
    ]
