"""A guider's lists, rule and options, on a tiny network: what they evaluate, and what they change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.latents.batches import empty_latent
from latentgraph.diffusion.levels.space_spec import DiscreteLevels, SpaceSpec
from latentgraph.diffusion.model import Guider, Model
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.sampling.corrections import gaussian_blur
from latentgraph.diffusion.sampling.guidance import ClassifierFree, Dual, Guidance, ListName, Perpendicular
from latentgraph.diffusion.sampling.options import FreeU, SamplingOptions, SelfAttentionGuidance
from latentgraph.diffusion.sampling.run import Sampled, sample_guided
from latentgraph.diffusion.types import Condition, Conditioning, Latent, Noise, Sampler, Sigmas

from .passes import counted_passes

LEVELS = Sigmas(torch.tensor([14.6146, 5.0, 1.5, 0.4, 0.0]))
EMPTY = empty_latent(width=128, height=64)


def text(seed: int) -> Conditioning:
    return Conditioning((Condition(torch.randn(1, 77, 24, generator=torch.Generator().manual_seed(seed))),))


LISTS: dict[ListName, Conditioning] = {"positive": text(1), "second": text(2), "negative": text(3), "empty": text(4)}


@pytest.fixture(scope="module")
def model(reference_tiny: Path) -> Model:
    return open_checkpoint(reference_tiny, WeightMemory(precision="exact")).model


def run(
    model: Model,
    rule: Guidance = ClassifierFree(5.0),  # noqa: B008 - frozen
    *lists: ListName,
    latent: Latent = EMPTY,
    noise: Noise = Noise(3),  # noqa: B008 - frozen
    sampler: Sampler = Sampler("euler"),  # noqa: B008 - frozen
    **options: Any,
) -> Sampled:
    given: Mapping[ListName, Conditioning] = {name: LISTS[name] for name in lists or ("positive", "negative")}
    guider = Guider(replace(model, options=SamplingOptions(**options)), given, rule)
    return sample_guided(guider, latent, noise=noise, sampler=sampler, sigmas=LEVELS)


def far_apart(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-4 * a.abs().max())


def test_all_lists_that_a_rule_needs_go_through_the_network_together(model: Model) -> None:
    with counted_passes(model) as passes:
        run(model, Dual(5.0, 2.0), "negative", "second", "positive")
        run(model, Perpendicular(5.0), "positive", "negative", "empty")
        run(model, ClassifierFree(1.0))
        run(model, ClassifierFree(1.0), "positive")
    assert passes == [3] * 8 + [1] * 8


def test_cfg_plus_plus_evaluates_the_negative_at_any_scale(model: Model) -> None:
    with counted_passes(model) as passes:
        one = run(model, ClassifierFree(1.0), sampler=Sampler("euler_cfg_pp"))
        run(model, ClassifierFree(1.0), "positive", sampler=Sampler("euler_cfg_pp"))
    assert passes == [2] * 4 + [1] * 4
    assert far_apart(one.latent.samples, run(model, ClassifierFree(1.0)).latent.samples)


def test_options_reach_the_sampler(model: Model) -> None:
    still = run(model, sampler=Sampler("euler_ancestral", (("eta", 0.0),)))
    torch.testing.assert_close(still.latent.samples, run(model).latent.samples, rtol=1e-4, atol=1e-3)
    assert far_apart(run(model, sampler=Sampler("euler_ancestral")).latent.samples, still.latent.samples)


def test_an_option_that_a_sampler_does_not_have_is_an_error(model: Model) -> None:
    with pytest.raises(TypeError, match="eta"):
        run(model, sampler=Sampler("euler", (("eta", 1.0),)))


def test_the_last_estimate_is_given_too(model: Model) -> None:
    whole = run(model)
    torch.testing.assert_close(whole.denoised.samples, whole.latent.samples, rtol=1e-4, atol=1e-3)
    guider = Guider(model, {"positive": LISTS["positive"], "negative": LISTS["negative"]}, ClassifierFree(5.0))
    half = sample_guided(guider, EMPTY, noise=Noise(3), sampler=Sampler("euler"), sigmas=Sigmas(LEVELS.values[:3]))
    assert far_apart(half.latent.samples, half.denoised.samples)  # the one still has its noise


def test_no_levels_are_no_run(model: Model) -> None:
    guider = Guider(model, {"positive": LISTS["positive"]}, ClassifierFree(1.0))
    result = sample_guided(guider, EMPTY, noise=Noise(3), sampler=Sampler("euler"), sigmas=Sigmas(torch.empty(0)))
    assert result.latent is EMPTY


def test_silent_noise_starts_from_the_latent_as_it_is(model: Model) -> None:
    latent = Latent(torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(5)))
    silent = [run(model, latent=latent, noise=Noise(seed, silent=True)).latent.samples for seed in (1, 2)]
    assert torch.equal(*silent)
    assert far_apart(silent[0], run(model, latent=latent).latent.samples)


@pytest.mark.parametrize(
    "options",
    [
        {"rescale": 0.7},
        {"changes": (FreeU(1.3, 1.4, 0.9, 0.2, adaptive=True),)},
        {"corrections": (SelfAttentionGuidance(scale=2.0),)},
        {"space": SpaceSpec("v_prediction", DiscreteLevels())},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_a_model_asks_of_a_run_changes_it_and_nothing_else(model: Model, options: dict[str, Any]) -> None:
    before = run(model).latent.samples
    assert far_apart(run(model, **options).latent.samples, before)
    assert torch.equal(run(model).latent.samples, before)


def test_a_gradual_mask_changes_a_masked_run_alone(model: Model) -> None:
    soft = Latent(
        torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(5)),
        noise_mask=torch.linspace(0, 1, 128).reshape(1, 1, 1, 128).repeat(1, 1, 64, 1),
    )
    assert far_apart(run(model, latent=soft, gradual_mask=1.0).latent.samples, run(model, latent=soft).latent.samples)
    assert torch.equal(run(model, gradual_mask=1.0).latent.samples, run(model).latent.samples)


def test_self_attention_guidance_costs_a_second_pass_and_nothing_at_a_scale_of_0(model: Model) -> None:
    none = run(model, corrections=(SelfAttentionGuidance(scale=0.0),))
    assert torch.equal(none.latent.samples, run(model).latent.samples)
    unblurred = run(model, corrections=(SelfAttentionGuidance(blur_sigma=0.0),))
    torch.testing.assert_close(unblurred.latent.samples, none.latent.samples, rtol=1e-3, atol=1e-2)


def test_self_attention_guidance_needs_a_negative(model: Model) -> None:
    with pytest.raises(ValueError, match="use a guider with a negative"):
        run(model, ClassifierFree(1.0), "positive", corrections=(SelfAttentionGuidance(),))


def test_self_attention_guidance_leaves_latents_alone_that_are_too_small_to_blur(model: Model) -> None:
    small = empty_latent(width=128, height=32)
    settings = (SelfAttentionGuidance(scale=2.0),)
    assert torch.equal(
        run(model, latent=small, corrections=settings).latent.samples, run(model, latent=small).latent.samples
    )


def test_a_blur_keeps_what_is_flat_and_the_sum_of_a_spot() -> None:
    flat = torch.full((1, 2, 9, 9), 3.0)
    torch.testing.assert_close(gaussian_blur(flat, 2.0), flat)
    spot = torch.zeros(1, 1, 17, 17)
    spot[..., 8, 8] = 1.0
    blurred = gaussian_blur(spot, 1.0)
    assert blurred.sum().item() == pytest.approx(1.0)
    assert (blurred[0, 0, 8, 9] / blurred[0, 0, 8, 8]).item() == pytest.approx(2.718281828**-0.5)
