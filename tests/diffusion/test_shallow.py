"""Shallow passes: what they compute, what they take from a full pass, and from which one."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.patches import shared_copy
from latentgraph.diffusion.networks.shallow import KeptLayers
from latentgraph.diffusion.sampling.calls import Network, call_of
from latentgraph.diffusion.sampling.network_inputs import NetworkInputs

LEVEL, NEXT = torch.tensor([500.0]), torch.tensor([480.0])


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network_of(kind: str, tiny_dits: ModuleType, tiny_sd1: Path) -> tuple[Any, Network, Tensor, NetworkInputs]:
    if kind == "UNet":
        with open_checkpoint(tiny_sd1, WeightMemory(precision="exact")).model.weights.use() as unet:
            copy = shared_copy(unet)
        return copy, call_of("unet", copy), draw(1, 1, 4, 8, 8), NetworkInputs(draw(2, 1, 7, 64))
    spec = tiny_dits.SPECS[kind]
    network = tiny_dits.network(spec)
    guidance = torch.full((1,), 3.5) if getattr(spec, "guidance", False) else None
    pooled = draw(3, 1, spec.pooled_width) if getattr(spec, "pooled_width", None) else None
    inputs = NetworkInputs(draw(2, 1, 7, spec.context_width), pooled=pooled, guidance=guidance)
    return network, call_of(spec.kind, network), draw(1, 1, spec.in_channels, 8, 8), inputs


@pytest.mark.parametrize("kind", ["UNet", "SD3", "SD3.5", "FLUX", "FLUX.2"])
@torch.inference_mode()
def test_a_shallow_pass_over_the_same_latent_gives_what_the_full_one_gave(
    kind: str, tiny_dits: ModuleType, tiny_sd1: Path
) -> None:
    network, call, x, inputs = network_of(kind, tiny_dits, tiny_sd1)
    plain = call(x, LEVEL, inputs)
    kept = KeptLayers(network, "unet" if kind == "UNet" else tiny_dits.SPECS[kind].kind)
    kept.begin("a", shallow=True)  # there was no full pass: this is one
    torch.testing.assert_close(call(x, LEVEL, inputs), plain, rtol=0, atol=0)
    kept.begin("a", shallow=True)
    torch.testing.assert_close(call(x, LEVEL, inputs), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["UNet", "SD3", "FLUX", "FLUX.2"])
@torch.inference_mode()
def test_a_shallow_pass_over_the_next_latent_is_nearer_to_the_full_one_than_the_old_answer(
    kind: str, tiny_dits: ModuleType, tiny_sd1: Path
) -> None:
    network, call, x, inputs = network_of(kind, tiny_dits, tiny_sd1)
    later = x + 0.1 * draw(9, *x.shape)
    old, new = call(x, LEVEL, inputs), call(later, NEXT, inputs)
    kept = KeptLayers(network, "unet" if kind == "UNet" else tiny_dits.SPECS[kind].kind)
    kept.begin("a", shallow=False)
    call(x, LEVEL, inputs)
    kept.begin("a", shallow=True)
    shallow = call(later, NEXT, inputs)
    assert 0 < (shallow - new).norm() < (old - new).norm()
    kept.begin("a", shallow=False)
    assert torch.equal(call(later, NEXT, inputs), new)


@torch.inference_mode()
def test_a_shallow_pass_computes_the_outermost_layers_alone(tiny_dits: ModuleType, tiny_sd1: Path) -> None:
    network, call, x, inputs = network_of("UNet", tiny_dits, tiny_sd1)
    parts = {
        "first": network.down_blocks[0].resnets[0],
        "inner": network.down_blocks[1].resnets[0],
        "middle": network.mid_block.resnets[0],
        "last": network.up_blocks[-1].resnets[-1],
    }
    seen: list[str] = []
    for name, module in parts.items():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    kept = KeptLayers(network, "unet")
    for shallow in (False, True):
        seen.clear()
        kept.begin("a", shallow=shallow)
        call(x, LEVEL, inputs)
        assert seen == (["first", "last"] if shallow else ["first", "inner", "middle", "last"])


@torch.inference_mode()
def test_each_kind_of_pass_has_its_own_layers(tiny_dits: ModuleType, tiny_sd1: Path) -> None:
    network, call, x, inputs = network_of("UNet", tiny_dits, tiny_sd1)
    other = NetworkInputs(draw(5, 1, 7, 64))
    answers = [call(x, LEVEL, each) for each in (inputs, other)]
    kept = KeptLayers(network, "unet")
    for shallow in (False, True):
        for kind, each, answer in zip("ab", (inputs, other), answers, strict=True):
            kept.begin(kind, shallow=shallow)
            assert torch.equal(call(x, LEVEL, each), answer)
