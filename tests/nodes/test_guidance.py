"""Nodes that ask for another guidance of every run with a model: what they set, in which order, and on which models."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from latentgraph.diffusion.sampling.options import (
    NormLimit,
    ProjectedGuidance,
    SamplingOptions,
    SkipLayerGuidance,
    ZeroStar,
)
from latentgraph.diffusion.sampling.options import (
    PerpNeg as PerpNegSetting,
)
from latentgraph.diffusion.sampling.options import (
    PerturbedAttentionGuidance as PerturbedAttentionSetting,
)
from latentgraph.diffusion.sampling.options import (
    SelfAttentionGuidance as SelfAttentionSetting,
)
from latentgraph.diffusion.types import Condition, Conditioning
from latentgraph.graph import Context, FolderResolver, InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.guidance import (
    APG,
    CFGNorm,
    CFGZeroStar,
    PerpNeg,
    PerturbedAttentionGuidance,
    RescaleCFG,
    SelfAttentionGuidance,
    SkipLayerGuidanceDiT,
    SkipLayerGuidanceSD3,
)

CASES: list[tuple[Any, dict[str, Any], Any]] = [
    (SelfAttentionGuidance, {"scale": 1.0}, SelfAttentionSetting(1.0, 2.0)),
    (PerturbedAttentionGuidance, {}, PerturbedAttentionSetting(3.0)),
    (SkipLayerGuidanceSD3, {"layers": "0,2"}, SkipLayerGuidance((0, 2), (), 3.0, 0.01, 0.15)),
    (SkipLayerGuidanceDiT, {"double": "", "rescaling": 0.5}, SkipLayerGuidance((), (7, 8, 9), rescaling=0.5)),
    (CFGZeroStar, {}, ZeroStar()),
    (CFGNorm, {"strength": 0.9}, NormLimit(0.9)),
    (APG, {"eta": 0.0, "momentum": -0.5}, ProjectedGuidance(0.0, 5.0, -0.5)),
]


@pytest.mark.parametrize(("node", "inputs", "correction"), CASES)
def test_a_node_adds_its_correction_on_a_model_of_its_own(
    sd1: Any, node: Any, inputs: dict[str, Any], correction: Any
) -> None:
    first = CFGNorm(model=sd1.model).run(Context())
    changed = node(model=first, **inputs).run(Context())
    assert changed.options == SamplingOptions(corrections=(NormLimit(1.0), correction))
    assert changed.weights is sd1.model.weights
    assert sd1.model.options == SamplingOptions()


def test_rescaling_and_perp_neg_are_settings_of_guidance(sd1: Any) -> None:
    empty = Conditioning((Condition(torch.zeros(1, 77, 64)),))
    model = PerpNeg(model=RescaleCFG(model=sd1.model).run(Context()), empty=empty, neg_scale=0.5).run(Context())
    assert model.options == SamplingOptions(rescale=0.7, perp_neg=PerpNegSetting(empty, 0.5))


def test_a_list_of_no_layers_changes_nothing(sd1: Any) -> None:
    assert SkipLayerGuidanceSD3(model=sd1.model, layers="").run(Context()) is sd1.model


def test_layers_that_are_no_numbers_are_refused(sd1: Any) -> None:
    with pytest.raises(ValidationError, match="layers"):
        SkipLayerGuidanceSD3(model=sd1.model, layers="seven")


@pytest.mark.parametrize("wrong", [{"eta": 11}, {"norm_threshold": -1}, {"momentum": 1.5}])
def test_numbers_out_of_range_are_refused(sd1: Any, wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        APG(model=sd1.model, **wrong)


def document(node: str, file: Path) -> str:
    return f"""
latentgraph: 1
nodes:
  checkpoint: {{type: LoadCheckpoint, file: {file}}}
  guided: {{type: {node}, model: $checkpoint.model}}
outputs: {{model: $guided}}
"""


def test_skipping_layers_of_a_unet_is_refused_before_a_weight_is_read(tiny_sd1: Path) -> None:
    with pytest.raises(InvalidWorkflow, match="whose network is a UNet; blocks of a transformer alone can be left out"):
        build_graph(
            parse_document(document("SkipLayerGuidanceSD3", tiny_sd1)), default_registry(), resolver=FolderResolver({})
        )


@pytest.mark.parametrize("node", ["PerturbedAttentionGuidance", "SelfAttentionGuidance", "FreeU", "DeepShrink"])
def test_changing_how_a_unet_works_is_refused_for_a_transformer(
    node: str, tiny_dits: ModuleType, tmp_path: Path
) -> None:
    tensors = tiny_dits.original(tiny_dits.FLUX, tiny_dits.weights(tiny_dits.FLUX), tiny_dits.NETWORK)
    save_file(tensors, tmp_path / "flux.safetensors")
    with pytest.raises(InvalidWorkflow, match="whose network is a transformer; this works on UNets with text alone"):
        build_graph(
            parse_document(document(node, tmp_path / "flux.safetensors")),
            default_registry(),
            resolver=FolderResolver({}),
        )
