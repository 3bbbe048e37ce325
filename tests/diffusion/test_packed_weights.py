"""Weights in float8 and GGUF: small in memory, widened a layer at a time, and the numbers that they stand for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentgraph.diffusion.checkpoints.headers import HeaderError, read_floats, read_header
from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.checkpoints.tensors import BLOCKS
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.networks.blending import mix
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.stored import StoredModule, StoredWeight, store, stored_modules
from latentgraph.diffusion.networks.variants import adapt, merge
from latentgraph.diffusion.text.encoding import encode_prompt
from latentgraph.diffusion.types import Clip

from .quantized_files import write_gguf

CPU = torch.device("cpu")
UNET = "model.diffusion_model."


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_blocks(name: str, rows: int, width: int) -> np.ndarray[Any, Any]:
    """Returns (rows, bytes) of blocks with random bits, whose float16 scales are small numbers."""
    blocks = BLOCKS[name]
    bits = np.random.default_rng(0).integers(0, 256, (rows * width // blocks.values, blocks.size), dtype=np.uint8)
    scales = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(name, (0, 2) if name in DOUBLE else (0,))
    for at in scales:
        bits[:, at : at + 2] = np.float16(0.01).tobytes()[0], np.float16(0.01).tobytes()[1]
    return bits.reshape(rows, -1)


DOUBLE = {"Q4_1", "Q5_1", "Q4_K", "Q5_K"}  # a scale and a minimum


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_widened_to_the_numbers_that_the_gguf_package_gives(name: str) -> None:
    bits = random_blocks(name, 4, 512)
    expected = torch.from_numpy(gguf.quants.dequantize(bits, gguf.GGMLQuantizationType[name]))
    weight = StoredWeight(torch.from_numpy(bits.reshape(-1)), (4, 512), blocks=name)
    assert torch.equal(weight.widened(torch.float32), expected)
    assert torch.equal(weight.widened(torch.bfloat16), expected.bfloat16())
    assert torch.equal(weight.rows(lambda rows: rows[2:]).widened(torch.float32), expected[2:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [None, 0.0371, draws(4).abs()], ids=["no scale", "one", "of each row"])
def test_a_scaled_weight_is_rounded_once(scale: float | Tensor | None, dtype: torch.dtype) -> None:
    data = draws(4, 6).to(torch.float8_e4m3fn)
    factor = 1.0 if scale is None else scale[:, None] if isinstance(scale, Tensor) else scale
    expected = (data.float() * factor).to(dtype)
    weight = StoredWeight(data, (4, 6), scale)
    assert torch.equal(weight.widened(dtype), expected)
    assert torch.equal(weight.rows(lambda rows: rows[1:3]).widened(dtype), expected[1:3])
    assert torch.equal(data.float(), draws(4, 6).to(torch.float8_e4m3fn).float()), "what is stored stays as it is"


@pytest.mark.parametrize(
    ("module", "sample"),
    [
        (nn.Linear(64, 32), draws(2, 64)),
        (nn.Conv2d(16, 8, 3, stride=2, padding=1), draws(1, 16, 8, 8)),
        (nn.Embedding(32, 64), torch.tensor([[3, 3, 31], [0, 7, 3]])),
    ],
    ids=["Linear", "Conv2d", "Embedding"],
)
def test_a_module_with_a_stored_weight_computes_as_with_the_widened_one(module: Any, sample: Tensor) -> None:
    data = module.weight.detach().to(torch.float8_e5m2)
    module.weight = nn.Parameter(data.float() * 2.0)
    expected = module(sample)
    store(module, StoredWeight(data, tuple(data.shape), 2.0), dtype=torch.float32, device=CPU)
    assert torch.equal(module(sample), expected)
    assert "weight" not in dict(module.named_parameters())


@pytest.fixture(scope="module")
def memory() -> WeightMemory:
    return WeightMemory(precision="exact", budget_bytes=1 << 30)


def matrices(tensors: Mapping[str, Tensor], *, of: str) -> list[str]:
    return [key for key, w in tensors.items() if key.startswith(of) and key.endswith(".weight") and w.ndim > 1]


def write_scaled(path: Path, tensors: Mapping[str, Tensor], *, kind: torch.dtype, scale: str) -> dict[str, Tensor]:
    """Writes a checkpoint whose network has float8 matrices with scales, and returns the numbers that it stands for."""
    written, meant = dict(tensors), {key: w.half().float() for key, w in tensors.items()}
    for key in matrices(tensors, of=UNET):
        factor = (tensors[key].abs().max() / 400).reshape(())
        written[key] = (tensors[key] / factor).to(kind)
        written[key.removesuffix("weight") + scale] = factor
        written[key.removesuffix("weight") + "scale_input"] = torch.tensor(1.0)
        meant[key] = written[key].float() * factor
    written[f"{UNET}scaled_fp8"] = torch.zeros(2, dtype=kind)
    save_file({key: w.half() if w.dtype == torch.float32 and w.ndim else w for key, w in written.items()}, path)
    return meant


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters()) | {f"{name}.weight": m.weight for name, m in stored_modules(network)}


def opened(path: Path, memory: WeightMemory) -> Model:
    return open_checkpoint(path, memory).model


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale"])
def test_a_scaled_float8_checkpoint_is_the_widened_one_in_a_fraction_of_the_memory(
    kind: torch.dtype, scale: str, tiny: ModuleType, tmp_path: Path, memory: WeightMemory
) -> None:
    tensors = tiny.sd1_tensors()
    meant = write_scaled(tmp_path / "scaled.safetensors", tensors, kind=kind, scale=scale)
    save_file(meant, tmp_path / "wide.safetensors")
    packed, wide = opened(tmp_path / "scaled.safetensors", memory), opened(tmp_path / "wide.safetensors", memory)
    with packed.weights.use() as network, wide.weights.use() as reference:
        assert_same_weights(network, reference)
        assert_small(network, reference, least=3.5)
        assert_sizes_are_true(packed, network)


def test_a_gguf_network_is_the_widened_one_in_a_fraction_of_the_memory(
    tiny: ModuleType, tmp_path: Path, memory: WeightMemory
) -> None:
    network_tensors = {k.removeprefix(UNET): w for k, w in tiny.sd1_tensors().items() if k.startswith(UNET)}
    meant = write_gguf(tmp_path / "model.gguf", network_tensors, architecture="sd1")
    save_file({UNET + key: w for key, w in meant.items()}, tmp_path / "wide.safetensors")
    packed, wide = opened(tmp_path / "model.gguf", memory), opened(tmp_path / "wide.safetensors", memory)
    with packed.weights.use() as network, wide.weights.use() as reference:
        assert_same_weights(network, reference)
        assert any(isinstance(module, StoredModule) for module in network.modules())
        assert_sizes_are_true(packed, network)


def assert_same_weights(network: nn.Module, reference: nn.Module) -> None:
    expected = weights_of(reference)
    found = weights_of(network)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def resident_bytes(network: nn.Module) -> int:
    return sum(w.nbytes for w in (*network.parameters(), *network.buffers()))


def assert_small(network: nn.Module, reference: nn.Module, *, least: float) -> None:
    assert resident_bytes(reference) / resident_bytes(network) > least


def assert_sizes_are_true(model: Model, network: nn.Module) -> None:
    """What memory reckons with is what is there, but for scales and marks."""
    told = model.weights.source.size(model.weights.memory.policy)
    assert 0.99 < told / resident_bytes(network) < 1.01


@pytest.fixture(scope="module")
def pair(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory, memory: WeightMemory) -> tuple[Model, Model]:
    """A packed network, and the one that it stands for."""
    folder = tmp_path_factory.mktemp("pair")
    meant = write_scaled(
        folder / "scaled.safetensors", tiny.sd1_tensors(), kind=torch.float8_e4m3fn, scale="scale_weight"
    )
    save_file(meant, folder / "wide.safetensors")
    return opened(folder / "scaled.safetensors", memory), opened(folder / "wide.safetensors", memory)


def test_a_lora_on_packed_weights_changes_them_as_it_changes_wide_ones_and_leaves_them_packed(
    pair: tuple[Model, Model], tiny: ModuleType, tmp_path: Path
) -> None:
    lora = tmp_path / "lora.safetensors"
    save_file({key: w.half() for key, w in tiny.sd1_lora().items()}, lora)
    twice = [adapt(adapt(model, lora, strength=0.7).handle, lora, strength=-0.2).handle for model in pair]
    with twice[0].weights.use() as network, twice[1].weights.use() as reference, pair[0].weights.use() as base:
        assert_same_weights(network, reference)
        assert_small(network, reference, least=2.0)
        own = resident_bytes(network) - resident_bytes(base)
        told = twice[0].weights.source.size(twice[0].weights.memory.policy)
        assert 0.9 < told / own < 1.1
        shared = {w.data_ptr() for w in base.buffers()} & {w.data_ptr() for w in network.buffers()}
        assert len(shared) >= sum(1 for _ in stored_modules(base))
        assert not any(module.laid_on for _, module in stored_modules(base)), "the base itself is never changed"


def test_a_mixture_of_packed_and_wide_weights_is_that_of_the_wide_ones(pair: tuple[Model, Model]) -> None:
    packed, wide = pair
    for one, other in ((packed, wide), (wide, packed), (packed, packed)):
        mixed = merge(one, other, mix(0.25))
        with mixed.weights.use() as network, merge(wide, wide, mix(0.25)).weights.use() as reference:
            assert_same_weights(network, reference)
            assert not list(stored_modules(network))


def test_float8_text_encoders_stay_small_and_give_the_same_text(
    tiny: ModuleType, tmp_path: Path, memory: WeightMemory
) -> None:
    tensors = {key: w.to(torch.float8_e4m3fn) for key, w in tiny.sd1_tensors().items()}
    save_file(tensors, tmp_path / "small.safetensors")
    save_file({key: w.half() for key, w in tensors.items()}, tmp_path / "wide.safetensors")
    clips = [open_checkpoint(tmp_path / f"{name}.safetensors", memory).clip for name in ("small", "wide")]
    found, expected = (encoded(clip) for clip in clips if clip is not None)
    assert torch.equal(found, expected)
    assert clips[0] is not None
    with clips[0].weights.use() as networks:
        assert any(isinstance(module, StoredModule) for module in networks["clip_l"].modules())


def encoded(clip: Clip) -> Tensor:
    return encode_prompt(clip, "a (red:1.2) apple").conditioning.entries[0].embedding


def test_a_scale_of_blocks_is_refused_before_a_weight_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    weight = torch.zeros(256, 256, dtype=torch.float8_e4m3fn)
    for name, scale in (
        ("weight_scale", torch.ones(2, 2)),
        ("scale_weight", weight.clone()),
    ):
        save_file({"a.weight": weight, f"a.{name}": scale}, path)
        with pytest.raises(HeaderError, match="one scale for a whole weight"):
            read_header(path)
    save_file({"a.scale_weight": torch.ones(1)}, path)
    with pytest.raises(HeaderError, match="a scale of no weight"):
        read_header(path)


U8, I8 = torch.zeros(64, 32, dtype=torch.uint8), torch.zeros(64, 64, dtype=torch.int8)
E4M3, SCALE = torch.zeros(64, 64, dtype=torch.float8_e4m3fn), torch.ones(1)


def stated(format_name: str, **more: bool) -> Tensor:
    """ComfyUI's mark of a layer's packing: JSON in bytes."""
    return torch.tensor(list(json.dumps({"format": format_name, **more}).encode()), dtype=torch.uint8)


FOREIGN: dict[str, tuple[str, dict[str, Tensor]]] = {
    "NVFP4, by ComfyUI and others": (
        "NVFP4",
        {"a.weight": U8, "a.weight_scale": torch.ones(64, 4).to(torch.float8_e4m3fn), "a.weight_scale_2": SCALE},
    ),
    "MXFP8": ("MXFP8", {"a.weight": E4M3, "a.weight_scale": torch.ones(64, 2, dtype=torch.uint8)}),
    "float8 in blocks": ("float8 in blocks", {"a.weight": E4M3, "a.weight_scale_inv": torch.ones(1, 1)}),
    "NF4": ("NF4", {"a.weight": U8, "a.weight.quant_state.bitsandbytes__nf4": U8[0].clone()}),
    "SVDQuant": ("SVDQuant", {"a.qweight": I8, "a.wscales": torch.ones(1, 64), "a.lora_down": torch.ones(64, 2)}),
    "GPTQ": ("GPTQ or AWQ", {"a.qweight": U8, "a.qzeros": U8[:1].clone(), "a.scales": torch.ones(1, 64)}),
    "rotated 8-bit integers": (
        "ConvRot",
        {"a.weight": I8, "a.weight_scale": torch.ones(64), "a.comfy_quant": stated("int8_tensorwise", convrot=True)},
    ),
    "a packing that is yet to come": (
        "asym_w4a8_int8",
        {"a.weight": I8, "a.weight_scale": torch.ones(64), "a.comfy_quant": stated("asym_w4a8_int8")},
    ),
}


@pytest.mark.parametrize(("title", "tensors"), FOREIGN.values(), ids=FOREIGN)
def test_a_packing_that_is_not_widened_is_refused_by_its_name(
    title: str, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(
        HeaderError, match=rf"found weights in .*{title}.*Choose the scaled float8 \(fp8_scaled\), the GGUF"
    ):
        read_header(tmp_path / "w.safetensors")


def test_a_packing_that_the_metadata_states_is_refused_by_its_name(tmp_path: Path) -> None:
    layers = json.dumps({"format_version": "1.0", "layers": {"a": {"format": "nvfp4"}}})
    save_file({"a.weight": U8}, tmp_path / "w.safetensors", {"_quantization_metadata": layers})
    with pytest.raises(HeaderError, match=r"found weights in nvfp4 \('a'\)"):
        read_header(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "mark", [stated("int8_tensorwise"), stated("float8_e4m3fn", full_precision_matrix_mult=True), U8[0]]
)
def test_marks_of_packings_that_are_widened_are_passed_over(mark: Tensor, tmp_path: Path) -> None:
    tensors = {"a.weight": I8, "a.weight_scale": torch.ones(64, 1), "a.comfy_quant": mark.clone()}
    save_file(tensors, tmp_path / "w.safetensors", {"_quantization_metadata": "not JSON"})
    assert read_header(tmp_path / "w.safetensors").tensors["a.weight"].is_packed


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_small_float8_tensors_are_read_from_the_file(kind: torch.dtype, tmp_path: Path) -> None:
    values = torch.arange(256, dtype=torch.uint8).view(kind)
    save_file({"w": values}, tmp_path / "w.safetensors")
    found = torch.tensor(read_floats(read_header(tmp_path / "w.safetensors"), "w"), dtype=torch.float64)
    assert torch.equal(found.nan_to_num(1e9), values.double().nan_to_num(1e9))
    assert load_file(tmp_path / "w.safetensors")["w"].dtype == kind
