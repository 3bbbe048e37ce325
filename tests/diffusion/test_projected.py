"""Adaptive projected guidance, against the paper's formula and diffusers' own code for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.latents.batches import empty_latent
from latentgraph.diffusion.model import Guider, Model
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.sampling.guidance import ClassifierFree, Estimates
from latentgraph.diffusion.sampling.options import ProjectedGuidance, SamplingOptions
from latentgraph.diffusion.sampling.projected import Projected, projected
from latentgraph.diffusion.sampling.run import sample_guided
from latentgraph.diffusion.types import Condition, Conditioning, Noise, Sampler, Sigmas

SCALE = 4.0


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def estimates(seed: int = 1, sigma: float = 1.5) -> Estimates:
    positive, negative, x = (draw(3 * seed + n, 2, 4, 3, 5) for n in range(3))
    return Estimates(x, torch.tensor(sigma), {"positive": positive, "negative": negative})


def corrected(correct: Projected, given: Estimates) -> Tensor:
    """What is made of plain guidance."""
    return correct(ClassifierFree(SCALE)(given), given)


def direction(given: Estimates) -> Tensor:
    return given.lists["positive"] - given.lists["negative"]


def test_guidance_is_parted_into_what_lies_along_the_positive_estimate_and_across() -> None:
    given = estimates()
    towards, positive = direction(given), given.lists["positive"]
    across = projected(towards, positive, eta=0.0, norm_threshold=0.0)
    for item in range(2):
        assert (across[item] * positive[item]).sum().item() == pytest.approx(0.0, abs=1e-4)
        share = (towards[item] * positive[item]).sum() / (positive[item] ** 2).sum()
        torch.testing.assert_close(across[item], towards[item] - share * positive[item])
        doubled = projected(towards, positive, eta=2.0, norm_threshold=0.0)[item]
        torch.testing.assert_close(doubled, towards[item] + share * positive[item])
    torch.testing.assert_close(projected(towards, positive, eta=1.0, norm_threshold=0.0), towards)


def test_guidance_is_no_longer_than_its_limit_item_by_item() -> None:
    positive = draw(1, 2, 4, 3, 3)
    towards = torch.stack([draw(2, 4, 3, 3), 0.01 * draw(3, 4, 3, 3)])
    limited = projected(towards, positive, eta=1.0, norm_threshold=2.5)
    assert limited[0].norm().item() == pytest.approx(2.5, rel=1e-5)
    torch.testing.assert_close(limited[1], towards[1])
    nothing = torch.zeros_like(positive)
    assert torch.equal(projected(nothing, nothing, eta=0.5, norm_threshold=2.5), nothing)


@pytest.mark.parametrize(
    ("eta", "threshold", "momentum"), [(0.0, 0.0, 0.0), (0.5, 5.0, 0.0), (0.0, 2.5, -0.5), (1.0, 0.0, 0.75)]
)
def test_the_steps_of_a_run_are_those_of_the_paper(eta: float, threshold: float, momentum: float) -> None:
    correct = Projected(ProjectedGuidance(eta, threshold, momentum), SCALE)
    buffer = MomentumBuffer(momentum)
    for step, sigma in enumerate((5.0, 2.0, 0.5)):
        given = estimates(step, sigma)
        positive, negative = given.lists["positive"], given.lists["negative"]
        wanted = normalized_guidance(positive, negative, SCALE, buffer, eta, threshold, use_original_formulation=True)
        torch.testing.assert_close(corrected(correct, given), wanted, rtol=1e-4, atol=1e-5)


def test_earlier_steps_are_forgotten_where_the_noise_rises() -> None:
    setting = ProjectedGuidance(0.0, 0.0, -0.5)
    again = Projected(setting, SCALE)
    corrected(again, estimates(1, 2.0))
    fresh = corrected(Projected(setting, SCALE), estimates(2, 5.0))
    assert torch.equal(corrected(again, estimates(2, 5.0)), fresh)
    assert not torch.allclose(
        corrected(again, estimates(3, 2.0)), corrected(Projected(setting, SCALE), estimates(3, 2.0))
    )


def test_a_query_that_is_asked_again_counts_once() -> None:
    setting = ProjectedGuidance(0.0, 0.0, -0.5)
    once, twice = Projected(setting, SCALE), Projected(setting, SCALE)
    first, second = estimates(1, 2.0), estimates(2, 1.0)
    corrected(once, first)
    for _ in range(2):
        corrected(twice, first)
    assert torch.equal(corrected(twice, second), corrected(once, second))
    assert torch.equal(corrected(twice, second), corrected(twice, second))


def test_without_guidance_nothing_is_changed() -> None:
    given = estimates()
    plain = Projected(ProjectedGuidance(0.0), 1.0)
    assert plain.needs == frozenset()
    assert plain(given.x, given) is given.x
    alone = Estimates(given.x, given.sigma, {"positive": given.lists["positive"]})
    assert Projected(ProjectedGuidance(0.0), SCALE)(given.x, alone) is given.x


@pytest.fixture(scope="module")
def model(reference_tiny: Path) -> Model:
    return open_checkpoint(reference_tiny, WeightMemory(precision="exact")).model


def sampled(model: Model, scale: float, *corrections: ProjectedGuidance, sampler: str = "euler") -> Tensor:
    texts = {name: Conditioning((Condition(draw(n, 1, 77, 24)),)) for n, name in enumerate(("positive", "negative"))}
    asked = Model(model.spec, model.weights, SamplingOptions(corrections=corrections))
    guider = Guider(asked, texts, ClassifierFree(scale))  # type: ignore[arg-type]
    levels = Sigmas(torch.tensor([14.6146, 5.0, 1.5, 0.0]))
    with torch.inference_mode():
        return sample_guided(
            guider, empty_latent(width=64, height=64), noise=Noise(3), sampler=Sampler(sampler), sigmas=levels  # type: ignore[arg-type]
        ).latent.samples  # fmt: skip


def test_a_run_without_limit_is_one_of_plain_guidance_by_1_more(model: Model) -> None:
    torch.testing.assert_close(
        sampled(model, 3.0, ProjectedGuidance(1.0, 0.0)), sampled(model, 4.0), rtol=1e-4, atol=1e-4
    )


def test_no_run_hands_its_average_to_another(model: Model) -> None:
    setting = ProjectedGuidance(0.0, 2.0, -0.5)
    assert torch.equal(sampled(model, 4.0, setting), sampled(model, 4.0, setting))
    assert not torch.allclose(sampled(model, 4.0, setting), sampled(model, 4.0, ProjectedGuidance(0.0, 2.0)), atol=1e-4)


def test_a_run_without_guidance_stays_as_it_is(model: Model) -> None:
    for sampler in ("euler", "euler_cfg_pp"):
        given = sampled(model, 1.0, ProjectedGuidance(0.0), sampler=sampler)
        assert torch.equal(given, sampled(model, 1.0, sampler=sampler))
