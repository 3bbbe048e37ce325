"""A run as a whole: what it leaves alone, how it stops, what it reports, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.latents.batches import empty_latent, latent_from_batch
from latentgraph.diffusion.model import Guider, Model
from latentgraph.diffusion.names import SamplerName
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.precision import Precision
from latentgraph.diffusion.sampling.guidance import ClassifierFree
from latentgraph.diffusion.sampling.run import StepReport, sample, sample_guided
from latentgraph.diffusion.types import Condition, Conditioning, Latent, Noise, Sampler, Sigmas

from .passes import counted_passes


def text(seed: int, **options: Any) -> Conditioning:
    embedding = torch.randn(1, 77, 24, generator=torch.Generator().manual_seed(seed))
    return Conditioning((Condition(embedding, **options),))


POSITIVE, NEGATIVE = text(1), text(2)
OPTIONS: dict[str, Any] = {"seed": 3, "steps": 4, "cfg": 5.0, "sampler": "euler", "scheduler": "normal"}


def open_model(path: Path, precision: Precision = "exact") -> Model:
    return open_checkpoint(path, WeightMemory(precision=precision)).model


@pytest.fixture(scope="module")
def model(reference_tiny: Path) -> Model:
    return open_model(reference_tiny)


@pytest.fixture(scope="module")
def square() -> Latent:
    return empty_latent(width=64, height=64)


def run(model: Model, latent: Latent, **options: Any) -> Latent:
    return sample(model, POSITIVE, NEGATIVE, latent, **OPTIONS | options)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m_sde"])
def test_a_run_leaves_torchs_random_state_and_settings_alone(model: Model, square: Latent, sampler: str) -> None:
    def settings() -> tuple[object, ...]:
        return torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    random, before = torch.get_rng_state(), settings()
    run(model, square, sampler=sampler)
    assert torch.equal(torch.get_rng_state(), random)
    assert settings() == before


def test_the_random_state_of_the_process_changes_nothing(model: Model, square: Latent) -> None:
    first = run(model, square, sampler="euler_ancestral")
    torch.rand(5)
    assert torch.equal(run(model, square, sampler="euler_ancestral").samples, first.samples)


def test_a_run_stops_at_the_step_at_which_its_watcher_raises(model: Model, square: Latent) -> None:
    class CancelledError(Exception):
        pass

    def cancel(report: StepReport) -> None:
        if report.step == 2:
            raise CancelledError

    with counted_passes(model) as passes, pytest.raises(CancelledError):
        run(model, square, on_step=cancel)
    assert len(passes) == 2


@pytest.mark.parametrize(("sampler", "steps"), [("euler", 4), ("heun", 3), ("uni_pc", 4)])
def test_each_step_is_reported_once(model: Model, square: Latent, sampler: str, steps: int) -> None:
    reports: list[StepReport] = []
    run(model, square, sampler=sampler, steps=steps, on_step=reports.append)
    assert [(report.step, report.total) for report in reports] == [(n, steps) for n in range(1, steps + 1)]


def test_a_report_carries_a_small_picture(model: Model) -> None:
    reports: list[StepReport] = []
    run(model, empty_latent(width=64, height=96, batch_size=2), on_step=reports.append)
    picture = reports[0].preview(item=1)
    assert (picture.shape, picture.dtype) == ((12, 8, 3), torch.uint8)
    assert picture.float().std() > 1


def test_what_a_masked_run_reports_keeps_the_original_outside_of_the_mask(model: Model) -> None:
    source = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1.0
    reports: list[StepReport] = []
    result = run(model, Latent(source, noise_mask=mask), on_step=reports.append)
    assert torch.allclose(reports[0].denoised[..., :4], source[..., :4] * 0.18215)
    assert torch.allclose(result.samples[..., :4], source[..., :4], atol=1e-5)
    assert not torch.allclose(result.samples[..., 4:], source[..., 4:], atol=0.1)


def test_watching_a_run_does_not_change_it(model: Model, square: Latent) -> None:
    watched = run(model, square, on_step=lambda report: None)
    assert torch.equal(watched.samples, run(model, square).samples)


def test_guidance_of_1_evaluates_the_positive_conditions_alone(model: Model, square: Latent) -> None:
    with counted_passes(model) as passes:
        run(model, square, cfg=1.0)
    assert passes == [1] * 4


def test_positive_and_negative_share_a_pass_unless_it_grows_too_large(model: Model, square: Latent) -> None:
    with counted_passes(model) as together:
        whole = run(model, square)
    with counted_passes(model) as apart:
        split = run(model, square, max_batch=1)
    assert (together, apart) == ([2] * 4, [1] * 8)
    assert torch.allclose(split.samples, whole.samples, rtol=0.0, atol=0.01 * whole.samples.abs().max().item())


def test_weightless_conditions_cost_nothing_unless_bits_are_compared(reference_tiny: Path, square: Latent) -> None:
    both = Conditioning((*POSITIVE.entries, *text(9, strength=0.0).entries))
    passes = {}
    for precision in ("auto", "exact"):
        model = open_model(reference_tiny, precision)  # type: ignore[arg-type]
        with counted_passes(model) as passes[precision]:
            sample(model, both, NEGATIVE, square, **OPTIONS | {"steps": 1})
    assert passes == {"auto": [2], "exact": [3]}


def test_an_item_of_a_batch_can_be_made_again_alone(model: Model) -> None:
    batch = empty_latent(width=64, height=64, batch_size=3)
    alone = run(model, latent_from_batch(batch, 2))
    together = run(model, batch).samples[2:]
    assert alone.batch_index == (2,)
    assert torch.allclose(alone.samples, together, rtol=0.0, atol=0.01 * together.abs().max().item())


def test_an_empty_latent_takes_the_channels_of_the_model(model: Model, square: Latent) -> None:
    assert torch.equal(run(model, Latent(torch.zeros(1, 16, 8, 8))).samples, run(model, square).samples)


def test_a_latent_of_another_family_is_an_error_that_names_both_counts(model: Model) -> None:
    with pytest.raises(ValueError, match="16 channels, but the model denoises 4"):
        run(model, Latent(torch.ones(1, 16, 8, 8)))


@pytest.mark.parametrize("nothing", [{"denoise": 0.0}, {"start_at_step": 4}, {"start_at_step": 3, "end_at_step": 3}])
def test_a_run_without_a_step_returns_the_latent_as_it_is(model: Model, nothing: dict[str, Any]) -> None:
    latent = Latent(torch.ones(1, 4, 8, 8))
    assert run(model, latent, **nothing) is latent


def test_the_result_keeps_the_mask_and_the_draws_of_its_latent(model: Model, square: Latent) -> None:
    given = replace(square, noise_mask=torch.ones(1, 1, 64, 64), batch_index=(3,))
    result = run(model, given)
    assert result.noise_mask is given.noise_mask
    assert result.batch_index == (3,)


def test_neither_latent_nor_conditions_are_written_to(model: Model) -> None:
    latent = Latent(torch.ones(1, 4, 8, 8), noise_mask=torch.full((1, 1, 8, 8), 0.5))
    kept = [POSITIVE.entries[0].embedding, latent.samples, latent.noise_mask]
    copies = [tensor.clone() for tensor in kept if tensor is not None]
    run(model, latent, sampler="uni_pc")
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True) if a is not None)


def test_the_layout_of_a_latent_in_memory_moves_no_bit(model: Model) -> None:
    samples = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    other = samples.to(memory_format=torch.channels_last)
    results: list[Tensor] = [run(model, Latent(x), denoise=0.6).samples for x in (samples, other)]
    assert torch.equal(*results)


@pytest.mark.parametrize("precision", ["auto", "exact"])
def test_an_sdxl_model_is_sampled(tiny_sdxl: Path, precision: Precision, square: Latent) -> None:
    embedding = torch.randn(1, 77, 128, generator=torch.Generator().manual_seed(1))
    conditions = Conditioning((Condition(embedding, pooled=embedding[:, 0, :64]),))
    result = sample(open_model(tiny_sdxl, precision), conditions, conditions, square, **OPTIONS)
    assert (result.samples.shape, result.samples.dtype) == ((1, 4, 8, 8), torch.float32)
    assert result.samples.isfinite().all()


def test_a_v_network_is_read_as_one(tiny_sd2_v: Path, square: Latent) -> None:
    model = open_model(tiny_sd2_v)
    conditions = Conditioning((Condition(torch.zeros(1, 77, 64)),))
    v = sample(model, conditions, conditions, square, **OPTIONS)
    eps_model = replace(model, spec=replace(model.spec, prediction="eps"))
    eps = sample(eps_model, conditions, conditions, square, **OPTIONS)
    assert v.samples.std() < eps.samples.std() / 2  # the skip connection of v holds x down


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_3m_sde", "lms", "deis", "er_sde", "sa_solver", "uni_pc"])
def test_a_level_given_twice_in_a_row_counts_once(model: Model, sampler: SamplerName) -> None:
    guider = Guider(model, {"positive": POSITIVE, "negative": NEGATIVE}, ClassifierFree(1.0))
    latent = Latent(torch.zeros(1, 4, 8, 8))
    once, twice = (
        sample_guided(guider, latent, noise=Noise(1), sampler=Sampler(sampler), sigmas=Sigmas(torch.tensor(levels)))
        for levels in ([5.0, 4.0, 3.0, 0.0], [5.0, 4.0, 4.0, 3.0, 0.0])
    )
    assert torch.equal(once.latent.samples, twice.latent.samples)
