"""Steps taken from earlier ones: how many an error affords, and that pictures keep the floor that was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import latentgraph.models
from latentgraph.diffusion.checkpoints.opening import Checkpoint, open_checkpoint
from latentgraph.diffusion.latents.autoencoder import decode
from latentgraph.diffusion.latents.batches import empty_latent
from latentgraph.diffusion.levels.space import discrete_space
from latentgraph.diffusion.names import SamplerName, ScheduleName
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.shallow import Depth
from latentgraph.diffusion.pictures.differences import SAME, psnr
from latentgraph.diffusion.samplers.problem import Answer, Query
from latentgraph.diffusion.sampling.run import sample
from latentgraph.diffusion.sampling.step_cache import GAIN, MAX_AGE, PICTURE_GAIN, StepCache
from latentgraph.diffusion.types import Conditioning, Image
from latentgraph.graph import Context
from latentgraph.nodes.text import TextEncode

LEVELS = torch.linspace(2.0, 0.0, 21)


def shallow_steps(error: float, quality: float, *, levels: Tensor = LEVELS, beside: int = 0) -> list[int]:
    """The steps that are answered shallowly where a shallow estimate is wrong by `error` times its age.

    beside: how many pictures of the batch are estimated without any error.
    """
    depth, age, taken = Depth(), 0, []
    passes: list[tuple[int, bool]] = []

    def denoise(query: Query) -> Answer:
        nonlocal age
        passes.append((query.step, depth.shallow))
        wrong = error * (age + 1) if depth.shallow else 0.0
        estimate = torch.zeros_like(query.x)
        estimate[0] = wrong
        return Answer(estimate, estimate)

    cache = StepCache(quality, sigmas=levels, space=discrete_space(), depth=depth)
    answer = cache.wrap(denoise)
    x = torch.zeros(1 + beside, 4, 2, 2)
    for step in range(len(levels) - 1):
        given = answer(Query(x, levels[step], step)).denoised
        shallow = bool(given.any()) or passes[-1][1]
        age = age + 1 if shallow else 0
        if shallow:
            taken.append(step)
    return taken


def test_steps_without_an_error_are_shallow_for_as_long_as_is_known() -> None:
    taken = shallow_steps(0.0, 30.0)
    assert taken[0] == 2  # one full step, and one to compare with
    assert not any(set(range(step, step + MAX_AGE + 1)) <= set(taken) for step in taken)
    assert len(taken) > 10


def test_an_error_that_no_floor_allows_leaves_every_step_full() -> None:
    assert shallow_steps(1.0, 40.0) == []


def test_a_lower_floor_affords_more_steps() -> None:
    counts = [len(shallow_steps(0.05, quality)) for quality in (20.0, 30.0, 40.0, 50.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] == 0


def test_the_worst_picture_of_a_batch_says_which_steps_are_shallow() -> None:
    alone = shallow_steps(0.05, 25.0)
    assert 0 < len(alone) < len(shallow_steps(0.0, 25.0))
    assert shallow_steps(0.05, 25.0, beside=7) == alone


@pytest.mark.parametrize("quality", [20.0, 25.0, 30.0])
def test_the_errors_of_all_shallow_steps_stay_within_the_floor(quality: float) -> None:
    error, ages, last = 0.05, [], -1
    for step in shallow_steps(error, quality):
        ages.append(ages[-1] + 1 if step == last + 1 and ages else 1)
        last = step
    allowed = (10 ** (-quality / 20) / PICTURE_GAIN) ** 2
    spent = 0.0
    for step, age in zip(shallow_steps(error, quality), ages, strict=True):
        s, t = LEVELS[step].item(), LEVELS[step + 1].item()
        spent += (GAIN * error * age * (1 - t / s) / (1 + s * s) ** 0.5) ** 2
    assert 0 < spent <= allowed


@pytest.fixture(scope="module")
def emoji() -> Checkpoint:
    path = Path(latentgraph.models.__file__).parent / "emoji.safetensors"
    return open_checkpoint(path, WeightMemory(precision="auto"))


def prompt(emoji: Checkpoint, text: str) -> Conditioning:
    encoded = TextEncode(clip=emoji.clip, text=text).run(Context())
    assert isinstance(encoded, Conditioning)
    return encoded


@pytest.mark.parametrize(
    ("quality", "sampler", "scheduler"),
    [(25.0, "euler", "normal"), (30.0, "dpmpp_2m", "karras"), (25.0, "euler_ancestral", "normal")],
)
def test_pictures_keep_the_floor_against_the_run_without_cache(
    emoji: Checkpoint, quality: float, sampler: SamplerName, scheduler: ScheduleName
) -> None:
    negative = prompt(emoji, "")
    assert emoji.vae is not None
    values = []
    for seed, text in enumerate(("a red apple", "octopus", "smiling face with sunglasses")):
        pictures: list[Image] = []
        for floor in (None, quality):
            model = replace(emoji.model, options=replace(emoji.model.options, quality=floor))
            latent = sample(
                model,
                prompt(emoji, text),
                negative,
                empty_latent(width=64, height=64),
                seed=seed,
                steps=16,
                cfg=5.0,
                sampler=sampler,
                scheduler=scheduler,
            )
            pictures.append(decode(emoji.vae, latent))
        values.append(psnr(*pictures))
    assert min(values) >= quality
    assert min(values) < SAME  # some steps were shallow
