"""Nodes that enlarge pictures with a network."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import latentgraph.nodes.upscaling as nodes
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.types import Image
from latentgraph.diffusion.upscaling.reading import can_upscale
from latentgraph.graph import Context, InvalidWorkflow, RunCancelled, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.upscaling import ImageUpscaleWithModel, LoadUpscaleModel

needs_spandrel = pytest.mark.skipif(not can_upscale(), reason="needs the extra 'upscale'")


@pytest.fixture(scope="module")
def upscaler(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_upscaler(tmp_path_factory.mktemp("upscalers") / "esrgan.safetensors")


@needs_spandrel
def test_pictures_become_larger_and_progress_is_told(upscaler: Path, watched: Any) -> None:
    context = watched(resources={WeightMemory: WeightMemory(precision="exact")})
    model = LoadUpscaleModel(file=upscaler).run(context)
    image = Image(torch.rand(2, 8, 12, 3, generator=torch.Generator().manual_seed(0)))
    assert ImageUpscaleWithModel(upscale_model=model, image=image).run(context).pixels.shape == (2, 32, 48, 3)
    assert context.steps == [(50, 100), (100, 100)]


@needs_spandrel
def test_a_cancelled_run_stops_between_pictures(upscaler: Path, watched: Any) -> None:
    context = watched(cancel_at=1, resources={WeightMemory: WeightMemory(precision="exact")})
    model = LoadUpscaleModel(file=upscaler).run(context)
    with pytest.raises(RunCancelled):
        ImageUpscaleWithModel(upscale_model=model, image=Image(torch.rand(3, 8, 8, 3))).run(context)


def problem(path: Path) -> str:
    document = parse_document(
        f"latentgraph: 1\nnodes:\n  load: {{type: LoadUpscaleModel, file: {path}}}\n  last: {{type: SolidMask}}\n"
        "outputs: {last: $last}\n"
    )
    with pytest.raises(InvalidWorkflow) as caught:
        build_graph(document, default_registry())
    (only,) = caught.value.problems
    assert only.place.mark is not None
    return only.message


def test_a_checkpoint_is_refused_before_the_run(tiny_sd1: Path) -> None:
    assert "found a checkpoint, expected an upscale model" in problem(tiny_sd1)


def test_a_missing_package_is_an_error_of_the_document(upscaler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "can_upscale", lambda: False)
    assert 'pip install "latentgraph[upscale]"' in problem(upscaler)


def test_loading_needs_the_package(upscaler: Path, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentgraph.diffusion.upscaling import upscale

    monkeypatch.setattr(upscale, "can_upscale", lambda: False)
    with pytest.raises(ValueError, match="needs the package spandrel"):
        LoadUpscaleModel(file=upscaler).run(context)
