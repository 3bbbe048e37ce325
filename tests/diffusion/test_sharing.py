"""What passes through a UNet share: less work, and the same results as the plain network's but for rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.latents.batches import empty_latent
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.patches import shared_copy
from latentgraph.diffusion.networks.precision import Precision
from latentgraph.diffusion.networks.sharing import share_work
from latentgraph.diffusion.sampling.calls import Network, unet_network
from latentgraph.diffusion.sampling.network_inputs import NetworkInputs
from latentgraph.diffusion.sampling.run import sample
from latentgraph.diffusion.types import Condition, Conditioning

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_unet(path: Path) -> Any:
    """The UNet of a file in float32, with torch's own attention."""
    with open_checkpoint(path, WeightMemory(precision="exact")).model.weights.use() as unet:
        copy = shared_copy(unet)
    copy.set_attn_processor(AttnProcessor2_0())
    return copy


def sharing_network(unet: Any) -> Network:
    copy = shared_copy(unet)
    return unet_network(copy, share_work(copy))


def batch(items: int, texts: int, *, pooled: int | None = None, width: int = 64, seed: int = 0) -> NetworkInputs:
    """Inputs for `items` latents, each with every one of `texts` texts."""
    n = items * texts
    return NetworkInputs(
        context=draw(seed + 1, n, 7, width),
        pooled=None if pooled is None else draw(seed + 2, n, pooled),
        sizes=None if pooled is None else torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(n, 1),
        repeats=texts,
    )


@pytest.mark.parametrize(("items", "texts"), [(1, 1), (1, 2), (2, 3)])
def test_a_network_that_shares_answers_as_the_plain_one(tiny_sd1: Path, items: int, texts: int) -> None:
    unet = plain_unet(tiny_sd1)
    plain, sharing = unet_network(unet), sharing_network(unet)
    inputs = batch(items, texts)
    with torch.inference_mode():
        for seed in (3, 4):  # the second pass finds keys and values made
            x = draw(seed, items, 4, 8, 16).repeat(texts, 1, 1, 1)
            level = torch.tensor(100.0 * seed).expand(items * texts)
            torch.testing.assert_close(sharing(x, level, inputs), plain(x, level, inputs), **CLOSE)


def test_levels_that_differ_within_a_batch_stay_apart(tiny_sd1: Path) -> None:
    unet = plain_unet(tiny_sd1)
    x, levels = draw(3, 2, 4, 8, 8).repeat(2, 1, 1, 1), torch.tensor([900.0, 20.0]).repeat(2)
    with torch.inference_mode():
        shared = sharing_network(unet)(x, levels, batch(2, 2))
        torch.testing.assert_close(shared, unet_network(unet)(x, levels, batch(2, 2)), **CLOSE)


def test_sizes_and_pooled_text_are_embedded_once_and_kept_apart(tiny_sdxl: Path) -> None:
    unet = plain_unet(tiny_sdxl)
    plain = unet_network(unet)
    x, level = draw(3, 1, 4, 8, 8).repeat(2, 1, 1, 1), torch.tensor(300.0).expand(2)
    given = [batch(1, 2, pooled=64, width=128, seed=seed) for seed in (0, 10)]
    with counted(unet.add_embedding) as calls, torch.inference_mode():
        sharing = sharing_network(unet)
        answers = [sharing(x, level, inputs) for inputs in (*given, *given)]
    assert len(calls) == 2
    with torch.inference_mode():
        for answer, inputs in zip(answers, (*given, *given), strict=True):
            torch.testing.assert_close(answer, plain(x, level, inputs), **CLOSE)


@contextmanager
def counted(module: Any) -> Iterator[list[int]]:
    """The batch of every call of a module, and of its copies that are made meanwhile."""
    sizes: list[int] = []
    hook = module.register_forward_pre_hook(_Count(sizes))
    try:
        yield sizes
    finally:
        hook.remove()


class _Count:
    """A hook that copies of a module have in common."""

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = sizes

    def __call__(self, _: Any, arguments: tuple[Tensor, ...]) -> None:
        self._sizes.append(len(arguments[0]))

    def __deepcopy__(self, _: Any) -> _Count:
        return self


def four_steps(model: Model) -> Tensor:
    positive, negative = (Conditioning((Condition(draw(seed, 1, 77, 64)),)) for seed in (1, 2))
    latent = empty_latent(width=64, height=64)
    return sample(
        model, positive, negative, latent, seed=3, steps=4, cfg=5.0, sampler="euler", scheduler="normal"
    ).samples


@pytest.mark.parametrize(("precision", "texts", "rows"), [("auto", 1, 1), ("exact", 4, 2)])
def test_a_run_makes_keys_once_and_its_first_convolution_for_one(
    tiny_sd1: Path, precision: Precision, texts: int, rows: int
) -> None:
    model = open_checkpoint(tiny_sd1, WeightMemory(precision=precision)).model
    with model.weights.use() as unet:
        keys = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k
        attention = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
        with counted(keys) as made, counted(attention) as attended, counted(unet.time_embedding.linear_1) as levels:
            four_steps(model)
    assert made == [2] * texts
    assert attended == [rows] * 4
    assert levels == [rows] * 4


def test_runs_in_auto_repeat_themselves(tiny_sd1: Path) -> None:
    model = open_checkpoint(tiny_sd1, WeightMemory(precision="auto")).model
    assert torch.equal(four_steps(model), four_steps(model))
