from __future__ import annotations

from pathlib import Path

import torch

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
    assert resolve("auto", "cpu").cache_token in {"auto/cpu/bfloat16", "auto/cpu/float32"}


def test_bfloat16_is_chosen_by_the_flags_of_the_cpu(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    expected = {"sse4_2 avx512f avx512_bf16": True, "avx2 amx_tile amx_bf16": True, "avx2 avx512f": False}
    for flags, multiplies in expected.items():
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: none\n")
        assert cpu_multiplies_bfloat16(cpuinfo) == multiplies
    assert not cpu_multiplies_bfloat16(tmp_path / "missing")
