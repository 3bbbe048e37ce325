"""Model sizes. `small` trains on a CPU in an evening; `full` is meant for one GPU and fills the 60 MB file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from diffusers import AutoencoderKL, UNet2DConditionModel

T = TypeVar("T")

LATENT_CHANNELS = 4
LATENT_SCALE = 0.18215  # LDM configs, scale_factor: latents to about unit std
TOKENS = 77  # CLIP text context
HEADS = 8  # SD1: eight attention heads at every level


@dataclass(frozen=True)
class AutoencoderPreset:
    """One autoencoder: base width, width multiples by level, ResNet blocks of the encoder levels, and training."""

    channels: int
    multiples: tuple[int, ...]
    blocks: int
    batch: int
    lr: float

    def build(self) -> AutoencoderKL:
        widths = [self.channels * m for m in self.multiples]
        network: AutoencoderKL = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=["DownEncoderBlock2D"] * len(widths),
            up_block_types=["UpDecoderBlock2D"] * len(widths),
            block_out_channels=widths,
            layers_per_block=self.blocks,
            latent_channels=LATENT_CHANNELS,
            sample_size=128,
        )
        return network


@dataclass(frozen=True)
class DiffusionPreset:
    """One denoiser and its text encoder: widths by level, levels with attention, text size, and training."""

    widths: tuple[int, ...]
    attention: tuple[bool, ...]
    blocks: int
    text_width: int
    text_layers: int
    batch: int
    lr: float
    decay: float  # of the moving average of weights, by step

    def build_unet(self) -> UNet2DConditionModel:
        levels = list(zip(self.widths, self.attention, strict=True))
        network: UNet2DConditionModel = UNet2DConditionModel(
            sample_size=16,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            block_out_channels=self.widths,
            down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for _, a in levels],
            up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for _, a in reversed(levels)],
            layers_per_block=self.blocks,
            cross_attention_dim=self.text_width,
            attention_head_dim=HEADS,  # diffusers' name for the number of heads in SD1 configurations
        )
        return network

    def text_arguments(self) -> dict[str, Any]:
        """Returns the arguments of transformers' CLIPTextConfig, but for the vocabulary."""
        return {
            "hidden_size": self.text_width,
            "intermediate_size": 4 * self.text_width,
            "num_hidden_layers": self.text_layers,
            "num_attention_heads": self.text_width // 64,
            "max_position_embeddings": TOKENS,
            "hidden_act": "quick_gelu",
        }


AUTOENCODERS = {
    "small": AutoencoderPreset(channels=32, multiples=(1, 1, 2, 4), blocks=1, batch=3, lr=1e-3),
    "full": AutoencoderPreset(channels=32, multiples=(1, 2, 4, 4), blocks=1, batch=128, lr=1e-3),
}

DIFFUSIONS = {
    "small": DiffusionPreset(
        widths=(64, 160, 288),
        attention=(False, False, True),
        blocks=1,
        text_width=128,
        text_layers=3,
        batch=96,
        lr=2e-3,
        decay=0.998,
    ),
    "full": DiffusionPreset(
        widths=(128, 160, 224),
        attention=(True, True, True),
        blocks=1,
        text_width=128,
        text_layers=4,
        batch=512,
        lr=2e-3,
        decay=0.9995,
    ),
}


def preset_named(name: str, presets: dict[str, T]) -> T:
    """Returns a preset by name, or says which names there are."""
    if name not in presets:
        raise SystemExit(f"unknown preset {name!r}. Known: {', '.join(presets)}")
    return presets[name]
