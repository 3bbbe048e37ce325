"""Mixing networks, as nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latentgraph.graph import Context, InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry
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
