from __future__ import annotations

import torch

from latentgraph.diffusion.guidance import ClassifierFree, Estimates


def estimates(positive: float, negative: float) -> Estimates:
    ones = torch.ones(1, 4, 2, 2)
    return Estimates(ones, torch.tensor(1.0), positive * ones, negative * ones)


def test_guidance_goes_from_the_negative_estimate_past_the_positive_one() -> None:
    guided = ClassifierFree(3.0)(estimates(positive=2.0, negative=1.0))
    assert torch.equal(guided, torch.full((1, 4, 2, 2), 4.0))


def test_a_scale_of_1_is_the_positive_estimate_and_needs_no_negative() -> None:
    rule = ClassifierFree(1.0)
    given = estimates(positive=2.0, negative=float("nan"))
    assert not rule.needs_negative
    assert torch.equal(rule(given), given.positive)


def test_a_scale_of_0_is_the_negative_estimate() -> None:
    given = estimates(positive=2.0, negative=1.0)
    assert ClassifierFree(0.0).needs_negative
    assert torch.equal(ClassifierFree(0.0)(given), given.negative)
