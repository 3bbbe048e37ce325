"""Sampling put together from parts, against KSampler, which does it in one piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from latentgraph.diffusion.model import Guider
from latentgraph.diffusion.sampling.guidance import ClassifierFree, Dual, Nested, Perpendicular
from latentgraph.diffusion.types import Latent, Sampler, Sigmas
from latentgraph.graph import Context, InvalidWorkflow, RunCancelled, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.custom_sampling import (
    AddNoise,
    BasicGuider,
    CFGGuider,
    DisableNoise,
    DualCFGGuider,
    PerpNegGuider,
    RandomNoise,
    SamplerCustom,
    SamplerCustomAdvanced,
)
from latentgraph.nodes.sampling import KSampler
from latentgraph.nodes.schedules import BasicScheduler
from latentgraph.nodes.sigmas import SplitSigmas
from latentgraph.nodes.text import TextEncode

EMPTY = Latent(torch.zeros(1, 4, 8, 8))
EULER = Sampler("euler")


@pytest.fixture(scope="module")
def prompts(sd1: Any, context: Context) -> dict[str, Any]:
    texts = {"positive": "a cat", "negative": "", "second": "a dog", "empty": ""}
    return {name: TextEncode(clip=sd1.clip, text=text).run(context) for name, text in texts.items()}


@pytest.fixture(scope="module")
def sigmas(sd1: Any) -> Sigmas:
    return BasicScheduler(model=sd1.model, steps=4).run(Context())


@pytest.fixture(scope="module")
def whole(sd1: Any, prompts: dict[str, Any]) -> torch.Tensor:
    pair = {name: prompts[name] for name in ("positive", "negative")}
    return KSampler(model=sd1.model, **pair, latent=EMPTY, seed=5, steps=4, cfg=6.0).run(Context()).samples


@pytest.fixture(scope="module")
def guider(sd1: Any, prompts: dict[str, Any]) -> Guider:
    node = CFGGuider(model=sd1.model, positive=prompts["positive"], negative=prompts["negative"], cfg=6.0)
    return node.run(Context())


def advanced(guider: Guider, sigmas: Sigmas, latent: Latent = EMPTY, seed: int | None = 5) -> Any:
    noise = (DisableNoise() if seed is None else RandomNoise(seed=seed)).run(Context())
    node = SamplerCustomAdvanced(noise=noise, guider=guider, sampler=EULER, sigmas=sigmas, latent=latent)
    return node.run(Context())


def test_the_parts_together_do_what_ksampler_does(
    sd1: Any, prompts: dict[str, Any], sigmas: Sigmas, guider: Guider, whole: torch.Tensor
) -> None:
    pair = {name: prompts[name] for name in ("positive", "negative")}
    custom = SamplerCustom(model=sd1.model, **pair, sampler=EULER, sigmas=sigmas, latent=EMPTY, seed=5, cfg=6.0)
    assert torch.equal(custom.run(Context()).latent.samples, whole)
    assert torch.equal(advanced(guider, sigmas).latent.samples, whole)


def test_two_runs_over_split_levels_are_one(sigmas: Sigmas, guider: Guider, whole: torch.Tensor) -> None:
    parts = SplitSigmas(sigmas=sigmas, step=2).run(Context())
    half = advanced(guider, parts.high)
    rest = advanced(guider, parts.low, half.latent, seed=None)
    assert torch.allclose(rest.latent.samples, whole, atol=1e-4)
    assert not torch.allclose(half.denoised.samples, half.latent.samples, atol=0.1)  # the one still has its noise


def test_noise_added_by_itself_is_the_noise_of_a_run(sd1: Any, sigmas: Sigmas, guider: Guider) -> None:
    start = Latent(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)))
    later = Sigmas(sigmas.values[1:])  # below the top, where a run would add a little more
    noisy = AddNoise(model=sd1.model, noise=RandomNoise(seed=5).run(Context()), sigmas=later, latent=start)
    apart = advanced(guider, later, noisy.run(Context()), seed=None)
    assert torch.allclose(apart.latent.samples, advanced(guider, later, start).latent.samples, atol=1e-3)


def test_no_levels_change_nothing(guider: Guider) -> None:
    assert advanced(guider, Sigmas(torch.empty(0))).latent is EMPTY


def test_every_guider_joins_the_prompts_by_its_own_rule(sd1: Any, prompts: dict[str, Any]) -> None:
    p, n, s, e = (prompts[name] for name in ("positive", "negative", "second", "empty"))
    made = [
        BasicGuider(model=sd1.model, conditioning=p),
        CFGGuider(model=sd1.model, positive=p, negative=n, cfg=3.0),
        DualCFGGuider(model=sd1.model, positive=p, second=s, negative=n, cfg=3.0, second_cfg=2.0),
        DualCFGGuider(model=sd1.model, positive=p, second=s, negative=n, cfg=3.0, second_cfg=2.0, style="nested"),
        PerpNegGuider(model=sd1.model, positive=p, negative=n, empty=e, cfg=3.0, neg_scale=0.5),
    ]
    guiders = [node.run(Context()) for node in made]
    assert [guider.rule for guider in guiders] == [
        ClassifierFree(1.0),
        ClassifierFree(3.0),
        Dual(3.0, 2.0),
        Nested(3.0, 2.0),
        Perpendicular(3.0, 0.5),
    ]
    assert [list(guider.lists) for guider in guiders] == [
        ["positive"],
        ["positive", "negative"],
        ["negative", "second", "positive"],
        ["negative", "second", "positive"],
        ["positive", "negative", "empty"],
    ]
    assert all(guider.rule.needs <= set(guider.lists) for guider in guiders)


def test_every_step_is_told_and_a_cancelled_run_stops(guider: Guider, sigmas: Sigmas, watched: Any) -> None:
    ctx = watched(cancel_at=2)
    noise = RandomNoise(seed=5).run(Context())
    node = SamplerCustomAdvanced(noise=noise, guider=guider, sampler=EULER, sigmas=sigmas, latent=EMPTY)
    with pytest.raises(RunCancelled):
        node.run(ctx)
    assert ctx.steps == [(1, 4), (2, 4)]


DOCUMENT = """
latentgraph: 1
nodes:
  load: {{type: LoadCheckpoint, file: {model}}}
  other: {{type: LoadCheckpoint, file: {other}}}
  good: {{type: TextEncode, clip: $load.clip, text: ""}}
  wrong: {{type: TextEncode, clip: $other.clip, text: ""}}
  image: {{type: EmptyLatent, width: 64, height: 64}}
  guider: {{type: CFGGuider, model: $load.model, positive: $good, negative: ${negative}}}
  noise: {{type: RandomNoise}}
  sampler: {{type: KSamplerSelect}}
  sigmas: {{type: KarrasScheduler}}
  sample:
    type: SamplerCustomAdvanced
    noise: $noise
    guider: $guider
    sampler: $sampler
    sigmas: $sigmas
    latent: $image
  last: {{type: VAEDecode, vae: ${vae}.vae, latent: $sample.latent}}
outputs: {{last: $last}}
"""


def test_what_is_known_of_a_model_goes_through_its_guider(tiny_sd1: Path, tiny_sdxl: Path) -> None:
    """A prompt and a VAE of another family are refused before a weight is read."""

    def build(negative: str, vae: str) -> None:
        text = DOCUMENT.format(model=tiny_sd1, other=tiny_sdxl, negative=negative, vae=vae)
        build_graph(parse_document(text), default_registry())

    build("good", "load")
    with pytest.raises(InvalidWorkflow, match=r"'negative' .*sdxl family \(128 numbers a token\)"):
        build("wrong", "load")
    with pytest.raises(InvalidWorkflow, match=r"'latent' .*sd1 family with 0\.18215 as its scale"):
        build("good", "other")
