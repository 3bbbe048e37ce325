"""What every node that comes with latentgraph keeps to."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import latentgraph.nodes
from latentgraph.graph import Node, json_schema
from latentgraph.nodes import default_registry

REGISTRY = default_registry()
OURS_ALONE = {
    "LoadIPAdapter": "ComfyUI leaves IP adapters to others",
    "ApplyIPAdapter": "ComfyUI leaves IP adapters to others",
    "StepCache": "ComfyUI's caches are told thresholds, and hold no quality",
    "ImageDifference": "ComfyUI compares no pictures",
    "VAERoundTrip": "ComfyUI measures no autoencoder",
    "ConsistencyDecode": "ComfyUI has no consistency decoder",
    "SegmentConditioning": "ComfyUI runs no network of classes",
    "ConditioningSize": "SDXL's sizes apart from a prompt",
    "ClassConditioning": "ComfyUI runs no network of classes",
    "DepthConditioning": "ComfyUI has no depth for Stable Diffusion 2",
    "EmptyConditioning": "ComfyUI runs no network without text",
    "GridImage": "ComfyUI has no contact sheet",
    "LoadTinyVAE": "ComfyUI tells the family by the names that the files must have",
    "ScaleMask": "a detour by pictures there",
}
"""Nodes without a counterpart in ComfyUI, with the reason."""


@pytest.mark.parametrize("node", REGISTRY.values(), ids=REGISTRY)
def test_every_input_is_described_in_a_sentence(node: type[Node]) -> None:
    for port in node.spec.inputs.values():
        assert port.description.endswith((".", "in.")), port.name
        assert port.description[0].isupper() or port.description[0] in "`0123456789-", port.name


@pytest.mark.parametrize("node", REGISTRY.values(), ids=REGISTRY)
def test_every_number_has_a_range(node: type[Node]) -> None:
    for port in node.spec.inputs.values():
        schemas = port.json_schema.get("anyOf", [port.json_schema]) if port.literal and not port.file else []
        for schema in schemas:
            if schema.get("type") in ("integer", "number"):
                assert {"minimum", "maximum"} <= schema.keys(), port.name


@pytest.mark.parametrize("node", REGISTRY.values(), ids=REGISTRY)
def test_every_node_says_what_comfyui_calls_it_or_is_known_to_be_ours(node: type[Node]) -> None:
    assert (node.spec.comfy is None) == (node.__name__ in OURS_ALONE)


def test_no_two_nodes_claim_one_name_of_comfyui() -> None:
    names = [each.name for node in REGISTRY.values() if node.spec.comfy for each in node.spec.comfy.all]
    assert len(names) == len(set(names))


def test_all_nodes_of_the_package_are_registered() -> None:
    def below(cls: type[Node]) -> set[type[Node]]:
        return {cls}.union(*(below(child) for child in cls.__subclasses__()))

    for module in pkgutil.iter_modules(latentgraph.nodes.__path__):
        importlib.import_module(f"latentgraph.nodes.{module.name}")
    ours = {cls for cls in below(Node) if cls.__module__.startswith("latentgraph.nodes.")}
    assert ours == set(REGISTRY.values())


LOOK_ONLY = {
    *("BasicScheduler", "BetaSamplingScheduler", "SDTurboScheduler", "SamplingPercentToSigma", "SamplerSASolver"),
    "AddNoise",
    *("ApplyControlNet", "ApplyControlNetToBoth", "ApplyInpaintControlNet"),
    "EmptyConditioning",
}
"""Nodes that take a model for its noise levels, its latents' scale or the width of its text, or a control network to lay it on
conditions."""


def test_nodes_that_run_networks_are_keyed_by_the_numeric_environment() -> None:
    """A node takes a handle on weights, or what holds one, to run a network, to look at what it is, or to pass it on."""
    handles = {"Model", "Clip", "ClipVision", "ControlNet", "IpAdapter", "StyleModel", "UpscaleModel", "Vae", "Guider"}
    for name, node in REGISTRY.items():
        takes = {port.type.__name__ for port in node.spec.inputs.values() if not port.literal} & handles
        gives = {port.type.__name__ for port in node.spec.outputs} & handles
        runs = bool(takes) and not gives and name not in LOOK_ONLY
        assert (node.spec.lane == "device") == runs, name
        assert node.spec.cached != bool(gives), name


def test_importing_the_nodes_and_describing_them_loads_no_torch() -> None:
    code = (
        "import sys; from latentgraph.nodes import default_registry; from latentgraph.graph import json_schema; "
        "json_schema(default_registry()); "
        "print(sorted({'torch', 'diffusers', 'transformers', 'numpy', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_schema_of_all_nodes_can_be_made() -> None:
    assert "KSampler" in str(json_schema(REGISTRY))
