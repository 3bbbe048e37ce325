"""Networks that don't fit on a device: a part stays on the host and is fetched a layer at a time, and nothing else changes.

Here the device is the CPU, too: what is told apart is where a weight is held.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.networks.memory import MemoryBudgetError, WeightMemory
from latentgraph.diffusion.networks.stored import stored_modules
from latentgraph.diffusion.networks.variants import adapt
from latentgraph.diffusion.text.encoding import encode_prompt

GIB = 1 << 30


def roomy() -> WeightMemory:
    return WeightMemory(precision="exact", budget_bytes=GIB)


def tight(path: Path, share: float, *, host: int = GIB) -> WeightMemory:
    """Memory that has room for a share of a network."""
    model = open_checkpoint(path, roomy()).model
    size = model.weights.source.size(model.weights.policy)
    free = iter([size, host]) if host < GIB else None
    return WeightMemory(
        precision="exact",
        budget_bytes=int(share * size),
        offload=True,
        free_bytes=lambda device: GIB if free is None else next(free),
    )


def kept_bytes(network: nn.Module) -> int:
    """Returns the bytes of what is not left on the host."""
    return sum(w.nbytes for w in network.parameters())


def answer(model: Model) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 4, 8, 8, generator=draws), torch.randn(1, 77, 64, generator=draws)
    with model.weights.use() as network, torch.no_grad():
        result: torch.Tensor = network(x, torch.tensor([500]), context, return_dict=False)[0]
        return result


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_network_that_fits_in_part_gives_the_same_and_stays_within_its_room(share: float, tiny_sd1: Path) -> None:
    memory = tight(tiny_sd1, share)
    model = open_checkpoint(tiny_sd1, memory).model
    assert torch.equal(answer(model), answer(open_checkpoint(tiny_sd1, roomy()).model))
    with model.weights.use() as network:
        assert list(stored_modules(network))
        assert kept_bytes(network) <= memory.resident_bytes <= memory.budget_bytes


def test_an_adapter_on_a_network_that_fits_in_part_gives_the_same(
    tiny: ModuleType, tiny_sd1: Path, tmp_path: Path
) -> None:
    lora = tmp_path / "lora.safetensors"
    save_file({key: w.half() for key, w in tiny.sd1_lora().items() if key.startswith("lora_unet")}, lora)
    memory = tight(tiny_sd1, 1.02)  # the network alone fits, but not with what the adapter changes
    base = open_checkpoint(tiny_sd1, memory).model
    with base.weights.use() as network:
        assert not list(stored_modules(network))
    found = answer(adapt(base, lora).handle)
    assert torch.equal(found, answer(adapt(open_checkpoint(tiny_sd1, roomy()).model, lora).handle))
    with base.weights.use() as network:
        assert list(stored_modules(network))


def test_text_encoders_that_fit_in_part_give_the_same(tiny_sd1: Path) -> None:
    clips = [open_checkpoint(tiny_sd1, memory).clip for memory in (tight(tiny_sd1, 0.5), roomy())]
    texts = [encode_prompt(clip, "a tree").conditioning.entries[0].embedding for clip in clips if clip is not None]
    assert torch.equal(*texts)


def test_what_the_host_can_not_hold_either_is_refused_with_numbers(tiny_sd1: Path) -> None:
    model = open_checkpoint(tiny_sd1, tight(tiny_sd1, 0.3, host=1000)).model
    with (
        pytest.raises(MemoryBudgetError, match=r"of it would be on the host, where .* are free"),
        model.weights.use(),
    ):
        pass


@pytest.mark.gpu
def test_a_network_that_fits_on_a_gpu_in_part_gives_the_same(tiny_sd1: Path) -> None:
    whole = open_checkpoint(tiny_sd1, WeightMemory(precision="exact", device="cuda")).model
    size = whole.weights.source.size(whole.weights.policy)
    part = open_checkpoint(tiny_sd1, WeightMemory(precision="exact", device="cuda", budget_bytes=size // 2)).model
    x, context = torch.randn(1, 4, 8, 8, device="cuda"), torch.randn(1, 77, 64, device="cuda")
    answers = []
    for model in (whole, part):
        with model.weights.use() as network, torch.no_grad():
            answers.append(network(x, torch.tensor([500], device="cuda"), context, return_dict=False)[0])
    assert torch.allclose(*answers, atol=1e-5)
