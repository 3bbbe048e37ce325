"""What is done to a guided estimate: the arithmetic, the networks that are made worse on purpose, and what can't be asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.latents.batches import empty_latent
from latentgraph.diffusion.levels.space import discrete_space
from latentgraph.diffusion.model import Guider, Model
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.patches import perturb_self_attention, shared_copy
from latentgraph.diffusion.sampling import corrections
from latentgraph.diffusion.sampling.conditioning import PreparedCondition
from latentgraph.diffusion.sampling.corrections import limit_norm, make_correction, zero_star
from latentgraph.diffusion.sampling.guidance import ClassifierFree, Estimates, Perpendicular
from latentgraph.diffusion.sampling.network_inputs import NetworkInputs
from latentgraph.diffusion.sampling.options import (
    Correction,
    NormLimit,
    PerpNeg,
    PerturbedAttentionGuidance,
    ProjectedGuidance,
    SamplingOptions,
    SelfAttentionGuidance,
    SkipLayerGuidance,
    ZeroStar,
)
from latentgraph.diffusion.sampling.passes import Passes, Setting
from latentgraph.diffusion.sampling.run import sample_guided
from latentgraph.diffusion.types import Condition, Conditioning, Noise, Sampler, Sigmas

SIGMA = torch.tensor(1.5)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def estimates(items: int = 2) -> Estimates:
    lists = {"positive": draw(1, items, 4, 3, 3), "negative": draw(2, items, 4, 3, 3)}
    return Estimates(draw(3, items, 4, 3, 3), SIGMA, lists)  # type: ignore[arg-type]


def condition(context: Tensor, **inputs: Any) -> PreparedCondition:
    return PreparedCondition(NetworkInputs(context, **inputs), None, 1.0, 1e9, 0.0)


@pytest.fixture(scope="module")
def model(reference_tiny: Path) -> Model:
    return open_checkpoint(reference_tiny, WeightMemory(precision="exact")).model


@pytest.fixture(scope="module")
def passes(model: Model) -> Passes:
    lists = {name: (condition(draw(n, 1, 77, 24)),) for n, name in enumerate(("positive", "negative"))}
    with model.weights.use() as unet:
        return Passes(Setting(unet, "unet", discrete_space(), lists))  # type: ignore[arg-type]


def sampled(model: Model, rule: Any = ClassifierFree(4.0), *, empty: bool = False, **options: Any) -> Tensor:  # noqa: B008
    texts = {
        name: Conditioning((Condition(draw(n, 1, 77, 24)),)) for n, name in enumerate(("positive", "negative", "empty"))
    }
    if not empty:
        del texts["empty"]
    guider = Guider(replace(model, options=SamplingOptions(**options)), texts, rule)  # type: ignore[arg-type]
    levels = Sigmas(torch.tensor([14.6146, 5.0, 1.5, 0.0]))
    latent = empty_latent(width=128, height=128)
    with torch.inference_mode():
        return sample_guided(guider, latent, noise=Noise(3), sampler=Sampler("euler"), sigmas=levels).latent.samples


def test_zero_star_guides_from_the_negative_estimate_scaled_to_the_positive_one_item_by_item() -> None:
    given, scale = estimates(), 3.0
    positive, negative = given.lists["positive"], given.lists["negative"]
    guided = negative + scale * (positive - negative)
    result = zero_star(guided, given, scale)
    for item in range(2):
        towards, away = (given.x[item] - each[item] for each in (positive, negative))
        alpha = (towards * away).sum() / (away**2).sum()
        scaled = alpha * negative[item]
        torch.testing.assert_close(result[item], scaled + scale * (positive[item] - scaled))


def test_zero_star_changes_nothing_without_guidance() -> None:
    given = estimates()
    torch.testing.assert_close(zero_star(given.lists["positive"], given, 1.0), given.lists["positive"])


def test_a_limited_norm_is_nowhere_above_that_of_the_positive_estimate() -> None:
    given = estimates()
    positive = given.lists["positive"]
    torch.testing.assert_close(limit_norm(3.0 * positive, given, 1.0), positive)
    torch.testing.assert_close(limit_norm(0.5 * positive, given, 2.0), positive)  # shorter: left alone, then multiplied


def test_perturbed_attention_lets_the_middle_see_each_place_by_itself(model: Model) -> None:
    with model.weights.use() as unet:
        copy = shared_copy(unet)
    perturb_self_attention(copy)
    attention = copy.mid_block.attentions[0].transformer_blocks[0].attn1
    x = draw(5, 2, 6, attention.to_q.in_features)
    with torch.inference_mode():
        torch.testing.assert_close(attention(x), attention.to_out[0](attention.to_v(x)))
        assert not torch.allclose(attention(x), unet.mid_block.attentions[0].transformer_blocks[0].attn1(x))


def test_perturbed_attention_steers_away_from_what_the_perturbed_network_estimates(passes: Passes) -> None:
    x = draw(6, 1, 4, 16, 16)
    with torch.inference_mode():
        found = passes.estimate({"positive", "negative"}, x, SIGMA)
        worse = passes.changed(perturb_self_attention).estimate({"positive"}, x, SIGMA)["positive"]
        correct = make_correction(PerturbedAttentionGuidance(2.0), passes, scale=4.0)
        result = correct(found["negative"], Estimates(x, SIGMA, found))
    torch.testing.assert_close(result, found["negative"] + 2.0 * (found["positive"] - worse))
    assert not torch.allclose(worse, found["positive"], atol=1e-4)


@pytest.mark.parametrize(
    "correction",
    [PerturbedAttentionGuidance(), SelfAttentionGuidance(), ZeroStar(), NormLimit(), ProjectedGuidance(0.0)],
    ids=lambda correction: type(correction).__name__,
)
def test_a_correction_changes_a_run_and_the_order_counts(model: Model, correction: Correction) -> None:
    plain = sampled(model)
    assert not torch.allclose(sampled(model, corrections=(correction,)), plain, atol=1e-3)
    halved = NormLimit(0.5)
    first, last = (sampled(model, corrections=both) for both in ((halved, correction), (correction, halved)))
    if correction != NormLimit():
        assert not torch.allclose(first, last, atol=1e-3)
    assert torch.equal(sampled(model), plain)


def test_perturbed_attention_of_scale_0_costs_no_pass(passes: Passes) -> None:
    given = estimates(1)
    correct = make_correction(PerturbedAttentionGuidance(0.0), passes, scale=1.0)
    assert correct(given.x, given) is given.x


def test_plain_guidance_becomes_perp_neg(model: Model) -> None:
    empty = Conditioning((Condition(draw(2, 1, 77, 24)),))
    patched = sampled(model, perp_neg=PerpNeg(empty, 0.7))
    assert torch.equal(patched, sampled(model, Perpendicular(4.0, 0.7), empty=True))
    assert torch.equal(sampled(model, Perpendicular(4.0), empty=True, perp_neg=PerpNeg(empty, 0.7)),
                       sampled(model, Perpendicular(4.0), empty=True))  # fmt: skip


@pytest.mark.parametrize(("kind", "skipped"), [("SD3", {"double": (1,)}), ("FLUX", {"double": (0,), "single": (1,)})])
def test_skipped_blocks_of_a_transformer_are_passed_by(
    tiny_dits: ModuleType, kind: str, skipped: dict[str, tuple[int, ...]]
) -> None:
    spec = tiny_dits.SPECS[kind]
    transformer = tiny_dits.network(spec)
    lists = {"positive": (condition(draw(1, 1, 7, spec.context_width), pooled=draw(2, 1, spec.pooled_width)),)}
    if getattr(spec, "guidance", False):
        lists = {"positive": (condition(draw(1, 1, 7, spec.context_width), pooled=draw(2, 1, spec.pooled_width),
                                        guidance=torch.full((1,), 3.5)),)}  # fmt: skip
    passes = Passes(Setting(transformer, spec.kind, discrete_space(), lists))  # type: ignore[arg-type]
    x = draw(3, 1, spec.in_channels, 8, 8)
    setting = SkipLayerGuidance(**skipped, scale=2.0, start=0.0, end=1.0)
    calls: list[str] = []
    blocks = {"double": transformer.transformer_blocks, "single": getattr(transformer, "single_transformer_blocks", ())}
    with torch.inference_mode():
        found = passes.estimate({"positive"}, x, SIGMA)
        correct = make_correction(setting, passes, scale=1.0)
        guided = correct(found["positive"], Estimates(x, SIGMA, found))
        for name, numbers in skipped.items():  # what the network is without these blocks
            for number in numbers:
                blocks[name][number].forward = lambda hidden_states, encoder_hidden_states, **_: (
                    calls.append("passed") or encoder_hidden_states,
                    hidden_states,
                )
        worse = passes.estimate({"positive"}, x, SIGMA)["positive"]
    assert len(calls) == sum(map(len, skipped.values()))
    torch.testing.assert_close(guided, 3.0 * found["positive"] - 2.0 * worse)


def test_layers_are_skipped_within_their_part_of_a_run_alone(tiny_dits: ModuleType) -> None:
    spec = tiny_dits.SPECS["SD3"]
    lists = {"positive": (condition(draw(1, 1, 7, spec.context_width), pooled=draw(2, 1, spec.pooled_width)),)}
    passes = Passes(Setting(tiny_dits.network(spec), "mmdit", discrete_space(), lists))  # type: ignore[arg-type]
    correct = make_correction(SkipLayerGuidance((0,), start=0.1, end=0.2), passes, scale=1.0)
    given = Estimates(draw(3, 1, 16, 8, 8), torch.tensor(0.1), {"positive": draw(4, 1, 16, 8, 8)})
    assert correct(given.x, given) is given.x


def test_what_a_network_can_not_have_is_refused(passes: Passes, tiny_dits: ModuleType) -> None:
    with pytest.raises(ValueError, match="leaves out blocks of a transformer, and this network is a UNet"):
        make_correction(SkipLayerGuidance((1,)), passes, scale=1.0)
    transformer = Passes(Setting(tiny_dits.network(tiny_dits.SPECS["SD3"]), "mmdit", discrete_space(), {}))
    for correction in (PerturbedAttentionGuidance(), SelfAttentionGuidance()):
        with pytest.raises(ValueError, match="changes how a UNet with text works, and this network is a transformer"):
            make_correction(correction, transformer, scale=1.0)


def test_a_rescaled_correction_has_the_spread_of_the_positive_estimate(tiny_dits: ModuleType) -> None:
    spec = tiny_dits.SPECS["SD3"]
    lists = {"positive": (condition(draw(1, 1, 7, spec.context_width), pooled=draw(2, 1, spec.pooled_width)),)}
    passes = Passes(Setting(tiny_dits.network(spec), "mmdit", discrete_space(), lists))  # type: ignore[arg-type]
    given = Estimates(draw(3, 1, 16, 8, 8), SIGMA, {"positive": draw(4, 1, 16, 8, 8)})
    spreads = []
    for rescaling in (0.0, 0.5, 1.0):
        setting = SkipLayerGuidance((0,), scale=9.0, start=0.0, end=1.0, rescaling=rescaling)
        with torch.inference_mode():
            spreads.append(make_correction(setting, passes, scale=1.0)(given.lists["positive"], given).std().item())
    wanted = given.lists["positive"].std().item()
    assert spreads[2] == pytest.approx(wanted, rel=1e-5)
    assert spreads[1] == pytest.approx((spreads[0] + wanted) / 2, rel=1e-5)
    assert abs(spreads[0] - wanted) > 0.1


def test_self_attention_guidance_blurs_what_gets_more_than_its_share_of_attention(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = {name: (condition(draw(n, 1, 77, 24)),) for n, name in enumerate(("positive", "negative"))}
    with model.weights.use() as unet:
        passes = Passes(Setting(shared_copy(unet), "unet", discrete_space(), lists))  # type: ignore[arg-type]
        attend: list[Any] = []
        monkeypatch.setattr(Passes, "observe", lambda _, change, before: attend.extend((change, before)))
        remembered: list[Any] = []
        monkeypatch.setattr(corrections, "record_self_attention", lambda _, remember: remembered.append(remember))
        correct = make_correction(SelfAttentionGuidance(1.0, 2.0), passes, scale=4.0)
    change, before_pass = attend
    change(unet)
    before_pass((passes.number_of("negative"),))
    places = torch.tensor([0.4, 0.2, 0.2, 0.2])  # what each of the 2 x 2 places in the middle attends to
    remembered[0](places.expand(1, 8, 4, 4))
    seen: list[Tensor] = []
    monkeypatch.setattr(Passes, "estimate", lambda _, needs, x, sigma: seen.append(x) or {"negative": x})
    x = draw(7, 1, 4, 16, 16)
    correct(x, Estimates(x, SIGMA, {"positive": x, "negative": x}))
    expected = x.clone()
    expected[..., :8, :8] = corrections.gaussian_blur(x, 2.0)[..., :8, :8]
    torch.testing.assert_close(seen[0], expected)
