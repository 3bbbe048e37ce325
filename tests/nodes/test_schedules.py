"""Nodes of noise levels, by ComfyUI's own results for their defaults, and how they hang together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from latentgraph.diffusion.types import Sigmas
from latentgraph.graph import Context, FolderResolver, InvalidWorkflow, Node, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.model_options import ModelSamplingDiscrete, ModelSamplingSD3
from latentgraph.nodes.schedules import (
    AlignYourStepsScheduler,
    BasicScheduler,
    BetaSamplingScheduler,
    ExponentialScheduler,
    KarrasScheduler,
    LaplaceScheduler,
    ManualSigmas,
    PolyexponentialScheduler,
    SamplingPercentToSigma,
    SDTurboScheduler,
    VPScheduler,
)
from latentgraph.nodes.sigmas import (
    ExtendIntermediateSigmas,
    FlipSigmas,
    SetFirstSigma,
    SplitSigmas,
    SplitSigmasDenoise,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "sigmas.json").read_text())

NODES: dict[str, Callable[[Any], Node]] = {
    "KarrasScheduler(10)": lambda model: KarrasScheduler(steps=10),
    "ExponentialScheduler(10)": lambda model: ExponentialScheduler(steps=10),
    "PolyexponentialScheduler(10,rho=1)": lambda model: PolyexponentialScheduler(steps=10),
    "PolyexponentialScheduler(10,rho=2)": lambda model: PolyexponentialScheduler(steps=10, rho=2.0),
    "LaplaceScheduler(10)": lambda model: LaplaceScheduler(steps=10),
    "VPScheduler(10)": lambda model: VPScheduler(steps=10),
    "SDTurboScheduler(1,1.0)": lambda model: SDTurboScheduler(model=model),
    "SDTurboScheduler(4,1.0)": lambda model: SDTurboScheduler(model=model, steps=4),
    "SDTurboScheduler(3,0.5)": lambda model: SDTurboScheduler(model=model, steps=3, denoise=0.5),
    "AlignYourStepsScheduler(SD1,10,1.0)": lambda model: AlignYourStepsScheduler(),
    "AlignYourStepsScheduler(SDXL,10,1.0)": lambda model: AlignYourStepsScheduler(model="SDXL"),
    "AlignYourStepsScheduler(SD1,20,1.0)": lambda model: AlignYourStepsScheduler(steps=20),
    "AlignYourStepsScheduler(SDXL,15,0.6)": lambda model: AlignYourStepsScheduler(model="SDXL", steps=15, denoise=0.6),
    "BasicScheduler(normal,10,0.7)": lambda model: BasicScheduler(model=model, steps=10, denoise=0.7),
    "BetaSamplingScheduler(10,0.5,0.7)": lambda model: BetaSamplingScheduler(
        model=model, steps=10, alpha=0.5, beta=0.7
    ),
}
LEVELS = Sigmas(torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0]))


def levels(node: Node) -> list[float]:
    values: list[float] = node.run(Context()).values.tolist()
    return values


@pytest.mark.parametrize("case", VECTORS["custom_nodes_sd_eps"])
def test_a_scheduler_node_is_comfyuis(case: str, sd1: Any) -> None:
    assert levels(NODES[case](sd1.model)) == pytest.approx(VECTORS["custom_nodes_sd_eps"][case], rel=2e-7)


def test_a_schedule_is_that_of_the_noise_levels_chosen_for_the_model(sd1: Any) -> None:
    flow = ModelSamplingSD3(model=sd1.model).run(Context())
    expected = VECTORS["schedules"]["sd3_flow_shift3"]["4"]["simple"]
    assert levels(BasicScheduler(model=flow, scheduler="simple", steps=4)) == pytest.approx(expected)
    zero = ModelSamplingDiscrete(model=sd1.model, sampling="v_prediction", zsnr=True).run(Context())
    expected = VECTORS["schedules"]["sd_zsnr_v"]["4"]["karras"]
    assert levels(BasicScheduler(model=zero, scheduler="karras", steps=4)) == pytest.approx(expected)


def test_levels_are_cut_turned_and_filled() -> None:
    parts = SplitSigmas(sigmas=LEVELS, step=1).run(Context())
    assert (parts.high.values.tolist(), parts.low.values.tolist()) == ([8, 4], [4, 2, 1, 0])
    parts = SplitSigmasDenoise(sigmas=LEVELS, denoise=0.25).run(Context())
    assert (parts.high.values.tolist(), parts.low.values.tolist()) == ([8, 4, 2, 1], [1, 0])
    assert levels(FlipSigmas(sigmas=LEVELS)) == pytest.approx([1e-4, 1, 2, 4, 8])
    assert levels(SetFirstSigma(sigmas=LEVELS, sigma=9.0)) == [9, 4, 2, 1, 0]
    assert levels(ExtendIntermediateSigmas(sigmas=LEVELS, end_at_sigma=4.0)) == [8, 6, 4, 3, 2, 1, 0]
    assert levels(ManualSigmas()) == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("fraction", "actual", "sigma"), [(0.5, False, 1.61558), (0.0, True, 14.6146), (1.0, True, 0.0291672)]
)
def test_the_level_after_a_fraction_of_a_run(sd1: Any, fraction: float, actual: bool, sigma: float) -> None:
    node = SamplingPercentToSigma(model=sd1.model, fraction=fraction, actual=actual)
    assert node.run(Context()) == pytest.approx(sigma, rel=1e-5)


@pytest.mark.parametrize(
    "node", ["KarrasScheduler", "ExponentialScheduler", "PolyexponentialScheduler", "LaplaceScheduler"]
)
def test_levels_that_would_rise_are_refused_before_a_run(node: str) -> None:
    text = (
        f"latentgraph: 1\nnodes:\n  levels: {{type: {node}, sigma_max: 1.0, sigma_min: 2.0}}\n"
        "  last: {type: SplitSigmas, sigmas: $levels}\noutputs: {last: $last.low}\n"
    )
    with pytest.raises(InvalidWorkflow, match=r"above sigma_max, 1\.0"):
        build_graph(parse_document(text), default_registry())


@pytest.mark.parametrize(
    ("node", "wrong"),
    [
        ("ManualSigmas, sigmas: none", "input 'sigmas' can't be read: no number in 'none'; give noise levels like"),
        ("ManualSigmas, sigmas: '5, 0, 3'", "input 'sigmas' can't be read: noise level 2 of 3 is 0, where no noise is"),
        (
            "BasicScheduler, model: $ck.model, denoise: 1.0e-9",
            "input 'denoise' of 1e-09 makes 20 steps the end of a schedule of 2e\\+10; expected at least 2e-05",
        ),
    ],
)
def test_levels_that_can_be_no_schedule_are_refused_before_a_run(node: str, wrong: str, tiny_sd1: Path) -> None:
    text = (
        f"latentgraph: 1\nnodes:\n  ck: {{type: LoadCheckpoint, file: {tiny_sd1}}}\n  levels: {{type: {node}}}\n"
        "  last: {type: SplitSigmas, sigmas: $levels}\noutputs: {last: $last.low}\n"
    )
    with pytest.raises(InvalidWorkflow, match=wrong):
        build_graph(parse_document(text), default_registry(), resolver=FolderResolver({}))


def test_a_schedule_that_gives_no_levels_fails_at_the_scheduler() -> None:
    with pytest.raises(ValueError, match="noise level 20 of 21 is 0"):
        KarrasScheduler(sigma_min=0.0).run(Context())
