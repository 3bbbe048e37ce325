"""Small checkpoints with made-up weights, in the true layouts of the families.

The layouts are written down here from LDM's and OpenCLIP's own naming, apart from the code that reads them, so that a
wrong key map or a wrong reading of shapes shows. Use the fixtures of `tests/conftest.py`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ConsistencyDecoderVAE, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

Shapes = dict[str, tuple[int, ...]]

VOCABULARY, POSITIONS = 49408, 77
UNET, VAE = "model.diffusion_model.", "first_stage_model."
SD1_TEXT = "cond_stage_model.transformer.text_model."
SD2_TEXT = "cond_stage_model.model."
SDXL_TEXT_L, SDXL_TEXT_G = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."


@dataclass(frozen=True)
class UNetLayout:
    """An LDM UNet, in the terms of LDM's configuration files. depth and depth_output count per res block, outermost first."""

    channels: int
    mult: tuple[int, ...]
    blocks: tuple[int, ...]
    depth: tuple[int, ...]
    depth_output: tuple[int, ...]
    depth_middle: int
    context: int
    linear: bool
    in_channels: int = 4
    adm: int | None = None
    text_alone: tuple[bool, ...] = ()  # LDM's disable_self_attentions
    classes: int | None = None  # its num_classes


def layout_of(config: Mapping[str, Any]) -> UNetLayout:
    """Returns the layout of a row of misc.json's "detection"."""
    return UNetLayout(
        channels=config["model_channels"],
        mult=tuple(config["channel_mult"]),
        blocks=tuple(config["num_res_blocks"]),
        depth=tuple(config["transformer_depth"]),
        depth_output=tuple(config["transformer_depth_output"]),
        depth_middle=config["transformer_depth_middle"],
        context=config["context_dim"],
        linear=config["use_linear_in_transformer"],
        in_channels=config["in_channels"],
        adm=config["adm_in_channels"],
    )


SD1 = UNetLayout(32, (1, 2), (1, 1), (1, 0), (1, 1, 0, 0), 1, context=64, linear=False)
SD2 = UNetLayout(64, (1, 2), (1, 1), (1, 0), (1, 1, 0, 0), 1, context=64, linear=True)
SDXL = UNetLayout(64, (1, 2), (1, 1), (0, 2), (0, 0, 2, 2), 2, context=128, linear=True, adm=64 + 6 * 256)
UNCLIP = UNetLayout(64, (1, 2), (1, 1), (1, 0), (1, 1, 0, 0), 1, context=64, linear=True, adm=2 * 64)
REFINER = UNetLayout(
    64, (1, 2, 2), (1, 1, 1), (0, 1, 0), (0, 0, 1, 1, 0, 0), 1, context=64, linear=True, adm=64 + 5 * 256
)
X4 = UNetLayout(
    *(32, (1, 4, 8), (1, 1, 1), (0, 1, 1), (0, 0, 1, 1, 1, 1), 1),
    context=64,
    linear=True,
    in_channels=7,
    text_alone=(True, True, False),
    classes=1000,
)
PUBLISHED_X4 = UNetLayout(  # x4-upscaler-ema, whose outermost level does not attend at all
    *(256, (1, 2, 2, 4), (2,) * 4, (0, 0, *[1] * 6), (0, 0, 0, *[1] * 9), 1),
    context=1024,
    linear=True,
    in_channels=7,
    text_alone=(True, True, True, False),
    classes=1000,
)
REFERENCE = UNetLayout(32, (1, 2, 2, 2), (1,) * 4, (1, 1, 1, 0), (1,) * 6 + (0, 0), 1, context=24, linear=False)


def unet_shapes(layout: UNetLayout) -> Shapes:
    """Returns the keys and shapes of LDM's UNetModel."""
    width, time = layout.channels, 4 * layout.channels
    shapes = _linear("time_embed.0", time, width) | _linear("time_embed.2", time, time)
    if layout.adm:
        shapes |= _linear("label_emb.0.0", time, layout.adm) | _linear("label_emb.0.2", time, time)
    if layout.classes:
        shapes |= {"label_emb.weight": (layout.classes, time)}
    text_alone = layout.text_alone or (False,) * len(layout.mult)
    shapes |= _conv("input_blocks.0.0", width, layout.in_channels)
    depth, depth_output = list(layout.depth), list(layout.depth_output)
    skips, n = [width], 1
    for level, mult in enumerate(layout.mult):
        for _ in range(layout.blocks[level]):
            shapes |= _res(f"input_blocks.{n}.0", width, mult * layout.channels, time)
            width = mult * layout.channels
            shapes |= _transformer(f"input_blocks.{n}.1", width, depth.pop(0), layout, text_alone[level])
            skips.append(width)
            n += 1
        if level < len(layout.mult) - 1:
            shapes |= _conv(f"input_blocks.{n}.0.op", width, width)
            skips.append(width)
            n += 1
    shapes |= _res("middle_block.0", width, width, time) | _transformer(
        "middle_block.1", width, layout.depth_middle, layout
    )
    shapes |= _res("middle_block.2", width, width, time) if layout.depth_middle > 0 else {}
    m = 0
    for level, mult in reversed(list(enumerate(layout.mult))):
        for i in range(layout.blocks[level] + 1):
            shapes |= _res(f"output_blocks.{m}.0", width + skips.pop(), mult * layout.channels, time)
            width = mult * layout.channels
            attends = depth_output.pop()
            shapes |= _transformer(f"output_blocks.{m}.1", width, attends, layout, text_alone[level])
            if level and i == layout.blocks[level]:
                shapes |= _conv(f"output_blocks.{m}.{2 if attends else 1}.conv", width, width)
            m += 1
    return shapes | _norm("out.0", width) | _conv("out.2", 4, width)


def esrgan_shapes(width: int = 8, growth: int = 32) -> Shapes:
    """Returns the keys and shapes of ESRGAN's RRDBNet of one block, as first published; it enlarges 4 times."""
    shapes = _conv("model.0", width, 3)
    for dense in (1, 2, 3):
        for n in range(1, 6):
            into, out = width + (n - 1) * growth, growth if n < 5 else width
            shapes |= _conv(f"model.1.sub.0.RDB{dense}.conv{n}.0", out, into)
    shapes |= _conv("model.1.sub.1", width, width) | _conv("model.3", width, width) | _conv("model.6", width, width)
    return shapes | _conv("model.8", width, width) | _conv("model.10", 3, width)


def write_upscaler(path: Path) -> Path:
    """Writes an ESRGAN."""
    return write(path, fill(esrgan_shapes(), gain=0.7))


def ip_adapter_shapes(
    kind: str, widths: tuple[int, ...], *, context: int, picture: int, width: int = 64, tokens: int = 4, depth: int = 4
) -> Shapes:
    """Returns the keys and shapes of an IP adapter as its makers name them: "base", "plus" or "full"; widths: of attentions."""
    shapes: Shapes = {}
    for n, out in enumerate(widths):
        shapes |= {f"ip_adapter.{2 * n + 1}.to_{each}_ip.weight": (out, context) for each in "kv"}
    head = "image_proj"
    if kind == "base":
        return shapes | _linear(f"{head}.proj", tokens * context, picture) | _norm(f"{head}.norm", context)
    if kind == "full":
        shapes |= _linear(f"{head}.proj.0", picture, picture) | _linear(f"{head}.proj.2", context, picture)
        return shapes | _norm(f"{head}.proj.3", context)
    shapes |= {f"{head}.latents": (1, tokens, width)}
    shapes |= _linear(f"{head}.proj_in", width, picture) | _linear(f"{head}.proj_out", context, width)
    shapes |= _norm(f"{head}.norm_out", context)
    for n in range(depth):
        layer = f"{head}.layers.{n}"
        shapes |= _norm(f"{layer}.0.norm1", width) | _norm(f"{layer}.0.norm2", width)
        shapes |= _linear(f"{layer}.0.to_q", 128, width, bias=False) | _linear(
            f"{layer}.0.to_kv", 256, width, bias=False
        )
        shapes |= _linear(f"{layer}.0.to_out", width, 128, bias=False) | _norm(f"{layer}.1.0", width)
        shapes |= _linear(f"{layer}.1.1", 4 * width, width, bias=False) | _linear(
            f"{layer}.1.3", width, 4 * width, bias=False
        )
    return shapes


SD1_ATTENTIONS = (32, 32, 32, 64)  # down, up, middle
SDXL_ATTENTIONS = (128,) * 8


def write_ip_adapter(path: Path, kind: str, widths: tuple[int, ...], *, context: int, picture: int) -> Path:
    """Writes an IP adapter in its makers' layout."""
    return write(path, fill(ip_adapter_shapes(kind, widths, context=context, picture=picture), gain=1.0))


HINT_WIDTHS = (16, 32, 96, 256)


def control_net_shapes(layout: UNetLayout) -> Shapes:
    """Returns the keys and shapes of the original ControlNet for UNets of this layout, without "control_model."."""
    parts = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.")
    shapes = {key: shape for key, shape in unet_shapes(layout).items() if key.startswith(parts)}
    skips = [layout.channels]
    for level, mult in enumerate(layout.mult):
        skips += [mult * layout.channels] * (layout.blocks[level] + (level < len(layout.mult) - 1))
    for n, width in enumerate(skips):
        shapes |= _conv(f"zero_convs.{n}.0", width, width, kernel=1)
    shapes |= _conv("middle_block_out.0", skips[-1], skips[-1], kernel=1)
    pairs = [(3, HINT_WIDTHS[0])]
    for a, b in pairwise(HINT_WIDTHS):
        pairs += [(a, a), (a, b)]
    pairs.append((HINT_WIDTHS[-1], layout.channels))
    for n, (into, out) in enumerate(pairs):
        shapes |= _conv(f"input_hint_block.{2 * n}", out, into)
    return shapes


def write_control_net(path: Path, layout: UNetLayout, *, gain: float = 0.5) -> Path:
    """Writes a ControlNet in the original layout."""
    return write(path, {f"control_model.{key}": w for key, w in fill(control_net_shapes(layout), gain=gain).items()})


def write_diffusers(path: Path, network: Any, *, gain: float = 0.5) -> Path:
    """Gives a network of diffusers made-up weights and writes it as a folder, by diffusers' own hands."""
    weights = fill({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}, gain=gain)
    network.load_state_dict(weights)
    network.save_pretrained(path)
    return path


def vae_shapes(
    channels: int = 32,
    mult: tuple[int, ...] = (1, 2, 4, 4),
    blocks: int = 1,
    latent: int = 4,
    attention: tuple[int, ...] = (),
    codes: int | None = None,
) -> Shapes:
    """Returns the keys and shapes of LDM's AutoencoderKL, or with codes of its VQModel; attention: at which levels."""
    moments = latent if codes else 2 * latent
    shapes = _conv("encoder.conv_in", channels, 3) | _conv("decoder.conv_in", mult[-1] * channels, latent)
    width = channels
    for level, m in enumerate(mult):
        for i in range(blocks):
            shapes |= _vae_res(f"encoder.down.{level}.block.{i}", width, m * channels)
            width = m * channels
            shapes |= _vae_attention(f"encoder.down.{level}.attn.{i}", width) if level in attention else {}
        if level < len(mult) - 1:
            shapes |= _conv(f"encoder.down.{level}.downsample.conv", width, width)
    for side in ("encoder", "decoder"):
        shapes |= _vae_res(f"{side}.mid.block_1", width, width) | _vae_res(f"{side}.mid.block_2", width, width)
        shapes |= _vae_attention(f"{side}.mid.attn_1", width)
    shapes |= _norm("encoder.norm_out", width) | _conv("encoder.conv_out", moments, width)
    for level, m in reversed(list(enumerate(mult))):
        for i in range(blocks + 1):
            shapes |= _vae_res(f"decoder.up.{level}.block.{i}", width, m * channels)
            width = m * channels
            shapes |= _vae_attention(f"decoder.up.{level}.attn.{i}", width) if level in attention else {}
        if level:
            shapes |= _conv(f"decoder.up.{level}.upsample.conv", width, width)
    shapes |= _norm("decoder.norm_out", width) | _conv("decoder.conv_out", 3, width)
    shapes |= _conv("quant_conv", moments, moments, kernel=1) | _conv("post_quant_conv", latent, latent, kernel=1)
    return shapes | ({"quantize.embedding.weight": (codes, latent)} if codes else {})


def tiny_vae_shapes(half: str, width: int = 16, latent: int = 4, *, first: int = 0) -> Shapes:
    """Returns the keys and shapes of a half of TAESD; first: 1 where a clamp without weights comes before the decoder."""
    shapes: Shapes = {}
    if half == "encoder":
        shapes |= _conv("0", width, 3)
        n = 1
        for stage, blocks in enumerate((1, 3, 3, 3)):
            if stage:
                shapes[f"{n}.weight"] = (width, width, 3, 3)
                n += 1
            for _ in range(blocks):
                shapes |= _tiny_block(str(n), width)
                n += 1
        return shapes | _conv(str(n), latent, width)
    shapes |= _conv(str(first), width, latent)
    n = first + 2  # a ReLU follows
    for blocks in (3, 3, 3):
        for _ in range(blocks):
            shapes |= _tiny_block(str(n), width)
            n += 1
        shapes[f"{n + 1}.weight"] = (width, width, 3, 3)  # after an upsampling
        n += 2
    return shapes | _tiny_block(str(n), width) | _conv(str(n + 1), 3, width)


def consistency_shapes() -> Shapes:
    """Returns the keys and shapes of diffusers' ConsistencyDecoderVAE, of two levels."""
    with torch.device("meta"):
        network = consistency_decoder()
    return {name: tuple(w.shape) for name, w in network.state_dict().items()}


def consistency_decoder() -> ConsistencyDecoderVAE:
    """Returns a consistency decoder of two levels."""
    return ConsistencyDecoderVAE(
        encoder_block_out_channels=(32, 64),
        encoder_down_block_types=("DownEncoderBlock2D",) * 2,
        encoder_layers_per_block=1,
        decoder_block_out_channels=(32, 64),
        decoder_down_block_types=("ResnetDownsampleBlock2D",) * 2,
        decoder_up_block_types=("ResnetUpsampleBlock2D",) * 2,
        decoder_layers_per_block=1,
    )


def _tiny_block(name: str, width: int) -> Shapes:
    return {k: v for i in (0, 2, 4) for k, v in _conv(f"{name}.conv.{i}", width, width).items()}


def _vae_attention(name: str, width: int) -> Shapes:
    shapes = _norm(f"{name}.norm", width)
    for each in ("q", "k", "v", "proj_out"):
        shapes |= _conv(f"{name}.{each}", width, width, kernel=1)
    return shapes


def clip_shapes(width: int = 64, layers: int = 2) -> Shapes:
    """Returns the keys and shapes of transformers' CLIP text model, without "text_model."."""
    shapes = {
        "embeddings.token_embedding.weight": (VOCABULARY, width),
        "embeddings.position_embedding.weight": (POSITIONS, width),
    }
    for n in range(layers):
        layer = f"encoder.layers.{n}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{name}", width, width)
        shapes |= _norm(f"{layer}.layer_norm1", width) | _norm(f"{layer}.layer_norm2", width)
        shapes |= _linear(f"{layer}.mlp.fc1", 4 * width, width) | _linear(f"{layer}.mlp.fc2", width, 4 * width)
    return shapes | _norm("final_layer_norm", width)


def open_clip_shapes(width: int = 64, layers: int = 3, projection: int = 64) -> Shapes:
    """Returns the keys and shapes of OpenCLIP's text model."""
    shapes: Shapes = {
        "token_embedding.weight": (VOCABULARY, width),
        "positional_embedding": (POSITIONS, width),
        "text_projection": (width, projection),
        "logit_scale": (),
    }
    for n in range(layers):
        block = f"transformer.resblocks.{n}"
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= _linear(f"{block}.attn.out_proj", width, width)
        shapes |= _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
        shapes |= _linear(f"{block}.mlp.c_fc", 4 * width, width) | _linear(f"{block}.mlp.c_proj", width, 4 * width)
    return shapes | _norm("ln_final", width)


@dataclass(frozen=True)
class PlainLayout:
    """An LDM UNet without text. attention: the levels that attend, outermost first."""

    channels: int = 32
    mult: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (1,)
    in_channels: int = 3
    out_channels: int | None = None  # as many as come in, where it is not said
    head_count: int | None = None  # heads are 32 wide, where it is not said
    updown: bool = False  # LDM's resblock_updown
    scale_shift: bool = False  # its use_scale_shift_norm


def plain_unet_shapes(layout: PlainLayout = PlainLayout()) -> Shapes:
    """Returns the keys and shapes of LDM's UNetModel without use_spatial_transformer."""
    time, width = 4 * layout.channels, layout.channels
    emb = 2 if layout.scale_shift else 1

    def res(name: str, into: int, out: int) -> Shapes:
        return _res(name, into, out, time) | _linear(f"{name}.emb_layers.1", emb * out, time)

    def attention(name: str, width: int) -> Shapes:
        shapes = _norm(f"{name}.norm", width)
        for each, out in (("qkv", 3 * width), ("proj_out", width)):
            shapes |= {f"{name}.{each}.weight": (out, width, 1), f"{name}.{each}.bias": (out,)}
        return shapes

    shapes = _linear("time_embed.0", time, width) | _linear("time_embed.2", time, time)
    shapes |= _conv("input_blocks.0.0", width, layout.in_channels)
    skips, n = [width], 1
    for level, mult in enumerate(layout.mult):
        for _ in range(layout.blocks):
            shapes |= res(f"input_blocks.{n}.0", width, mult * layout.channels)
            width = mult * layout.channels
            shapes |= attention(f"input_blocks.{n}.1", width) if level in layout.attention else {}
            skips.append(width)
            n += 1
        if level < len(layout.mult) - 1:
            name = f"input_blocks.{n}.0"
            shapes |= res(name, width, width) if layout.updown else _conv(f"{name}.op", width, width)
            skips.append(width)
            n += 1
    shapes |= res("middle_block.0", width, width) | res("middle_block.2", width, width)
    shapes |= attention("middle_block.1", width)
    m = 0
    for level, mult in reversed(list(enumerate(layout.mult))):
        for i in range(layout.blocks + 1):
            shapes |= res(f"output_blocks.{m}.0", width + skips.pop(), mult * layout.channels)
            width = mult * layout.channels
            attends = level in layout.attention
            shapes |= attention(f"output_blocks.{m}.1", width) if attends else {}
            if level and i == layout.blocks:
                name = f"output_blocks.{m}.{2 if attends else 1}"
                shapes |= res(name, width, width) if layout.updown else _conv(f"{name}.conv", width, width)
            m += 1
    return shapes | _norm("out.0", width) | _conv("out.2", layout.out_channels or layout.in_channels, width)


def open_clip_vision_shapes(width: int = 64, layers: int = 2, projection: int = 64) -> Shapes:
    """Returns the keys and shapes of OpenCLIP's vision tower, for pictures of 28 pixels in patches of 14."""
    shapes: Shapes = {
        "class_embedding": (width,),
        "conv1.weight": (width, 3, 14, 14),
        "positional_embedding": (5, width),
        "proj": (width, projection),
    }
    for n in range(layers):
        block = f"transformer.resblocks.{n}"
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= _linear(f"{block}.attn.out_proj", width, width)
        shapes |= _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
        shapes |= _linear(f"{block}.mlp.c_fc", 4 * width, width) | _linear(f"{block}.mlp.c_proj", width, 4 * width)
    return shapes | _norm("ln_pre", width) | _norm("ln_post", width)


def fill(shapes: Mapping[str, tuple[int, ...]], gain: float = 0.5) -> dict[str, Tensor]:
    """Returns weights for these keys: normal draws in the order of the keys, scaled so that activations stay moderate."""
    draws = torch.Generator().manual_seed(0)
    tensors = {}
    for key in sorted(shapes):
        shape = shapes[key]
        w = torch.randn(shape, generator=draws)
        w *= gain / (prod(shape) / shape[0]) ** 0.5 if len(shape) >= 2 else 0.05
        tensors[key] = w + 1 if len(shape) == 1 and key.endswith(("weight", "scale")) else w
    return tensors


def sd1_tensors(*, in_channels: int = 4) -> dict[str, Tensor]:
    """Returns a whole SD1 checkpoint."""
    layout = UNetLayout(**{**vars(SD1), "in_channels": in_channels})
    return _joined({UNET: unet_shapes(layout), VAE: vae_shapes(), SD1_TEXT: clip_shapes()})


def sd2_tensors(*, in_channels: int = 4, v: bool = False) -> dict[str, Tensor]:
    """Returns a whole SD2 checkpoint; a v network shows by the spread of one norm's bias."""
    layout = UNetLayout(**{**vars(SD2), "in_channels": in_channels})
    tensors = _joined({UNET: unet_shapes(layout), VAE: vae_shapes(), SD2_TEXT: open_clip_shapes()})
    probe = f"{UNET}output_blocks.3.1.transformer_blocks.0.norm1.bias"
    tensors[probe] *= 4 if v else 1  # std 0.2 or 0.05; the limit is 0.09
    return tensors


def sdxl_tensors(*, in_channels: int = 4, v: bool = False) -> dict[str, Tensor]:
    """Returns a whole SDXL checkpoint; a v network with zero terminal SNR shows by two marking keys."""
    layout = UNetLayout(**{**vars(SDXL), "in_channels": in_channels})
    parts = {UNET: unet_shapes(layout), VAE: vae_shapes(), SDXL_TEXT_L: clip_shapes(), SDXL_TEXT_G: open_clip_shapes()}
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)} if v else {}
    return _joined(parts) | marks


def classes_tensors() -> dict[str, Tensor]:
    """Returns a whole class-conditional checkpoint of LDM, of 11 classes."""
    layout = UNetLayout(32, (1, 2), (1, 1), (0, 1), (0, 0, 1, 1), 1, context=48, linear=False, in_channels=3)
    unet = {**unet_shapes(layout), "out.2.weight": (3, 32, 3, 3), "out.2.bias": (3,)}
    vae = vae_shapes(mult=(1, 1, 1), latent=3, codes=16)
    return _joined({UNET: unet, VAE: vae, "cond_stage_model.": {"embedding.weight": (11, 48)}})


LDM_INPAINT = PlainLayout(64, in_channels=7, out_channels=3, head_count=8, updown=True)
LDM_SUPERRES = PlainLayout(64, in_channels=6, out_channels=3)


LDM_SEGMENTS = PlainLayout(64, attention=(), in_channels=6, out_channels=3, head_count=8)


def segment_tensors(classes: int = 11) -> dict[str, Tensor]:
    """Returns a whole checkpoint of LDM for semantic synthesis."""
    mapper = {"cond_stage_model.": {"channel_mapper.weight": (3, classes, 1, 1)}}
    return ldm_tensors(LDM_SEGMENTS) | _joined(mapper)


def ldm_tensors(layout: PlainLayout) -> dict[str, Tensor]:
    """Returns a whole checkpoint of LDM without text, over codes of 4 pixels a cell."""
    vae = vae_shapes(mult=(1, 1, 1), latent=3, codes=16)
    return _joined({UNET: plain_unet_shapes(layout), VAE: vae})


def refiner_tensors() -> dict[str, Tensor]:
    """Returns a whole SDXL refiner checkpoint."""
    text = {"conditioner.embedders.0.model.": open_clip_shapes()}
    return _joined({UNET: unet_shapes(REFINER), VAE: vae_shapes(), **text})


def unclip_tensors() -> dict[str, Tensor]:
    """Returns a whole SD2.1 unCLIP checkpoint."""
    vision = {"embedder.model.visual.": open_clip_vision_shapes()}
    parts = {UNET: unet_shapes(UNCLIP), VAE: vae_shapes(), SD2_TEXT: open_clip_shapes(), **vision}
    stats = {"noise_augmentor.data_mean": torch.zeros(1, 64), "noise_augmentor.data_std": torch.ones(1, 64)}
    return _joined(parts) | stats


def x4_tensors() -> dict[str, Tensor]:
    """Returns a whole checkpoint of Stable Diffusion's x4 upscaler."""
    parts = {UNET: unet_shapes(X4), VAE: vae_shapes(mult=(1, 1, 1)), SD2_TEXT: open_clip_shapes()}
    return _joined(parts) | {"low_scale_model.betas": torch.linspace(0.0001**0.5, 0.02**0.5, 1000) ** 2}


def write_sd1(path: Path, *, in_channels: int = 4) -> Path:
    """Writes an SD1 checkpoint, for inpainting with 9 channels."""
    return write(path, sd1_tensors(in_channels=in_channels))


def write_sd2(path: Path, *, in_channels: int = 4, v: bool = False) -> Path:
    """Writes an SD2 checkpoint, for inpainting with 9 channels."""
    return write(path, sd2_tensors(in_channels=in_channels, v=v))


def write_sdxl(path: Path, *, in_channels: int = 4, v: bool = False) -> Path:
    """Writes an SDXL checkpoint, for inpainting with 9 channels."""
    return write(path, sdxl_tensors(in_channels=in_channels, v=v))


def write_reference_tiny(path: Path, *, in_channels: int = 4) -> Path:
    """Writes the model of end_to_end_tiny.json: an SD1 layout in float32, without a text encoder."""
    layout = UNetLayout(**{**vars(REFERENCE), "in_channels": in_channels})
    unet, vae = fill(unet_shapes(layout), gain=0.5), fill(vae_shapes(blocks=2), gain=1.0)
    tensors = {UNET + key: w for key, w in unet.items()} | {VAE + key: w for key, w in vae.items()}
    save_file(tensors, path)
    return path


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Writes tensors in float16, as most checkpoints are."""
    save_file({key: w.half().contiguous() for key, w in tensors.items()}, path, metadata=metadata)
    return path


def write_skeleton(path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: dict[str, str] | None = None) -> Path:
    """Writes a float16 file of any size whose values are a hole in the disk: only the header takes room."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def write_folder(path: Path, *, sd2: bool = False) -> Path:
    """Writes a diffusers folder of SD1's or SD2's layout, by diffusers' and transformers' own hands."""
    kinds = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    path.mkdir(parents=True)
    (path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **kinds}))
    parts = (
        (path / "unet", UNet2DConditionModel(
            block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=64, attention_head_dim=4,
            use_linear_projection=sd2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )),
        (path / "vae", AutoencoderKL(
            block_out_channels=(32, 64), layers_per_block=1, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )),
        (path / "text_encoder", CLIPTextModel(CLIPTextConfig(
            hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
            bos_token_id=49406, eos_token_id=49407, pad_token_id=1,
        ))),
    )  # fmt: skip
    for folder, network in parts:
        weights = fill({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})
        network.load_state_dict(weights)
        network.save_pretrained(folder)
    DDIMScheduler().save_pretrained(path / "scheduler")
    return path


def kohya_lora(
    shapes: Mapping[str, tuple[int, ...]], prefix: str, *, rank: int = 2, alpha: float | None = 1.0
) -> dict[str, Tensor]:
    """Returns a LoRA of each matrix and convolution among these weights, as kohya's trainer names it."""
    tensors = {}
    for key, shape in shapes.items():
        if key.endswith(".weight") and len(shape) in (2, 4) and "embedding." not in key:
            name = prefix + key.removesuffix(".weight").replace(".", "_")
            ones = (1,) * (len(shape) - 2)
            factors = {
                f"{name}.lora_down.weight": (rank, *shape[1:]),
                f"{name}.lora_up.weight": (shape[0], rank, *ones),
            }
            tensors |= fill(factors, gain=0.2)
            tensors |= {} if alpha is None else {f"{name}.alpha": torch.tensor(alpha)}
    return tensors


def attention_of(shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Returns those of the weights that a LoRA usually changes: the attention's."""
    return {key: shape for key, shape in shapes.items() if ".attn" in key or "self_attn" in key}


def sd1_lora() -> dict[str, Tensor]:
    """Returns a LoRA for all of a tiny SD1's network and text encoder."""
    text = {f"text_model.{key}": shape for key, shape in clip_shapes().items()}
    return kohya_lora(unet_shapes(SD1), "lora_unet_") | kohya_lora(text, "lora_te_")


def sdxl_lora() -> dict[str, Tensor]:
    """Returns a LoRA for a tiny SDXL: its network by LDM's names, and both text encoders by transformers'."""
    first = {f"text_model.{key}": shape for key, shape in clip_shapes().items()}
    second = {f"text_model.{key}": shape for key, shape in clip_shapes(layers=3).items()}
    text = kohya_lora(first, "lora_te1_") | kohya_lora(second, "lora_te2_")
    return kohya_lora(unet_shapes(SDXL), "lora_unet_") | text


def _joined(parts: Mapping[str, Shapes]) -> dict[str, Tensor]:
    return {prefix + key: w for prefix, shapes in parts.items() for key, w in fill(shapes).items()}


def _linear(name: str, out: int, into: int, *, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def _conv(name: str, out: int, into: int, *, kernel: int = 3) -> Shapes:
    return {f"{name}.weight": (out, into, kernel, kernel), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _res(name: str, into: int, out: int, time: int) -> Shapes:
    shapes = _norm(f"{name}.in_layers.0", into) | _conv(f"{name}.in_layers.2", out, into)
    shapes |= _linear(f"{name}.emb_layers.1", out, time)
    shapes |= _norm(f"{name}.out_layers.0", out) | _conv(f"{name}.out_layers.3", out, out)
    return shapes | (_conv(f"{name}.skip_connection", out, into, kernel=1) if into != out else {})


def _vae_res(name: str, into: int, out: int) -> Shapes:
    shapes = _norm(f"{name}.norm1", into) | _conv(f"{name}.conv1", out, into)
    shapes |= _norm(f"{name}.norm2", out) | _conv(f"{name}.conv2", out, out)
    return shapes | (_conv(f"{name}.nin_shortcut", out, into, kernel=1) if into != out else {})


def _transformer(name: str, width: int, depth: int, layout: UNetLayout, text_alone: bool = False) -> Shapes:
    if depth <= 0:
        return {}
    project = _linear if layout.linear else lambda name, out, into: _conv(name, out, into, kernel=1)
    shapes = _norm(f"{name}.norm", width) | project(f"{name}.proj_in", width, width)
    for n in range(depth):
        block = f"{name}.transformer_blocks.{n}"
        for attention, context in (("attn1", layout.context if text_alone else width), ("attn2", layout.context)):
            shapes |= _linear(f"{block}.{attention}.to_q", width, width, bias=False)
            shapes |= _linear(f"{block}.{attention}.to_k", width, context, bias=False)
            shapes |= _linear(f"{block}.{attention}.to_v", width, context, bias=False)
            shapes |= _linear(f"{block}.{attention}.to_out.0", width, width)
        shapes |= _linear(f"{block}.ff.net.0.proj", 8 * width, width) | _linear(f"{block}.ff.net.2", width, 4 * width)
        shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width) | _norm(f"{block}.norm3", width)
    return shapes | project(f"{name}.proj_out", width, width)
