"""Compiled blocks: which are compiled, that a run comes out the same, and that a second one compiles nothing.

torch's "eager" backend stands in for its compiler: it traces and guards the blocks as the real one does, and computes as
the plain network.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.latents.batches import empty_latent
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.networks import compiling
from latentgraph.diffusion.networks.compiling import NoCompilerError, find_compiler, regions
from latentgraph.diffusion.networks.faults import NonFiniteError
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.patches import shared_copy
from latentgraph.diffusion.sampling.options import FreeU, SamplingOptions
from latentgraph.diffusion.sampling.run import sample
from latentgraph.diffusion.types import Condition, Conditioning

BLOCKS = ["CrossAttnDownBlock2D", "DownBlock2D", "UNetMidBlock2DCrossAttn", "UpBlock2D", "CrossAttnUpBlock2D"]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(model: Model, **options: Any) -> Tensor:
    texts = [Conditioning((Condition(draw(seed, 1, 7, model.spec.context_width)),)) for seed in (1, 2)]
    model = replace(model, options=SamplingOptions(**options))
    latent = empty_latent(width=64, height=64)
    how: dict[str, Any] = {"seed": 1, "steps": 2, "cfg": 5.0, "sampler": "euler", "scheduler": "normal"}
    return sample(model, *texts, latent, **how).samples


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(compiling, "BACKEND", "eager")


@pytest.fixture
def model(tiny_sd1: Path) -> Model:
    return open_checkpoint(tiny_sd1, WeightMemory(precision="fp32")).model


@pytest.mark.usefixtures("backend")
def test_a_compiled_run_comes_out_as_the_plain_one_and_a_second_one_compiles_nothing(model: Model) -> None:
    plain = run(model)
    assert not counters["stats"]
    torch.testing.assert_close(run(model, compiled=True), plain, rtol=1e-4, atol=1e-4)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs >= len(BLOCKS)
    run(model, compiled=True)
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.usefixtures("backend")
def test_a_change_of_the_network_is_kept_and_the_rest_is_compiled(model: Model) -> None:
    change = FreeU(1.3, 1.4, 0.9, 0.2)
    torch.testing.assert_close(
        run(model, compiled=True, changes=(change,)), run(model, changes=(change,)), rtol=1e-4, atol=1e-4
    )
    assert counters["stats"]["unique_graphs"] > 0


@pytest.mark.usefixtures("backend")
def test_in_exact_nothing_is_compiled(tiny_sd1: Path) -> None:
    model = open_checkpoint(tiny_sd1, WeightMemory(precision="exact")).model
    assert torch.equal(run(model, compiled=True), run(model))
    assert not counters["stats"]


@pytest.mark.usefixtures("backend")
def test_a_value_that_is_not_finite_is_found_inside_of_a_compiled_block(model: Model) -> None:
    with model.weights.use() as unet, torch.no_grad():
        run(model, compiled=True)
        unet.mid_block.resnets[0].conv1.weight[0] = float("nan")  # this test's own copy
    with pytest.raises(NonFiniteError, match=r"mid_block\.resnets\.0\.conv1 \(Conv2d\), whose weight has"):
        run(model, compiled=True)


def test_blocks_that_nothing_has_changed_are_compiled_whole(model: Model) -> None:
    with model.weights.use() as unet:
        copy = shared_copy(unet)
    assert {type(region).__name__ for region in regions(copy)} <= set(BLOCKS)
    block = copy.down_blocks[0]
    block.resnets[0].register_forward_pre_hook(lambda *_: None)
    found = list(regions(copy))
    assert block not in found
    assert block.attentions[0] in found
    assert block.resnets[0] not in found


@pytest.mark.parametrize("kind", ["SD3", "FLUX", "FLUX.2"])
def test_transformers_are_compiled_a_block_at_a_time(kind: str, tiny_dits: ModuleType) -> None:
    network = tiny_dits.network(tiny_dits.SPECS[kind])
    blocks = [*network.transformer_blocks, *getattr(network, "single_transformer_blocks", ())]
    assert list(regions(network)) == blocks


def test_a_machine_without_a_compiler_is_told_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(NoCompilerError, match=r"takes a C\+\+ compiler such as g\+\+"):
        find_compiler(torch.device("cpu"))
