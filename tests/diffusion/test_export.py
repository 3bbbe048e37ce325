"""A checkpoint that is written is the one that was opened, in the layout of its family."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from latentgraph.diffusion.checkpoints.export import save_checkpoint
from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.variants import adapt
from latentgraph.diffusion.types import Clip, Vae


@pytest.fixture(scope="module")
def memory() -> WeightMemory:
    return WeightMemory(precision="exact", budget_bytes=1 << 30)


def tensors_of(handle: Model | Clip | Vae) -> dict[str, Tensor]:
    with handle.weights.use() as network:
        networks = network if isinstance(network, dict) else {"": network}
        return {f"{key}.{name}": w for key, net in networks.items() for name, w in net.state_dict().items()}


@pytest.mark.parametrize("name", ["tiny_sd1", "tiny_sd2_v", "tiny_sdxl"])
def test_a_written_checkpoint_has_the_tensors_of_the_one_that_was_opened(
    name: str, memory: WeightMemory, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(name)
    opened = open_checkpoint(path, memory)
    written = save_checkpoint(tmp_path, prefix="a/b", model=opened.model, clip=opened.clip, vae=opened.vae)
    assert written == tmp_path / "a" / "b_00001_.safetensors"
    before, after = load_file(path), load_file(written)
    assert after.keys() == {key for key in before if not key.endswith("logit_scale")}
    assert [key for key, w in after.items() if not torch.equal(w, before[key])] == []
    again = open_checkpoint(written, memory)
    assert again.model.spec == opened.model.spec
    assert again.clip is not None
    assert opened.clip is not None
    assert again.clip.spec == opened.clip.spec


def test_a_diffusers_folder_becomes_a_single_file(tiny_folder: Path, memory: WeightMemory, tmp_path: Path) -> None:
    opened = open_checkpoint(tiny_folder, memory)
    assert opened.clip is not None
    assert opened.vae is not None
    parts = {"model": opened.model, "clip": opened.clip, "vae": opened.vae}
    again = open_checkpoint(save_checkpoint(tmp_path, prefix="x", format="float32", **parts), memory)
    for name, handle in parts.items():
        before, after = tensors_of(handle), tensors_of(getattr(again, name))
        assert before.keys() == after.keys()
        assert all(torch.equal(w, after[key]) for key, w in before.items()), name


def test_what_a_network_predicts_is_written_down(tiny: ModuleType, memory: WeightMemory, tmp_path: Path) -> None:
    path = tiny.write_sdxl(tmp_path / "v.safetensors", v=True)
    opened = open_checkpoint(path, memory)
    written = save_checkpoint(tmp_path, prefix="v", model=opened.model, text={"latentgraph": '{"a": "é"}'})
    again = open_checkpoint(written, memory)
    assert (again.model.spec.prediction, again.model.spec.zero_terminal_snr) == ("v", True)
    assert (again.clip, again.vae) == (None, None)
    with safe_open(written, framework="pt") as file:
        assert file.metadata()["latentgraph"] == '{"a": "é"}'


def test_adapters_become_part_of_the_weights(
    tiny: ModuleType, tiny_sd1: Path, memory: WeightMemory, tmp_path: Path
) -> None:
    lora = tiny.write(tmp_path / "lora.safetensors", tiny.sd1_lora())
    opened = open_checkpoint(tiny_sd1, memory)
    model = adapt(opened.model, lora).handle
    again = open_checkpoint(save_checkpoint(tmp_path, prefix="x", model=model, format="float32"), memory)
    patched = tensors_of(model)
    assert all(torch.equal(w, patched[key]) for key, w in tensors_of(again.model).items())


def test_progress_is_told_and_a_failure_leaves_no_file(tiny_sd1: Path, memory: WeightMemory, tmp_path: Path) -> None:
    opened = open_checkpoint(tiny_sd1, memory)

    def stop(done: int, total: int) -> None:
        assert total > 100
        if done == 10:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        save_checkpoint(tmp_path / "out", prefix="x", model=opened.model, on_tensor=stop)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("format", ["bfloat16", "float32"])
def test_the_number_format_can_be_chosen(format: str, tiny_sd1: Path, memory: WeightMemory, tmp_path: Path) -> None:
    opened = open_checkpoint(tiny_sd1, memory)
    written = save_checkpoint(tmp_path, prefix="x", model=opened.model, format=format)  # type: ignore[arg-type]
    assert {w.dtype for w in load_file(written).values()} == {getattr(torch, format)}
