"""Rules of guidance, on estimates that are the same everywhere, and on ones that are not."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.sampling.guidance import ClassifierFree, Dual, Estimates, Guidance, Nested, Perpendicular


def estimates(**values: float) -> Estimates:
    ones = torch.ones(1, 4, 2, 2)
    return Estimates(ones, torch.tensor(1.0), {name: value * ones for name, value in values.items()})  # type: ignore[misc]


def level(rule: Guidance, **values: float) -> float:
    result = rule(estimates(**values))
    assert torch.equal(result, result.flatten()[0].expand(1, 4, 2, 2))
    return result.flatten()[0].item()


def draw(seed: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_guidance_goes_from_the_negative_estimate_past_the_positive_one() -> None:
    assert level(ClassifierFree(3.0), positive=2.0, negative=1.0) == 4.0


def test_a_scale_of_1_is_the_positive_estimate_and_needs_no_negative() -> None:
    rule = ClassifierFree(1.0)
    given = estimates(positive=2.0, negative=float("nan"))
    assert rule.needs == {"positive"}
    assert torch.equal(rule(given), given.lists["positive"])


def test_a_scale_of_0_is_the_negative_estimate() -> None:
    assert ClassifierFree(0.0).needs == {"positive", "negative"}
    assert level(ClassifierFree(0.0), positive=2.0, negative=1.0) == 1.0


def test_dual_guidance_goes_on_from_the_second_estimate_to_the_positive() -> None:
    assert level(Dual(3.0, 2.0), positive=4.0, second=2.0, negative=1.0) == 1 + 2 * (2 - 1) + 3 * (4 - 2)


def test_nested_guidance_leads_from_the_negative_to_what_the_other_two_make() -> None:
    assert level(Nested(3.0, 2.0), positive=4.0, second=2.0, negative=1.0) == 1 + 2 * (2 + 3 * (4 - 2) - 1)


@pytest.mark.parametrize(
    ("rule", "needs"),
    [
        (Dual(3.0, 2.0), {"positive", "second", "negative"}),
        (Dual(3.0, 1.0), {"positive", "second"}),
        (Dual(1.0, 1.0), {"positive"}),
        (Nested(1.0, 1.0), {"positive", "second", "negative"}),
        (Perpendicular(3.0, 1.0), {"positive", "negative", "empty"}),
        (Perpendicular(3.0, 0.0), {"positive", "empty"}),
        (Perpendicular(1.0, 0.0), {"positive"}),
    ],
)
def test_a_rule_reads_no_list_that_it_does_not_need(rule: Guidance, needs: set[str]) -> None:
    values = {"positive": 4.0, "second": 2.0, "negative": 1.0, "empty": 0.5}
    given = estimates(**{name: value if name in needs else float("nan") for name, value in values.items()})
    assert rule.needs == needs
    assert torch.equal(rule(given), rule(estimates(**values)))


def test_what_the_negative_shares_with_the_positive_is_not_taken_away() -> None:
    positive, aside, empty = draw(1), draw(2), draw(3)
    direction = positive - empty
    aside = aside - (aside * direction).sum() / (direction**2).sum() * direction  # at right angles
    lists = {"positive": positive, "negative": empty + aside + 0.7 * direction, "empty": empty}
    found = Perpendicular(5.0, 2.0)(Estimates(positive, torch.tensor(1.0), lists))  # type: ignore[arg-type]
    torch.testing.assert_close(found, empty + 5.0 * (direction - 2.0 * aside))


def test_an_empty_positive_has_no_direction_and_no_parallel() -> None:
    assert level(Perpendicular(3.0), positive=1.0, negative=2.0, empty=1.0) == -2.0


RULE = ClassifierFree(7.0)


def rescaled(multiplier: float, positive: Tensor, negative: Tensor, sigma: Tensor) -> Tensor:
    x = 14.0 * draw(0)
    return RULE(Estimates(x, sigma, {"positive": positive, "negative": negative}, multiplier))


def velocity(denoised: Tensor, sigma: Tensor) -> Tensor:
    return (14.0 * draw(0) / (sigma**2 + 1) - denoised) * (sigma**2 + 1).sqrt() / sigma


def test_rescaled_guidance_has_the_spread_of_the_positive_velocity() -> None:
    positive, negative, sigma = draw(1), draw(2), torch.tensor(3.0)
    whole = velocity(rescaled(1.0, positive, negative, sigma), sigma)
    plain = velocity(RULE(Estimates(draw(0), sigma, {"positive": positive, "negative": negative})), sigma)
    spread = velocity(positive, sigma).std(dim=(1, 2, 3))
    torch.testing.assert_close(whole.std(dim=(1, 2, 3)), spread, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(
        velocity(rescaled(0.7, positive, negative, sigma), sigma), 0.7 * whole + 0.3 * plain, rtol=1e-3, atol=1e-4
    )


def test_rescaling_takes_each_item_by_itself_and_a_level_for_each() -> None:
    positive, negative, sigmas = draw(1), draw(2), torch.tensor([3.0, 0.5])
    both = rescaled(0.7, positive, negative, sigmas)
    for item, sigma in enumerate(sigmas):
        alone = rescaled(0.7, positive, negative, sigma)
        torch.testing.assert_close(both[item], alone[item], rtol=1e-5, atol=1e-5)


def test_rules_load_no_torch() -> None:
    code = "import sys, latentgraph.diffusion.sampling.guidance; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
