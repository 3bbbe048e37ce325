"""Upscale models: spandrel's own results, tile by tile, on made-up weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.types import Image
from latentgraph.diffusion.upscaling import sources, upscale
from latentgraph.diffusion.upscaling.reading import can_upscale, describe_upscaler
from latentgraph.diffusion.upscaling.sources import UpscalerSource
from latentgraph.diffusion.upscaling.upscale import open_upscaler

pytestmark = pytest.mark.skipif(not can_upscale(), reason="needs the extra 'upscale'")


@pytest.fixture(scope="module")
def esrgan(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_upscaler(tmp_path_factory.mktemp("upscalers") / "esrgan.safetensors")


@pytest.fixture
def memory() -> WeightMemory:
    return WeightMemory(precision="exact", budget_bytes=1 << 30)


def test_a_picture_is_enlarged_as_by_spandrel(
    esrgan: Path, picture: Callable[[int, int], Image], memory: WeightMemory
) -> None:
    model, image = open_upscaler(esrgan, memory), picture(20, 30)
    with sources._without_torchvision():
        import spandrel
    reference = spandrel.ModelLoader().load_from_file(esrgan).eval()
    expected = reference(image.pixels.movedim(-1, 1)).movedim(1, -1)
    found = upscale.upscale(model, image).pixels
    assert found.shape == (1, 80, 120, 3)
    assert found.std() > 0.01
    torch.testing.assert_close(found, expected)


def test_tiles_meet_without_a_seam(esrgan: Path, picture: Callable[[int, int], Image], memory: WeightMemory) -> None:
    """The network sees 20 pixels around each, which is less than tiles overlap, so tiles change little."""
    model, image = open_upscaler(esrgan, memory), picture(150, 200)
    told: list[float] = []
    whole = upscale.upscale(model, image).pixels
    tiled = upscale.upscale(model, image, tile=128, on_progress=told.append).pixels
    assert told == [n / 4 for n in range(1, 5)]
    assert (whole - tiled).abs().mean() < 1e-3
    assert not torch.equal(whole, tiled)


def test_several_pictures_and_an_alpha_channel(
    esrgan: Path, picture: Callable[[int, int], Image], memory: WeightMemory
) -> None:
    model, image = open_upscaler(esrgan, memory), picture(8, 8)
    batch = Image(torch.cat([image.pixels, image.pixels.flip(1)]))
    clear = Image(torch.cat([batch.pixels, torch.rand(2, 8, 8, 1)], dim=-1))
    found = upscale.upscale(model, clear).pixels
    assert torch.equal(found, upscale.upscale(model, batch).pixels)
    assert torch.equal(found[:1], upscale.upscale(model, image).pixels)


class Forgetful:
    """Runs out of memory for tiles of more than `most` pixels along a side; else doubles each pixel."""

    device, dtype, scale = torch.device("cpu"), torch.float32, 2

    def __init__(self, most: int, message: str = "DefaultCPUAllocator: can't allocate memory") -> None:
        self.most, self.message, self.sides = most, message, []  # type: ignore[var-annotated]

    def __call__(self, x: Tensor) -> Tensor:
        self.sides.append(max(x.shape[-2:]))
        if self.sides[-1] > self.most:
            raise RuntimeError(self.message)
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


class Held:
    """Stands for a handle on weights in memory."""

    def __init__(self, network: Any) -> None:
        self.weights, self._network = self, network

    def use(self) -> Held:
        return self

    def __enter__(self) -> Any:
        return self._network

    def __exit__(self, *_: object) -> None:
        return


def test_tiles_are_halved_while_memory_does_not_suffice(picture: Callable[[int, int], Image]) -> None:
    network, image = Forgetful(most=130), picture(300, 600)
    found = upscale.upscale(Held(network), image).pixels  # type: ignore[arg-type]
    assert network.sides[:2] == [512, 256]
    assert max(network.sides[2:]) == 128
    torch.testing.assert_close(found, image.pixels.repeat_interleave(2, 1).repeat_interleave(2, 2))


@pytest.mark.parametrize(
    ("most", "message"), [(100, "DefaultCPUAllocator: can't allocate memory"), (130, "a shape is wrong")]
)
def test_an_error_that_smaller_tiles_do_not_cure_is_raised(
    most: int, message: str, picture: Callable[[int, int], Image]
) -> None:
    network = Forgetful(most, message)
    with pytest.raises(RuntimeError, match=message):
        upscale.upscale(Held(network), picture(300, 300))  # type: ignore[arg-type]
    assert min(network.sides) == (128 if most == 100 else 300)


def test_other_files_are_refused_by_name(
    tiny_sd1: Path, tiny: ModuleType, tmp_path: Path, esrgan: Path, memory: WeightMemory
) -> None:
    pickle = tmp_path / "esrgan.pth"
    pickle.write_bytes(b"PK\x03\x04" + b"\0" * 100)
    for path, words in (
        (tiny_sd1, "found a checkpoint"),
        (tiny.write(tmp_path / "lora.safetensors", tiny.sd1_lora()), "found a LoRA"),
        (pickle, "Pickles can run code"),
    ):
        with pytest.raises(HeaderError, match=words):
            describe_upscaler(path)
    with pytest.raises(HeaderError, match=r"an upscale model .*with LoadUpscaleModel"):
        open_checkpoint(esrgan, memory)


def test_a_network_that_spandrel_does_not_know_is_refused_when_it_is_read(
    tiny: ModuleType, tmp_path: Path, memory: WeightMemory
) -> None:
    path = tiny.write(tmp_path / "odd.safetensors", {"layer.weight": torch.zeros(3, 3)})
    with (
        pytest.raises(HeaderError, match="no architecture that spandrel knows"),
        open_upscaler(path, memory).weights.use(),
    ):
        pass


def test_a_file_with_a_missing_tensor_is_refused(tiny: ModuleType, tmp_path: Path, memory: WeightMemory) -> None:
    shapes = tiny.esrgan_shapes()
    del shapes["model.1.sub.0.RDB2.conv3.0.weight"]
    path = tiny.write(tmp_path / "broken.safetensors", tiny.fill(shapes))
    with pytest.raises(HeaderError, match="broken network"), open_upscaler(path, memory).weights.use():
        pass


def test_weights_count_against_the_budget(esrgan: Path, memory: WeightMemory) -> None:
    source = UpscalerSource(describe_upscaler(esrgan))
    with open_upscaler(esrgan, memory).weights.use() as network:
        assert memory.resident_bytes == source.size(memory.policy)
        assert sum(w.nbytes for w in network.model.parameters()) == source.size(memory.policy)


def test_stand_ins_for_torchvision_do_not_stay() -> None:
    code = (
        "import sys; from importlib.util import find_spec\n"
        "from latentgraph.diffusion.upscaling.sources import _without_torchvision as without\n"
        "state = lambda: (sorted(name for name in sys.modules if 'torchvision' in name), find_spec('torchvision'))\n"
        "before = state()\n"
        "with without():\n    import spandrel\n"
        "print(find_spec('torchvision') is not None or state() == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
