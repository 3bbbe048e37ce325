"""Nodes that ask something of every run with a model: what they set, and that they set it on a model of their own."""

from __future__ import annotations

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
