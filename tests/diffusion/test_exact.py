"""`exact` gives the same bits whatever else runs, whoever else uses the weights, and however much memory is free."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import Checkpoint, open_checkpoint
from latentgraph.diffusion.latents.autoencoder import decode
from latentgraph.diffusion.latents.batches import empty_latent
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.sampling.run import sample
from latentgraph.diffusion.types import Condition, Conditioning, Latent

GIB = 1 << 30


def text(seed: int) -> Conditioning:
    return Conditioning((Condition(torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(seed))),))


def latent_of(checkpoint: Checkpoint, seed: int = 3, **options: Any) -> Latent:
    options = {"steps": 3, "cfg": 5.0, "sampler": "dpmpp_2m", "scheduler": "karras"} | options
    return sample(checkpoint.model, text(1), text(2), empty_latent(width=64, height=96), seed=seed, **options)


def picture_of(checkpoint: Checkpoint, notices: list[str]) -> Tensor:
    assert checkpoint.vae is not None
    return decode(checkpoint.vae, latent_of(checkpoint), on_notice=notices.append).pixels


@pytest.fixture(scope="module")
def alone(tiny_sd1: Path) -> Tensor:
    """The picture on an idle machine with plenty of memory."""
    return picture_of(open_checkpoint(tiny_sd1, WeightMemory(precision="exact")), [])


@contextmanager
def others_at_work(*checkpoints: Checkpoint) -> Iterator[None]:
    """Other runs, with guidance of another kind and other batches, in threads of their own."""
    stop, failures = threading.Event(), []

    def work(checkpoint: Checkpoint, seed: int) -> None:
        try:
            while not stop.is_set():
                latent_of(checkpoint, seed, cfg=1.0 + seed, sampler="euler_ancestral")
        except Exception as error:  # noqa: BLE001 - raised by the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(each, seed)) for seed, each in enumerate(checkpoints)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_other_runs_on_the_same_weights_and_in_other_precisions_leave_the_bits_alone(
    tiny_sd1: Path, alone: Tensor
) -> None:
    exact, auto = (open_checkpoint(tiny_sd1, WeightMemory(precision=precision)) for precision in ("exact", "auto"))
    with others_at_work(exact, auto):
        for _ in range(3):
            assert torch.equal(picture_of(exact, []), alone)


def test_a_budget_that_holds_one_network_at_a_time_leaves_the_bits_alone(tiny_sd1: Path, alone: Tensor) -> None:
    parts = open_checkpoint(tiny_sd1, WeightMemory(precision="exact"))
    assert parts.vae is not None
    policy = parts.model.weights.memory.policy
    largest = max(handle.weights.source.size(policy) for handle in (parts.model, parts.vae))
    memory = WeightMemory(precision="exact", budget_bytes=largest)
    again = open_checkpoint(tiny_sd1, memory)
    for _ in range(2):  # the second time each network has made room for the other before
        assert torch.equal(picture_of(again, []), alone)
        assert memory.resident_bytes <= largest


def test_a_picture_that_would_not_fit_is_never_made_in_tiles(tiny_sd1: Path, alone: Tensor) -> None:
    pictures, notices = {}, {}
    for precision in ("exact", "auto"):
        free = [GIB]
        memory = WeightMemory(budget_bytes=GIB, precision=precision, free_bytes=lambda _, free=free: free[0])  # type: ignore[misc,arg-type]
        checkpoint = open_checkpoint(tiny_sd1, memory)
        assert checkpoint.vae is not None
        with checkpoint.model.weights.use(), checkpoint.vae.weights.use():
            free[0] = 1000  # weights are in memory, and now others take the rest
            notices[precision] = []
            pictures[precision] = picture_of(checkpoint, notices[precision])
    assert torch.equal(pictures["exact"], alone)
    assert notices["exact"] == []
    assert "in tiles" in notices["auto"][0]  # which shows that it would not have fitted


def test_a_step_cache_of_another_run_leaves_the_bits_alone(tiny_sd1: Path, alone: Tensor) -> None:
    exact = open_checkpoint(tiny_sd1, WeightMemory(precision="exact"))
    cached = replace(exact.model, options=replace(exact.model.options, quality=15.0))
    latent_of(replace(exact, model=cached))
    assert torch.equal(picture_of(exact, []), alone)
