"""In which number formats the networks run: the one place that decides it.

`exact` is float32 on every device with the order of operations that results are compared in; `auto` is the fastest
choice that a person would not tell from it. The others are `auto` in a format that a person chose. Nothing here changes torch's
global settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from ..families.specs import NetworkKind
from ..families.text_specs import TextKind
from ..names import Precision


class _Formats(NamedTuple):
    unet: torch.dtype
    transformer: torch.dtype
    vae: torch.dtype
    text: torch.dtype


@dataclass(frozen=True, slots=True)
class NumericPolicy:
    """The formats of one device. `unet`, `transformer`, `vae`, `text`: what the weights are kept and computed in.

    text_rounding: a format that text encoder weights pass through on their way, or None. attention: "sdpa" is torch's
    scaled_dot_product_attention, "exact" the written-out order of operations of `attention`.
    """

    precision: Precision
    device: torch.device
    unet: torch.dtype
    transformer: torch.dtype
    vae: torch.dtype
    text: torch.dtype
    text_rounding: torch.dtype | None
    memory_format: torch.memory_format
    attention: Literal["sdpa", "exact"]

    def denoiser(self, kind: NetworkKind) -> torch.dtype:
        """Returns the format of a denoising network of a kind."""
        return self.unet if kind == "unet" else self.transformer

    def text_format(self, kind: TextKind) -> torch.dtype:
        """Returns the format of text encoders of a kind. T5 and language models are large, and overflow in float16."""
        if kind not in ("t5", "decoder"):
            return self.text
        return torch.bfloat16 if self.transformer is torch.float16 else self.transformer

    @property
    def cache_token(self) -> str:
        """What tells two policies apart that may give other pixels, for cache keys: "fp32/cpu/float32,float32,float32,float32".

        The formats are those of UNets, transformers, autoencoders and text encoders.
        """
        if self.precision == "exact":
            return f"exact/{self.device.type}"
        formats = (self.unet, self.transformer, self.vae, self.text)
        return f"{self.precision}/{self.device.type}/{','.join(str(each).removeprefix('torch.') for each in formats)}"


def resolve(precision: Precision, device: torch.device | str = "cpu") -> NumericPolicy:
    """Returns the policy for a device.

    exact keeps text encoder weights rounded to float16 and computes in float32, as ComfyUI 0.8.0 does on a CPU
    (behaviour). On CUDA, convolutions then still use TF32 where torch's own settings, which are the caller's, allow it.
    """
    device, is_exact = torch.device(device), precision == "exact"
    formats = _formats(precision, device)
    return NumericPolicy(
        precision=precision,
        device=device,
        unet=formats.unet,
        transformer=formats.transformer,
        vae=formats.vae,
        text=formats.text,
        text_rounding=torch.float16 if is_exact else None,
        memory_format=torch.contiguous_format if is_exact else torch.channels_last,
        attention="exact" if is_exact else "sdpa",
    )


def _formats(precision: Precision, device: torch.device) -> _Formats:
    """Returns the formats that a person chose. In float16, VAEs take what `auto` gives them."""
    if precision == "auto":
        return _auto_formats(device)
    chosen = {"exact": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    vae = _auto_formats(device).vae if chosen is torch.float16 else chosen
    return _Formats(chosen, chosen, vae, chosen)


def _auto_formats(device: torch.device) -> _Formats:
    """Returns the formats that are fast on a device.

    On CUDA neither transformers nor VAEs run in float16: FLUX's activations and SDXL's VAE overflow there. Text encoders are
    small, so on a CPU they stay exact.
    """
    if device.type == "cuda":
        wide = torch.cuda.get_device_capability(device)[0] >= 8  # Ampere, the first with bfloat16
        ranged = torch.bfloat16 if wide else torch.float32
        return _Formats(torch.float16, ranged, ranged, torch.float16)
    if device.type == "cpu" and cpu_multiplies_bfloat16():
        return _Formats(torch.bfloat16, torch.bfloat16, torch.bfloat16, torch.float32)
    return _Formats(torch.float32, torch.float32, torch.float32, torch.float32)


def cpu_multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Returns whether this CPU has AMX or AVX512-BF16; without either, bfloat16 is slower than float32."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return "amx_bf16" in flags or "avx512_bf16" in flags
