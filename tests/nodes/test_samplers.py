"""Nodes that choose a sampler: their options are ones that it has, with the defaults that it has by name."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, get_args

import pytest

from latentgraph.diffusion.names import SamplerName
from latentgraph.diffusion.samplers.catalogue import SAMPLERS
from latentgraph.diffusion.types import Sampler
from latentgraph.graph import Context, Node
from latentgraph.nodes import samplers
from latentgraph.nodes.samplers import KSamplerSelect, SamplerSASolver

OPTIONS = [
    node
    for node in vars(samplers).values()
    if isinstance(node, type) and issubclass(node, Node) and node not in (Node, KSamplerSelect, SamplerSASolver)
]


def defaults(name: SamplerName) -> dict[str, Any]:
    """The options that a sampler has when it is chosen by name."""
    start = SAMPLERS[name].start
    bound = start.keywords if isinstance(start, partial) else {}
    plain = start.func if isinstance(start, partial) else start
    parameters = list(inspect.signature(plain).parameters.values())[1:]
    return {parameter.name: bound.get(parameter.name, parameter.default) for parameter in parameters}


@pytest.mark.parametrize("name", get_args(SamplerName))
def test_a_sampler_is_chosen_by_name(name: SamplerName) -> None:
    assert KSamplerSelect(sampler=name).run(Context()) == Sampler(name)


@pytest.mark.parametrize("node", OPTIONS, ids=lambda node: node.__name__)
def test_a_node_of_options_starts_from_those_that_the_sampler_has_by_name(node: Any) -> None:
    sampler = node().run(Context())
    known = defaults(sampler.name)
    assert dict(sampler.options).items() <= known.items()


def test_sa_solver_adds_noise_between_two_levels_of_the_model(sd1: Any) -> None:
    sampler = SamplerSASolver(model=sd1.model, start=0.2, end=0.8, use_pece=True).run(Context())
    options = dict(sampler.options)
    window = options.pop("window")
    assert window == pytest.approx((5.09241, 0.571189), rel=1e-5)
    assert options.items() <= (defaults("sa_solver_pece")).items()
