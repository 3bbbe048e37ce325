"""Too little memory: pictures go in tiles, and what can't be done is refused with numbers and a way out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from latentgraph.diffusion.checkpoints.opening import open_checkpoint, open_vae
from latentgraph.diffusion.families.autoencoders import KLSpec
from latentgraph.diffusion.latents.autoencoder import decode, decode_tiled, encode, encode_tiled
from latentgraph.diffusion.latents.picture_conditions import (
    condition_on_inpaint,
    condition_on_picture,
    encode_for_inpaint,
)
from latentgraph.diffusion.latents.room import decode_bytes, encode_bytes
from latentgraph.diffusion.networks.budget import free_bytes
from latentgraph.diffusion.networks.exhaustion import OutOfMemoryError, Shortage, asked_bytes, smaller_pictures
from latentgraph.diffusion.networks.memory import MemoryBudgetError, WeightMemory, Weights
from latentgraph.diffusion.networks.precision import NumericPolicy
from latentgraph.diffusion.sampling.conditions import empty
from latentgraph.diffusion.types import Image, Latent, Mask, Vae

CPU = torch.device("cpu")
GIB = 1 << 30


@dataclass(frozen=True)
class Toy:
    """A network of so many bytes."""

    name: str = "toy"
    bytes_: int = 40
    ingredients: tuple[()] = ()

    @property
    def title(self) -> str:
        return f"the {self.name}"

    def size(self, policy: NumericPolicy) -> int:
        return self.bytes_

    def load(self, policy: NumericPolicy) -> str:
        if self.bytes_ > GIB:
            torch.empty(1 << 50, dtype=torch.uint8)
        return self.name


def memory_with(free: int, *, precision: str = "auto", budget: int = 100) -> WeightMemory:
    return WeightMemory(budget_bytes=budget, precision=precision, free_bytes=lambda device: free)


def test_a_refused_allocation_says_what_was_asked_what_there_is_and_what_would_fit() -> None:
    weights = Weights(memory_with(3 * GIB), Toy())
    with pytest.raises(OutOfMemoryError) as caught, weights.use(smaller_pictures(1, 1024, 768)):
        torch.empty(1 << 50, dtype=torch.uint8)
    assert str(caught.value) == (
        "the toy ran out of memory on cpu: 1048576.00 GiB more were asked for, 3.00 GiB are free, and loaded weights take "
        "0.00 GiB. Instead of 1024x768 pixels, 64x64 would fit. A file of the model in fewer bits (float8, GGUF) leaves more "
        "free."
    )
    assert weights.memory.has_room(1)


def test_a_network_that_can_not_be_loaded_says_so_too() -> None:
    weights = Weights(memory_with(3 * GIB, budget=1 << 40), Toy("giant", 2 * GIB))
    with pytest.raises(OutOfMemoryError, match=r"the giant ran out of memory .* 3\.00 GiB are free"), weights.use():
        pass
    assert weights.memory.resident_bytes == 0


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes$"), Weights(memory_with(GIB), Toy()).use():
        raise RuntimeError("shapes")


def test_what_was_asked_for_is_read_from_torchs_words() -> None:
    cuda = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.0 GiB is free."
    assert asked_bytes(torch.OutOfMemoryError(cuda)) == 5 * GIB // 2
    assert asked_bytes(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")) == 0
    assert asked_bytes(MemoryError()) == 0
    assert asked_bytes(ValueError("out of range")) is None


@pytest.mark.parametrize(
    ("items", "shortage", "advice"),
    [
        (8, Shortage(4 * GIB, GIB), "Of 8 pictures of 1024x512 at once, 2 would fit."),
        (2, Shortage(0, GIB), "Of 2 pictures of 1024x512 at once, 1 would fit."),
        (1, Shortage(4 * GIB, GIB), "Instead of 1024x512 pixels, 512x256 would fit."),
    ],
)
def test_the_advice_is_reckoned_from_the_numbers(items: int, shortage: Shortage, advice: str) -> None:
    assert smaller_pictures(items, 1024, 512)(shortage).startswith(advice)


@pytest.fixture
def vae_with(reference_tiny: Path) -> Callable[..., Vae]:
    def make(free: int, precision: str = "auto") -> Vae:
        left = [GIB]
        memory = WeightMemory(budget_bytes=GIB, precision=precision, free_bytes=lambda device: left[0])
        vae = open_vae(reference_tiny, memory)
        with vae.weights.use():
            left[0] = free
        return vae

    return make


def test_a_picture_that_would_not_fit_goes_in_tiles_and_that_is_said(vae_with: Callable[..., Vae]) -> None:
    notices: list[str] = []
    little, much = vae_with(1000), vae_with(GIB)
    image = Image(torch.rand(1, 640, 64, 3, generator=torch.Generator().manual_seed(0)))
    latent = encode(little, image, on_notice=notices.append)
    assert torch.equal(latent.samples, encode_tiled(much, image).samples)
    assert not torch.equal(latent.samples, encode(much, image, on_notice=notices.append).samples)
    assert torch.equal(decode(little, latent, on_notice=notices.append).pixels, decode_tiled(much, latent).pixels)
    assert [notice.partition(":")[0] for notice in notices] == [
        "the picture is encoded in tiles",
        "the picture is decoded in tiles",
    ]
    assert "as a whole it would take about" in notices[0]


@pytest.mark.parametrize(
    ("make", "pictures"),
    [
        (lambda vae, image, **told: encode_for_inpaint(vae, image, Mask(torch.ones(1, 8, 8)), **told), 1),
        (lambda vae, image, **told: condition_on_picture(vae, empty(24), empty(24), image, **told), 1),
        (
            lambda vae, image, **told: condition_on_inpaint(
                vae, empty(24), empty(24), image, Mask(torch.ones(1, 8, 8)), **told
            ),
            2,
        ),
    ],
)
def test_what_is_encoded_for_a_condition_goes_in_tiles_too_and_tells_how_far_it_is(
    vae_with: Callable[..., Vae], make: Callable[..., object], pictures: int
) -> None:
    notices: list[str] = []
    done: list[float] = []
    make(vae_with(1000), Image(torch.rand(1, 640, 64, 3)), on_progress=done.append, on_notice=notices.append)
    assert [notice.partition(":")[0] for notice in notices] == ["the picture is encoded in tiles"] * pictures
    assert done == sorted(done)
    assert len(done) > pictures
    assert done[-1] == 1.0


def test_exact_results_do_not_depend_on_free_memory(vae_with: Callable[..., Vae]) -> None:
    latent = Latent(torch.rand(1, 4, 80, 8, generator=torch.Generator().manual_seed(0)))
    pictures = [decode(vae_with(free, "exact"), latent).pixels for free in (1000, GIB)]
    assert torch.equal(*pictures)


def test_networks_that_are_not_in_use_make_room_for_a_picture() -> None:
    memory = WeightMemory(budget_bytes=200, free_bytes=lambda device: 110 - memory.resident_bytes)
    used, idle = Toy("used", 50), Toy("idle", 50)
    with memory.hold(idle):
        pass
    with memory.hold(used):
        assert memory.has_room(30)
        assert not memory.is_resident(idle)
        assert not memory.has_room(70)
        assert memory.is_resident(used)


def test_the_estimate_is_that_of_the_reference_for_stable_diffusion() -> None:
    spec = KLSpec(latent_channels=4, widths=(128, 256, 512, 512), encoder_blocks=2)
    assert decode_bytes(spec, 512 * 512, 4) == 2178 * 64 * 64 * 64 * 4
    assert encode_bytes(spec, 512 * 512, 4) == 1767 * 512 * 512 * 4


@pytest.mark.parametrize("version", [1, 2])
def test_free_memory_is_what_the_tightest_control_group_leaves(version: int, tmp_path: Path) -> None:
    names = {
        1: ("memory/job", "5:memory:/job", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("job", "0::/job", "memory.max", "memory.current", "inactive_file"),
    }
    folder, membership, limit, usage, reclaimable = names[version]
    group = tmp_path / folder
    group.mkdir(parents=True)
    (tmp_path / "membership").write_text(membership + "\n")
    (group / limit).write_text("9000\n")
    (group / usage).write_text("5000\n")
    (group / "memory.stat").write_text(f"anon 1\n{reclaimable} 700\nactive_file 3\n")
    assert free_bytes(CPU, tmp_path, tmp_path / "membership") == 4700
    assert free_bytes(CPU, tmp_path, tmp_path / "missing") > 1 << 20


def test_a_network_that_would_fill_more_than_is_free_is_refused_with_numbers() -> None:
    weights = Weights(memory_with(GIB, budget=8 * GIB), Toy("big", 3 * GIB))
    with (
        pytest.raises(MemoryBudgetError, match=r"the big takes 3\.00 GiB, but the weights on cpu may take 1\.00 GiB"),
        weights.use(),
    ):
        pass


def test_a_refusal_names_the_precision_that_would_fit(reference_tiny: Path) -> None:
    exact = open_checkpoint(reference_tiny, WeightMemory(precision="exact", budget_bytes=GIB)).model.weights
    size = exact.source.size(exact.policy)
    tight = WeightMemory(precision="exact", budget_bytes=size * 3 // 4)
    with (
        pytest.raises(MemoryBudgetError, match=r"In precision (auto|bf16) it takes .* and fits"),
        Weights(tight, exact.source).use(),
    ):
        pass
