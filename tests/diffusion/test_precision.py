from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.names import Precision
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.precision import cpu_multiplies_bfloat16, resolve


def test_exact_is_float32_with_rounded_text_encoders() -> None:
    policy = resolve("exact", "cpu")
    assert (policy.unet, policy.vae, policy.text) == (torch.float32,) * 3
    assert policy.text_rounding == torch.float16
    assert policy.attention == "exact"
    assert policy.memory_format == torch.contiguous_format


def test_auto_keeps_text_encoders_unrounded_on_a_cpu() -> None:
    policy = resolve("auto", "cpu")
    assert policy.text == torch.float32
    assert policy.text_rounding is None
    assert policy.unet == (torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32)
    assert policy.memory_format == torch.channels_last


def test_cache_tokens_name_what_changes_pixels() -> None:
    assert resolve("exact", "cpu").cache_token == "exact/cpu"
    assert resolve("fp32", "cpu").cache_token == "fp32/cpu/float32,float32,float32,float32"


def test_gpus_whose_transformers_run_in_other_formats_share_no_cached_results(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = set()
    for capability in ((7, 5), (8, 0)):  # without bfloat16 and with it
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        tokens.add(resolve("auto", "cuda").cache_token)
    assert len(tokens) == 2


def test_bfloat16_is_chosen_by_the_flags_of_the_cpu(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    expected = {"sse4_2 avx512f avx512_bf16": True, "avx2 amx_tile amx_bf16": True, "avx2 avx512f": False}
    for flags, multiplies in expected.items():
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: none\n")
        assert cpu_multiplies_bfloat16(cpuinfo) == multiplies
    assert not cpu_multiplies_bfloat16(tmp_path / "missing")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_format_that_a_person_chose_is_that_of_all_but_an_autoencoder_that_overflows_in_it(
    precision: Precision, dtype: torch.dtype
) -> None:
    policy = resolve(precision, "cpu")
    assert (policy.unet, policy.transformer, policy.text) == (dtype,) * 3
    assert policy.vae == (resolve("auto", "cpu").vae if precision == "fp16" else dtype)
    assert policy.attention == "sdpa"
    assert policy.cache_token.startswith(f"{precision}/cpu/")


def test_a_network_is_held_once_in_each_precision_that_is_asked_for(tiny_sd1: Path) -> None:
    memory = WeightMemory(precision="exact", budget_bytes=1 << 30)
    weights = open_checkpoint(tiny_sd1, memory).model.weights
    half = replace(weights, precision="bf16")
    with weights.use() as network, half.use() as other, replace(weights, precision="bf16").use() as again:
        assert (network.dtype, other.dtype) == (torch.float32, torch.bfloat16)
        assert other is again
        assert memory.is_resident(half.source, half.policy)
    assert (weights.policy.precision, half.policy.precision) == ("exact", "bf16")
