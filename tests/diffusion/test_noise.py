"""Noise against ComfyUI's draws, and independence from the global generator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.samplers.noise import NoiseSource, initial_noise, inpaint_noise

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "noise.json").read_text())
SHAPE = (1, 4, 8, 8)
LEVELS = torch.tensor(VECTORS["brownian karras5 seed0: sigmas"])


def source(seed: int = 0) -> NoiseSource:
    return NoiseSource(torch.zeros(SHAPE), LEVELS, seed)


def first(noise: Tensor, count: int) -> list[float]:
    return noise.flatten()[:count].tolist()


def same(expected: list[float]) -> Any:
    return pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("seed", [0, 1, 42, 2**64 - 1, 123456789012345])
def test_initial_noise_is_comfyuis(seed: int) -> None:
    expected = VECTORS[f"prepare_noise seed={seed} shape=1x4x8x8"]["first8"]
    assert first(initial_noise(SHAPE, seed), 8) == same(expected)


def test_initial_noise_of_sixteen_channels_is_comfyuis() -> None:
    assert first(initial_noise((1, 16, 8, 8), 0), 8) == same(VECTORS["seed0 1x16x8x8 first8"])


def test_each_item_of_a_batch_has_its_own_noise() -> None:
    noise = initial_noise((3, 4, 8, 8), 0)
    for item, expected in zip(noise, VECTORS["batch3 seed0 per item first4"], strict=True):
        assert first(item, 4) == same(expected)


@pytest.mark.parametrize("index", [(1, 2), (2, 0), (0, 0), (3, 3)])
def test_a_batch_index_picks_items_of_the_seeds_batch(index: tuple[int, int]) -> None:
    noise = initial_noise((2, 4, 8, 8), 0, index)
    for item, expected in zip(noise, VECTORS[f"batch_index {list(index)} seed0 per item first4"], strict=True):
        assert first(item, 4) == same(expected)


def test_an_item_drawn_alone_equals_the_same_item_of_a_batch() -> None:
    assert torch.equal(initial_noise(SHAPE, 5, [2])[0], initial_noise((3, 4, 8, 8), 5)[2])


def test_a_batch_index_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_index has 1 entries for 2 latents"):
        initial_noise((2, 4, 8, 8), 0, [1])


def test_step_noise_is_comfyuis() -> None:
    noise = source()
    for expected in VECTORS["default_noise_sampler seed=0 cpu, draws 1..3, first4"]:
        assert first(noise.normal(), 4) == same(expected)


def test_inpaint_noise_is_comfyuis() -> None:
    assert first(inpaint_noise(SHAPE, 0), 4) == same(VECTORS["ddim inpaint noise seed=0 (manual_seed(1)) first4"])


def test_brownian_noise_along_a_schedule_is_comfyuis() -> None:
    noise = source()
    expected = VECTORS["brownian karras5 seed0: noise(s[i],s[i+1]) first4, i=0..3"]
    for s, t, values in zip(LEVELS, LEVELS[1:], expected, strict=False):
        assert first(noise.brownian(s, t), 4) == same(values)


def test_brownian_noise_to_a_level_between_is_comfyuis() -> None:
    noise = source()
    between, whole = VECTORS["brownian: noise(s0,mid), noise(s0,s1) first4 (mid=sqrt(s0*s1))"]
    assert first(noise.brownian(LEVELS[0], (LEVELS[0] * LEVELS[1]).sqrt()), 4) == same(between)
    assert first(noise.brownian(LEVELS[0], LEVELS[1]), 4) == same(whole)


def test_brownian_increments_add_up_whatever_the_order_of_asking() -> None:
    s, m, t = LEVELS[1], torch.tensor(3.0), LEVELS[2]
    noise = source()
    parts = noise.brownian(m, t) * (m - t).sqrt() + noise.brownian(s, m) * (s - m).sqrt()
    torch.testing.assert_close(parts, source().brownian(s, t) * (s - t).sqrt(), rtol=1e-5, atol=1e-5)


def test_a_run_back_to_noise_walks_the_same_path() -> None:
    down, up = source().brownian(LEVELS[1], LEVELS[2]), source().brownian(LEVELS[2], LEVELS[1])
    assert torch.equal(down, -up)


def test_the_last_seed_works_with_every_kind_of_noise() -> None:
    noise = source(2**64 - 1)
    assert torch.equal(noise.normal(), initial_noise(SHAPE, 0))  # seed + 1 wraps to 0
    assert noise.brownian(LEVELS[0], LEVELS[1]).isfinite().all()


def test_no_draw_touches_the_global_generator() -> None:
    before = torch.get_rng_state()
    noise = source()
    initial_noise(SHAPE, 1)
    noise.normal()
    noise.brownian(LEVELS[0], LEVELS[1])
    assert torch.equal(torch.get_rng_state(), before)
