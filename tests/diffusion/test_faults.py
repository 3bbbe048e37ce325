"""Values that are not finite are found where they arise, and said with step, block and cure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from latentgraph.diffusion.checkpoints.opening import Checkpoint, open_checkpoint
from latentgraph.diffusion.latents.autoencoder import decode, encode
from latentgraph.diffusion.model import Guider
from latentgraph.diffusion.networks.faults import NonFiniteError, check_finite, find_fault
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.stored import StoredWeight, store
from latentgraph.diffusion.sampling.guidance import ClassifierFree
from latentgraph.diffusion.sampling.run import sample, sample_guided
from latentgraph.diffusion.text.encoding import encode_prompt
from latentgraph.diffusion.types import Condition, Conditioning, Image, Latent, Noise, Sampler, Sigmas

NAN = float("nan")
Broken = Callable[..., Checkpoint]


@pytest.fixture
def broken(tiny: ModuleType, tmp_path: Path) -> Broken:
    """Opens a tiny SD1 with one NaN in the tensor of a key, none for a sound one."""

    def make(key: str | None = None, *, precision: str = "exact") -> Checkpoint:
        tensors = tiny.sd1_tensors()
        if key is not None:
            tensors[key].view(-1)[5] = NAN
        save_file(tensors, tmp_path / "sd1.safetensors")
        return open_checkpoint(tmp_path / "sd1.safetensors", WeightMemory(precision=precision, budget_bytes=1 << 30))

    return make


def text(value: float = 0.1) -> Conditioning:
    return Conditioning((Condition(torch.full((1, 77, 64), value)),))


def run(
    checkpoint: Checkpoint, *, positive: Conditioning | None = None, start: float = 0.0, sampler: str = "euler"
) -> None:
    latent = Latent(torch.full((1, 4, 8, 8), start))
    sample(
        checkpoint.model, positive or text(), text(), latent,
        seed=1, steps=3, cfg=2.0, sampler=sampler, scheduler="normal",
    )  # fmt: skip


BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight"


def test_a_broken_weight_is_named_with_the_step_and_its_block(broken: Broken) -> None:
    with pytest.raises(NonFiniteError) as caught:
        run(broken(KEY))
    assert "step 1 of the sampling, at sigma 14.61, has values that are not finite" in str(caught.value)
    assert f"They come first from {BLOCK} (Linear), whose weight has 1 such values itself" in str(caught.value)
    assert "the file is damaged" in str(caught.value)


def test_a_broken_weight_is_found_where_work_is_shared_between_passes(broken: Broken) -> None:
    with pytest.raises(NonFiniteError, match=r"attn2.*whose (to_v\.)?weight has 1 such values itself"):
        run(broken(KEY, precision="auto"))


def test_a_conditioning_that_is_not_finite_is_not_laid_to_the_network(broken: Broken) -> None:
    with pytest.raises(NonFiniteError, match="given them, in the conditioning"):
        run(broken(), positive=text(NAN))


def test_a_latent_that_is_not_finite_is_not_laid_to_the_network(broken: Broken) -> None:
    with pytest.raises(NonFiniteError, match=r"^the latent that the run begins with has values"):
        run(broken(), start=NAN)


def test_a_sampler_that_runs_off_is_said_to(broken: Broken) -> None:
    guider = Guider(broken().model, {"positive": text(), "negative": text()}, ClassifierFree(1.0))
    latent = Latent(torch.zeros(1, 4, 8, 8))
    # by the second level the latent is too large to be seen; from 1e-30 on, uni_pc divides by the signal that is left
    for name, levels, where in (
        ("euler", [1e30, 1.0, 0.0], "step 2 of "),
        ("uni_pc", [1e-30, 0.0], "the last step of "),
    ):
        with pytest.raises(NonFiniteError, match=f"^{where}.* The sampler itself ran off"):
            sample_guided(guider, latent, noise=Noise(1), sampler=Sampler(name), sigmas=Sigmas(torch.tensor(levels)))


def test_a_broken_autoencoder_is_named_with_its_block(broken: Broken) -> None:
    checkpoint = broken("first_stage_model.decoder.up.1.block.0.conv1.weight")
    assert checkpoint.vae is not None
    encode(checkpoint.vae, Image(torch.zeros(1, 32, 32, 3)))
    with pytest.raises(NonFiniteError, match=r"the decoded picture has .* decoder\.up_blocks\.2\.resnets\.0\.conv1 "):
        decode(checkpoint.vae, Latent(torch.zeros(1, 4, 4, 4)))


def test_a_broken_text_encoder_is_named_with_its_block(broken: Broken) -> None:
    checkpoint = broken("cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.bias")
    assert checkpoint.clip is not None
    with pytest.raises(
        NonFiniteError, match=r"the text encoded by clip_l has .* encoder\.layers\.1\.mlp\.fc1 \(Linear\), whose bias"
    ):
        encode_prompt(checkpoint.clip, "a tree")


class Chain(nn.Module):
    """Two layers, one after the other."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, *, shift: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x) + shift)
        return result


def chain(*, gain: float = 1.0) -> Chain:
    network = Chain(nn.Linear(4, 4), nn.Linear(4, 4)).requires_grad_(False)
    network.second.weight.fill_(gain)
    return network


def test_an_overflow_is_told_from_a_broken_weight() -> None:
    network = chain(gain=3e38)
    fault = find_fault(network, lambda: network(torch.ones(1, 4), shift=torch.full((4,), 9.0)))
    assert fault is not None
    assert fault.startswith(
        "They come first from second (Linear); its weights are sound, so the numbers grew too large"
    )
    assert "precision fp32" in fault


def test_a_broken_packed_weight_is_found() -> None:
    network = chain()
    data = torch.ones(4, 4).to(torch.float8_e4m3fn)
    data.view(torch.uint8)[1, 1] = 0x7F  # e4m3's NaN
    store(network.first, StoredWeight(data, (4, 4)), dtype=torch.float32, device=torch.device("cpu"))
    fault = find_fault(network, lambda: network(torch.ones(1, 4), shift=torch.zeros(4)))
    assert fault is not None
    assert fault.startswith("They come first from first (StoredLinear), whose weight has 1 such values itself")


def test_inputs_that_are_not_finite_are_nobodys_fault_and_no_hook_stays() -> None:
    network = chain()
    again = lambda: network(torch.ones(1, 4), shift=torch.full((4,), NAN))  # noqa: E731
    assert find_fault(network, again) is None
    with pytest.raises(NonFiniteError, match=r"this has .* look at the nodes"):
        check_finite(again(), network, again, what="this")
    assert not any(module._forward_hooks for module in network.modules())
    check_finite(torch.ones(1), network, again, what="nothing")
