"""Nodes that edit latents: what they make, and what is known and refused before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow
from pydantic import ValidationError

from latentgraph.diffusion.types import Latent
from latentgraph.graph import Context, Graph, InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.latent_edits import (
    AddLatents,
    BlendLatents,
    CropLatent,
    FlipLatent,
    JoinLatents,
    MultiplyLatent,
    RotateLatent,
    SubtractLatents,
)

CTX = Context()
ONE = Latent(torch.arange(4 * 12 * 16.0).reshape(1, 4, 12, 16))


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (CropLatent(latent=ONE, width=64, height=64, x=16, y=8), ONE.samples[..., 1:9, 2:10]),
        (CropLatent(latent=Latent(ONE.samples, cell=16), width=64, height=72, x=24), ONE.samples[..., :4, 1:5]),
        (FlipLatent(latent=ONE), ONE.samples.flip(-1)),
        (FlipLatent(latent=ONE, direction="vertical"), ONE.samples.flip(-2)),
        (RotateLatent(latent=ONE), ONE.samples.transpose(-1, -2).flip(-1)),
        (JoinLatents(first=ONE, second=ONE), ONE.samples.repeat(2, 1, 1, 1)),
        (BlendLatents(latent=ONE, other=Latent(-ONE.samples), ratio=0.75), ONE.samples / 2),
        (BlendLatents(latent=ONE, other=Latent(ONE.samples * 3), mode="directions"), ONE.samples * 2),
        (AddLatents(latent=ONE, other=ONE), ONE.samples * 2),
        (SubtractLatents(latent=ONE, other=ONE), ONE.samples * 0),
        (MultiplyLatent(latent=ONE, factor=-0.5), ONE.samples / -2),
    ],
)
def test_a_node_gives_other_latents(node: Any, expected: torch.Tensor) -> None:
    torch.testing.assert_close(node.run(CTX).samples, expected)
    assert torch.equal(ONE.samples.flatten(), torch.arange(4 * 12 * 16.0))


def test_inputs_out_of_range_are_refused() -> None:
    for node, inputs in (
        (CropLatent, {"width": 60}),
        (CropLatent, {"x": -8}),
        (RotateLatent, {"degrees": 45}),
        (FlipLatent, {"direction": "diagonal"}),
        (BlendLatents, {"other": ONE, "ratio": 1.5}),
        (MultiplyLatent, {"factor": 11}),
    ):
        with pytest.raises(ValidationError, match=list(inputs)[-1]):
            node(latent=ONE, **inputs)


def graph_of(last: str, files: str = "") -> Graph:
    text = (
        "latentgraph: 1\nnodes:\n"
        "  a: {type: EmptyLatent, width: 256, height: 128, batch_size: 2}\n"
        f"{files}  last: {{type: {last}}}\noutputs: {{last: $last}}\n"
    )
    return build_graph(parse_document(text), default_registry())


@pytest.mark.parametrize(
    ("last", "width", "height", "batch"),
    [
        ("CropLatent, latent: $a, x: 128, y: 8, width: 64, height: 512", 64, 120, 2),
        ("CropLatent, latent: $a, x: 248, width: 64, height: 64", 64, 64, 2),
        ("FlipLatent, latent: $a", 256, 128, 2),
        ("RotateLatent, latent: $a, degrees: 270", 128, 256, 2),
        ("RotateLatent, latent: $a, degrees: 180", 256, 128, 2),
        ("JoinLatents, first: $a, second: $a", 256, 128, 4),
        ("BlendLatents, latent: $a, other: $a", 256, 128, 2),
        ("MultiplyLatent, latent: $a", 256, 128, 2),
    ],
)
def test_sizes_are_known_before_a_run_and_are_true(last: str, width: int, height: int, batch: int) -> None:
    graph = graph_of(last)
    facts = graph.nodes["last"].facts["latent"]
    assert (facts["width"], facts["height"], facts["batch"]) == (width, height, batch)
    node, given = graph.nodes["last"], Latent(torch.zeros(2, 4, 16, 32))
    inputs = {name: given for name in ("latent", "other", "first", "second") if name in node.cls.spec.inputs}
    made = node.cls(**inputs, **node.literals).run(CTX).samples
    assert made.shape == (batch, 4, height // 8, width // 8)


def test_a_crop_outside_of_the_latents_is_refused_before_a_run() -> None:
    with pytest.raises(InvalidWorkflow, match="input 'x' is 256, outside of input 'latent', which is of a 256x128"):
        graph_of("CropLatent, latent: $a, x: 256")
    with pytest.raises(InvalidWorkflow, match="input 'y' is 128, outside of input 'latent'"):
        graph_of("CropLatent, latent: $a, y: 128")


def test_latents_of_two_families_are_refused_before_a_run_and_an_empty_one_takes_the_others(
    tiny_sd1: Path, tiny_sdxl: Path, tmp_path: Path
) -> None:
    Pillow.new("RGB", (256, 128)).save(tmp_path / "a.png")
    files = "".join(
        f"  {name}: {{type: LoadCheckpoint, file: {path}}}\n"
        f"  {name}_latent: {{type: VAEEncode, vae: ${name}.vae, image: $pic.image}}\n"
        for name, path in (("one", tiny_sd1), ("two", tiny_sdxl))
    )
    files += f"  pic: {{type: LoadImage, file: {tmp_path / 'a.png'}}}\n"
    said = "is a latent of the sdxl family with 0.13025 as its scale, but input '{}' of the sd1 family takes 0.18215"
    for node in ("AddLatents", "SubtractLatents", "BlendLatents"):
        with pytest.raises(InvalidWorkflow, match="input 'other' " + said.format("latent")):
            graph_of(f"{node}, latent: $one_latent, other: $two_latent", files)
    with pytest.raises(InvalidWorkflow, match="input 'second' " + said.format("first")):
        graph_of("JoinLatents, first: $one_latent, second: $two_latent", files)
    for last in ("AddLatents, latent: $a, other: $two_latent", "JoinLatents, first: $a, second: $two_latent"):
        facts = graph_of(last, files).nodes["last"].facts["latent"]
        assert (facts["family"], facts["latent_scale"]) == ("sdxl", 0.13025)
