"""KSampler, which covers ComfyUI's KSampler and KSamplerAdvanced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from latentgraph.diffusion.types import Image, Latent, Mask
from latentgraph.graph import Context, RunCancelled
from latentgraph.nodes.loading import LoadCheckpoint
from latentgraph.nodes.picture_conditions import InpaintConditioning
from latentgraph.nodes.sampling import KSampler
from latentgraph.nodes.text import TextEncode

EMPTY = Latent(torch.zeros(1, 4, 8, 8))


@pytest.fixture(scope="module")
def inputs(sd1: Any, context: Context) -> dict[str, Any]:
    positive = TextEncode(clip=sd1.clip, text="a cat").run(context)
    negative = TextEncode(clip=sd1.clip, text="").run(context)
    return {"model": sd1.model, "positive": positive, "negative": negative, "latent": EMPTY, "seed": 5, "steps": 4}


def samples(node: KSampler) -> torch.Tensor:
    return node.run(Context()).samples


def test_a_seed_gives_one_result_and_another_seed_another(inputs: dict[str, Any]) -> None:
    first = samples(KSampler(**inputs))
    assert first.shape == EMPTY.samples.shape
    assert torch.equal(first, samples(KSampler(**inputs)))
    assert not torch.equal(first, samples(KSampler(**{**inputs, "seed": 6})))


@pytest.mark.parametrize("change", [{"cfg": 1.0}, {"sampler": "dpmpp_2m"}, {"scheduler": "karras"}, {"denoise": 0.5}])
def test_each_setting_changes_the_result(inputs: dict[str, Any], change: dict[str, Any]) -> None:
    assert not torch.equal(samples(KSampler(**inputs)), samples(KSampler(**inputs, **change)))


def test_two_halves_of_a_schedule_make_the_whole(inputs: dict[str, Any]) -> None:
    half = KSampler(**inputs, end_at_step=2, leftover_noise=True).run(Context())
    rest = KSampler(**{**inputs, "latent": half}, start_at_step=2, add_noise=False)
    assert torch.allclose(samples(rest), samples(KSampler(**inputs)), atol=1e-4)


def test_a_denoise_of_0_changes_nothing(inputs: dict[str, Any]) -> None:
    assert torch.equal(samples(KSampler(**inputs, denoise=0.0)), EMPTY.samples)


def test_a_network_that_was_trained_to_inpaint_is_shown_mask_and_picture(
    tiny_sd1_inpaint: Path, context: Context
) -> None:
    loaded = LoadCheckpoint(file=tiny_sd1_inpaint).run(context)
    text = TextEncode(clip=loaded.clip, text="a cat").run(context)
    picture, mask = Image(torch.rand(1, 64, 64, 3)), Mask(torch.ones(1, 64, 64))
    inputs = {"positive": text, "negative": text, "vae": loaded.vae, "mask": mask, "noise_mask": False}

    def painted(image: Image) -> torch.Tensor:
        made = InpaintConditioning(**inputs, image=image).run(context)
        sampler = KSampler(
            model=loaded.model, positive=made.positive, negative=made.negative, latent=EMPTY, steps=2, seed=1
        )
        return samples(sampler)

    hidden = painted(picture)
    assert torch.equal(hidden, painted(Image(1.0 - picture.pixels)))  # everything is under the mask
    mask.values[:, :, :32] = 0.0
    assert not torch.equal(painted(picture), painted(Image(1.0 - picture.pixels)))


def test_every_step_is_told_with_a_preview(inputs: dict[str, Any], watched: Any) -> None:
    ctx = watched()
    KSampler(**inputs).run(ctx)
    assert ctx.steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {(preview.dtype, tuple(preview.shape)) for preview in ctx.previews} == {(torch.uint8, (8, 8, 3))}


def test_a_cancelled_run_stops_at_the_next_step(inputs: dict[str, Any], watched: Any) -> None:
    ctx = watched(cancel_at=2)
    with pytest.raises(RunCancelled):
        KSampler(**inputs).run(ctx)
    assert ctx.steps == [(1, 4), (2, 4)]
