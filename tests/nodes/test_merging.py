"""Mixing networks, as nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from latentgraph.graph import Context, InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.loading import LoadDiffusionModel
from latentgraph.nodes.merging import (
    AddModels,
    MergeClips,
    MergeModelBlocks,
    MergeModels,
    SubtractModels,
)


def problem(nodes: str, **files: Path) -> str:
    for name, path in files.items():
        nodes = nodes.replace(f"<{name}>", str(path))
    with pytest.raises(InvalidWorkflow) as caught:
        build_graph(parse_document(f"latentgraph: 1\nnodes:\n{nodes}\n"), default_registry())
    (found,) = [each for each in caught.value.problems if each.severity == "error"]
    return found.message


BOTH = "  one: {type: LoadCheckpoint, file: <one>}\n  other: {type: LoadCheckpoint, file: <other>}\n"


def test_mixtures_are_light_handles_of_the_first_model(sd1: Any, context: Context) -> None:
    given = {"model": sd1.model, "other": sd1.model}
    nodes = (MergeModels(**given), MergeModelBlocks(**given), AddModels(**given), SubtractModels(**given))
    for node in nodes:
        mixed = node.run(context)
        assert mixed.spec is sd1.model.spec
        assert not mixed.weights.memory.is_resident(mixed.weights.source)
    clip = MergeClips(clip=sd1.clip, other=sd1.clip, ratio=0.5).run(context)
    assert clip.weights.source.title.count("the text encoder of sd1.safetensors") == 2


def test_networks_of_two_structures_are_refused_before_a_run(tiny_sd1: Path, tiny_sdxl: Path) -> None:
    save = "  save: {type: SaveCheckpoint, model: $mixed}"
    nodes = BOTH + "  mixed: {type: MergeModels, model: $one.model, other: $other.model}\n" + save
    message = problem(nodes, one=tiny_sd1, other=tiny_sdxl)
    assert "input 'other' is of the sdxl family and input 'model' of the sd1 family, with another structure" in message
    save = "  save: {type: SaveCheckpoint, model: $one.model, clip: $mixed}"
    nodes = BOTH + "  mixed: {type: AddClips, clip: $one.clip, other: $other.clip}\n" + save
    assert "'other' is of the sdxl family" in problem(nodes, one=tiny_sd1, other=tiny_sdxl)


MIXTURES: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Tensor, Tensor], Tensor]]] = {
    "mean": (lambda a, b: MergeModels(model=a, other=b, ratio=0.25), lambda a, b: 0.25 * a + 0.75 * b),
    "sum": (lambda a, b: AddModels(model=a, other=b), lambda a, b: a + b),
    "difference": (lambda a, b: SubtractModels(model=a, other=b, multiplier=2.0), lambda a, b: 2.0 * (a - b)),
}
"""Nodes, and what they make of each weight."""

POSITIONS = "pos_embed.pos_embed"
"""SD3's table of places is no weight: it is computed, the same in every file, and a sum of two has it once."""


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("name", ["SD3", "SD3.5", "FLUX", "FLUX.2"])
def test_every_weight_of_a_transformer_is_mixed(
    name: str, mixture: str, tiny_dits: ModuleType, context: Context, tmp_path: Path
) -> None:
    spec, (node, wanted) = tiny_dits.SPECS[name], MIXTURES[mixture]
    given = [tiny_dits.weights(spec, seed=seed) for seed in (1, 2)]
    models = []
    for number, tensors in enumerate(given):
        path = tmp_path / f"{number}.safetensors"
        save_file(tiny_dits.original(spec, tensors), path)
        models.append(LoadDiffusionModel(file=path).run(context))
    first, second = given
    with node(*models).run(context).weights.use() as network:
        found = {key: w.cpu() for key, w in network.state_dict().items()}
    assert found.keys() == first.keys()
    assert (POSITIONS in found) == name.startswith("SD3")
    for key, w in found.items():
        expected = first[key] if key == POSITIONS else wanted(first[key], second[key])
        torch.testing.assert_close(w, expected, rtol=0.0, atol=1e-6, msg=key)


def test_transformers_of_two_structures_are_refused_before_a_run(tiny_dits: ModuleType, tmp_path: Path) -> None:
    for name in ("SD3", "FLUX"):
        spec = tiny_dits.SPECS[name]
        save_file(tiny_dits.original(spec, tiny_dits.weights(spec)), tmp_path / f"{name}.safetensors")
    nodes = BOTH.replace("LoadCheckpoint", "LoadDiffusionModel") + (
        "  mixed: {type: MergeModels, model: $one, other: $other}\n  save: {type: SaveCheckpoint, model: $mixed}"
    )
    message = problem(nodes, one=tmp_path / "FLUX.safetensors", other=tmp_path / "SD3.safetensors")
    assert "input 'other' is of the sd3 family and input 'model' of the flux family, with another structure" in message
