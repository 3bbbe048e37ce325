"""Textual inversions: which vectors of a file are for which encoder, and which files are none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from latentgraph.diffusion.checkpoints.describe import describe
from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.families.text_joins import ClipSpec
from latentgraph.diffusion.text.embeddings import load_vectors, read_embedding, vector_finder

Write = Callable[[dict[str, Tensor]], Path]


@pytest.fixture
def written(tmp_path: Path) -> Write:
    def write(tensors: dict[str, Tensor]) -> Path:
        path = tmp_path / f"tv{len(list(tmp_path.iterdir()))}.safetensors"
        save_file(tensors, path)
        return path

    return write


def text(path: Path) -> ClipSpec:
    clip = describe(path).clip
    assert clip is not None
    return clip


def vectors(seed: int, count: int, width: int = 64) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_the_vectors_of_a_lone_tensor_are_for_every_encoder(written: Write, tiny_sd1: Path) -> None:
    found = read_embedding(written({"emb_params": vectors(1, 2).half()}))
    (encoder,) = text(tiny_sd1).encoders
    loaded = load_vectors(found, encoder)
    assert loaded is not None
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, vectors(1, 2).half().float())
    assert found.misfit(text(tiny_sd1)) is None


def test_a_lone_vector_is_one_token(written: Write, tiny_sd1: Path) -> None:
    (encoder,) = text(tiny_sd1).encoders
    loaded = load_vectors(read_embedding(written({"<cat-toy>": vectors(1, 1)[0]})), encoder)
    assert loaded is not None
    assert loaded.shape == (1, 64)


def test_each_of_sdxls_encoders_has_vectors_of_its_own(written: Write, tiny_sdxl: Path) -> None:
    path = written({"clip_g": vectors(2, 3), "clip_l": vectors(1, 2)})
    find = vector_finder({"tv": path})
    first, second = text(tiny_sdxl).encoders
    assert torch.equal(find("tv", first), vectors(1, 2))
    assert torch.equal(find("tv", second), vectors(2, 3))
    assert find("other", first) is None


def test_the_vectors_of_a_bundle_follow_one_another(written: Write, tiny_sdxl: Path) -> None:
    first, second = text(tiny_sdxl).encoders
    bundle = {f"bundle_emb.cat.{key}": vectors(n, 2) for n, key in enumerate(("clip_g", "clip_l"))}
    found = read_embedding(written({**bundle, "bundle_emb.dog.string_to_param.*": vectors(7, 1)}))
    assert torch.equal(load_vectors(found, first), torch.cat([vectors(1, 2), vectors(7, 1)]))
    assert torch.equal(load_vectors(found, second), torch.cat([vectors(0, 2), vectors(7, 1)]))


def test_vectors_of_another_width_are_a_misfit_and_are_not_loaded(
    written: Write, tiny_sd1: Path, tiny_sdxl: Path
) -> None:
    found = read_embedding(written({"clip_l": vectors(1, 2), "clip_g": vectors(1, 2, 48)}))
    assert found.misfit(text(tiny_sd1)) is None
    assert found.misfit(text(tiny_sdxl)) == (
        "holds 48 numbers a token (clip_g), but clip_g of the sdxl family takes 64; use one that was made for this family"
    )
    assert load_vectors(found, text(tiny_sdxl).encoders[1]) is None


def test_a_file_that_names_encoders_is_for_those_alone(written: Write, tiny_sd1: Path, tiny_sdxl: Path) -> None:
    sdxl, sd1 = text(tiny_sdxl), text(tiny_sd1)
    found = read_embedding(written({"clip_l": vectors(1, 2), "t5xxl": vectors(1, 2, 48)}))
    assert found.misfit(sdxl) is None
    assert load_vectors(found, sdxl.encoders[1]) is None
    other = read_embedding(written({"clip_g": vectors(1, 2)}))
    assert other.misfit(sd1) == "is for clip_g, but the sd1 family has clip_l; use one that was made for it"


NONE = {
    "a LoRA": ({"lora_unet_mid_block.lora_up.weight": vectors(1, 2)}, "found a LoRA .*expected a textual inversion"),
    "a text encoder": ({"text_model.final_layer_norm.weight": vectors(1, 1)[0]}, "found a text encoder alone"),
    "convolutions": ({"conv.weight": torch.zeros(2, 2, 3, 3)}, "a file of unknown kind, with keys below conv.weight"),
    "a number": ({"a": torch.zeros(())}, "a file of unknown kind, with keys below a "),
    "no vectors": ({"a": torch.zeros(0, 4)}, "a file of unknown kind"),
    "nothing": ({}, "a file without tensors"),
}


@pytest.mark.parametrize(("tensors", "said"), NONE.values(), ids=NONE)
def test_a_file_that_is_none_is_told_what_it_is(tensors: dict[str, Tensor], said: str, written: Write) -> None:
    with pytest.raises(HeaderError, match=said):
        read_embedding(written(tensors))


def test_a_checkpoint_is_no_embedding(tiny_sd1: Path, tiny: ModuleType) -> None:
    with pytest.raises(HeaderError, match=r"found a checkpoint .*Name an embedding\."):
        read_embedding(tiny_sd1)


def test_reading_embeddings_loads_no_torch() -> None:
    code = "import sys, latentgraph.diffusion.text.embeddings; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False False"
