"""Nodes that ask something of every run with a model: what they set, and that they set it on a model of their own."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from latentgraph.diffusion.levels.space_spec import (
    ContinuousLevels,
    DiscreteLevels,
    FlowLevels,
    FluxLevels,
    SpaceSpec,
    flux_shift,
)
from latentgraph.diffusion.levels.tables import make_table
from latentgraph.diffusion.sampling.options import Downscale, SamplingOptions, TokenMerging
from latentgraph.diffusion.sampling.options import FreeU as FreeUSetting
from latentgraph.graph import Context
from latentgraph.nodes.model_options import (
    CompileModel,
    DeepShrink,
    DifferentialDiffusion,
    FreeU,
    FreeUAdaptive,
    MergeTokens,
    ModelSamplingAuraFlow,
    ModelSamplingContinuousEDM,
    ModelSamplingContinuousV,
    ModelSamplingDiscrete,
    ModelSamplingFlux,
    ModelSamplingSD3,
    StepCache,
)

CASES: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    (ModelSamplingDiscrete, {"zsnr": True}, {"space": SpaceSpec("eps", DiscreteLevels(zero_terminal_snr=True))}),
    (ModelSamplingDiscrete, {"sampling": "lcm"}, {"space": SpaceSpec("lcm", DiscreteLevels(stride=20))}),
    (ModelSamplingContinuousEDM, {}, {"space": SpaceSpec("v_prediction", ContinuousLevels())}),
    (ModelSamplingContinuousEDM, {"sampling": "edm"}, {"space": SpaceSpec("edm", ContinuousLevels(), 0.5)}),
    (
        ModelSamplingContinuousV,
        {},
        {"space": SpaceSpec("v_prediction", ContinuousLevels(0.03, 500.0, time="arctan"))},
    ),
    (ModelSamplingSD3, {}, {"space": SpaceSpec("flow", FlowLevels())}),
    (ModelSamplingAuraFlow, {}, {"space": SpaceSpec("flow", FlowLevels(1.73, 1.0))}),
    (ModelSamplingFlux, {}, {"space": SpaceSpec("flow", FluxLevels(flux_shift(width=1024, height=1024)))}),
    (FreeU, {}, {"changes": (FreeUSetting(1.1, 1.2, 0.9, 0.2),)}),
    (FreeUAdaptive, {}, {"changes": (FreeUSetting(1.3, 1.4, 0.9, 0.2, adaptive=True),)}),
    (
        DeepShrink,
        {"block": 4, "grow": "area"},
        {"changes": (Downscale(4, 2.0, 0.0, 0.35, after_skip=True, shrink="bicubic", grow="area"),)},
    ),
    (MergeTokens, {}, {"changes": (TokenMerging(0.3),)}),
    (StepCache, {"quality": 33}, {"quality": 33.0}),
    (CompileModel, {}, {"compiled": True}),
    (DifferentialDiffusion, {}, {"gradual_mask": 1.0}),
]


@pytest.mark.parametrize(("node", "inputs", "options"), CASES)
def test_a_node_sets_its_option_on_a_model_of_its_own(
    sd1: Any, node: Any, inputs: dict[str, Any], options: dict[str, Any]
) -> None:
    changed = node(model=sd1.model, **inputs).run(Context())
    assert changed.options == SamplingOptions(**options)
    assert changed.weights is sd1.model.weights
    assert sd1.model.options == SamplingOptions()


def test_options_add_up(sd1: Any) -> None:
    model = sd1.model
    for node in (FreeU, FreeUAdaptive, DifferentialDiffusion, ModelSamplingSD3):
        model = node(model=model).run(Context())
    assert len(model.options.changes) == 2
    assert model.options.gradual_mask == 1.0
    assert model.options.space == SpaceSpec("flow", FlowLevels())


@pytest.mark.parametrize(
    ("node", "warning"),
    [
        (FreeU, r"^this UNet has no blocks 2 or 4 times as wide as its first, 32, so FreeU changes nothing$"),
        (FreeUAdaptive, r"FreeU changes nothing$"),
        (MergeTokens, r"^this UNet attends to nothing at full size, so no places are merged$"),
    ],
)
def test_a_node_that_finds_nothing_to_change_says_so(sd1: Any, node: Any, warning: str, watched: type[Any]) -> None:
    network = replace(sd1.model.spec.network, widths=(32, 96), depths_in=((0,), (1,)), depths_out=((1, 1), (0, 0)))
    told = {}
    for name, spec in (("odd", replace(sd1.model.spec, network=network)), ("usual", sd1.model.spec)):
        context = watched()
        node(model=replace(sd1.model, spec=spec)).run(context)
        told[name] = context.warnings
    assert len(told["odd"]) == 1
    assert re.search(warning, told["odd"][0])
    assert told["usual"] == []


def test_flux_levels_of_the_largest_pictures_are_all_noise() -> None:
    sigmas = make_table(FluxLevels(flux_shift(width=16384, height=16384, max_shift=100.0))).sigmas
    assert sigmas.isfinite().all()
    assert sigmas[0] == 1
