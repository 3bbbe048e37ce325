"""The denoiser by itself: levels that differ within a batch, batches that must not grow, and diffusers' own network."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.levels.space import discrete_space
from latentgraph.diffusion.sampling.conditioning import PreparedCondition, Window
from latentgraph.diffusion.sampling.denoiser import estimate
from latentgraph.diffusion.sampling.network_inputs import NetworkInputs

SPACE = discrete_space()


@dataclass
class PointwiseNetwork:
    """Every output depends on its own cell, its timestep and its context, but on no other item of the batch."""

    batches: list[int] = field(default_factory=list)

    def __call__(self, x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
        self.batches.append(len(x))
        return x * (timestep / 1000).reshape(-1, 1, 1, 1) + inputs.context.mean(dim=(1, 2)).reshape(-1, 1, 1, 1)


def prepared(value: float, **options: object) -> PreparedCondition:
    fields = {"window": None, "weight": 1.0, "sigma_start": 1e9, "sigma_end": 0.0} | options
    return PreparedCondition(inputs=NetworkInputs(torch.full((1, 7, 2), value)), **fields)  # type: ignore[arg-type]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_each_item_may_have_a_noise_level_of_its_own(x: Tensor) -> None:
    lists = [[prepared(1.0)], [prepared(-1.0)]]
    sigmas = torch.tensor([10.0, 1.0, 0.1])
    together = estimate(PointwiseNetwork(), SPACE, lists, x, sigmas)
    for item, sigma in enumerate(sigmas):
        alone = estimate(PointwiseNetwork(), SPACE, lists, x[item : item + 1], sigma)
        for a, b in zip(together, alone, strict=True):
            assert torch.allclose(a[item : item + 1], b, rtol=1e-6, atol=1e-6)


def test_a_condition_holds_for_those_items_whose_level_it_covers(x: Tensor) -> None:
    early, late = prepared(1.0, sigma_end=2.0), prepared(3.0, sigma_start=2.0)
    sigmas = torch.tensor([10.0, 1.0, 0.1])
    (mixed,) = estimate(PointwiseNetwork(), SPACE, [[early, late]], x, sigmas)
    (noisy,) = estimate(PointwiseNetwork(), SPACE, [[early]], x[:1], sigmas[0])
    (clean,) = estimate(PointwiseNetwork(), SPACE, [[late]], x[2:], sigmas[2])
    assert torch.allclose(mixed[:1], noisy, atol=1e-6)
    assert torch.allclose(mixed[2:], clean, atol=1e-6)


def test_both_ends_of_a_range_of_levels_belong_to_it(x: Tensor) -> None:
    condition = prepared(1.0, sigma_start=5.0, sigma_end=2.0)
    calls = []
    for sigma in (5.1, 5.0, 2.0, 1.9):
        network = PointwiseNetwork()
        estimate(network, SPACE, [[condition]], x, torch.tensor(sigma))
        calls.append(len(network.batches))
    assert calls == [0, 1, 1, 0]


def test_no_condition_at_all_gives_zeros(x: Tensor) -> None:
    (nothing,) = estimate(PointwiseNetwork(), SPACE, [[]], x, torch.tensor(1.0))
    assert torch.equal(nothing, torch.zeros_like(x))


def test_a_lone_estimate_passes_unchanged(x: Tensor) -> None:
    sigma = torch.tensor(1.0)
    (mean,) = estimate(PointwiseNetwork(), SPACE, [[prepared(1.0)]], x, sigma)
    output = PointwiseNetwork()(
        SPACE.scale_input(x, sigma), SPACE.timestep(sigma).expand(3), NetworkInputs(torch.ones(1, 7, 2))
    )
    assert torch.equal(mean, SPACE.denoised(x, output, sigma))


@pytest.mark.parametrize(
    ("max_batch", "batches"), [(None, [12]), (12, [12]), (11, [6, 6]), (3, [3, 3, 3, 3]), (1, [3] * 4)]
)
def test_the_size_of_a_pass_is_limited_by_max_batch_and_does_not_change_the_result(
    x: Tensor, max_batch: int | None, batches: list[int]
) -> None:
    lists = [[prepared(1.0), prepared(2.0), prepared(3.0)], [prepared(-1.0)]]
    network = PointwiseNetwork()
    limited = estimate(network, SPACE, lists, x, torch.tensor(2.0), max_batch=max_batch)
    whole = estimate(PointwiseNetwork(), SPACE, lists, x, torch.tensor(2.0))
    assert network.batches == batches
    for a, b in zip(limited, whole, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_extra_channels_are_cut_to_the_window_like_the_latent(x: Tensor) -> None:
    seen = []

    def network(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
        seen.append(inputs.concat)
        return x

    concat = torch.arange(64.0).reshape(1, 1, 8, 8)
    condition = PreparedCondition(NetworkInputs(torch.zeros(1, 7, 2), concat=concat), Window(2, 3, 4, 5), 1.0, 1e9, 0.0)
    estimate(network, SPACE, [[condition]], x, torch.tensor(1.0))
    assert torch.equal(seen[0], concat[..., 4:6, 5:8].expand(3, 1, 2, 3))
