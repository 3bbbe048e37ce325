"""The files of test_wrong_pairings.py: models of true size whose weights are holes in the disk, and files that are wrong.

Whoever reads a weight of these reads zeros, so a right answer can only come from the headers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from latentgraph.diffusion.families.dit_specs import FluxSpec, MMDiTSpec

Shapes = dict[str, tuple[int, ...]]

DETECTION = json.loads((Path(__file__).parents[1] / "vectors" / "misc.json").read_text())["detection"]
UNET, VAE = "model.diffusion_model.", "first_stage_model."
FLUX = FluxSpec(64 // 4, 64 // 4, 3072, 24, 19, 38, 4096, 768, guidance=True, axes=(16, 56, 56))
SD3 = MMDiTSpec(16, 16, 1536, 24, 24, 4096, 2048, positions=192)
T5_WIDTH, T5_LAYERS, T5_WORDS = 4096, 24, 32128


def below(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + key: shape for key, shape in shapes.items()}


def t5_shapes() -> Shapes:
    shapes: Shapes = {
        "shared.weight": (T5_WORDS, T5_WIDTH),
        "encoder.final_layer_norm.weight": (T5_WIDTH,),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 64),
    }
    for n in range(T5_LAYERS):
        block = f"encoder.block.{n}.layer"
        shapes |= {f"{block}.0.SelfAttention.{each}.weight": (T5_WIDTH, T5_WIDTH) for each in "qkvo"}
        shapes |= {f"{block}.1.DenseReluDense.{each}.weight": (10240, T5_WIDTH) for each in ("wi_0", "wi_1")}
        shapes |= {f"{block}.1.DenseReluDense.wo.weight": (T5_WIDTH, 10240)}
        shapes |= {f"{block}.{each}.layer_norm.weight": (T5_WIDTH,) for each in (0, 1)}
    return shapes


def lora_shapes(shapes: Shapes, prefix: str, rank: int = 8) -> Shapes:
    """A LoRA of each matrix of attention among these weights, as kohya's trainer names it."""
    factors: Shapes = {}
    for key, shape in shapes.items():
        if key.endswith(".weight") and len(shape) == 2 and ("attn" in key or "proj_" in key):
            name = prefix + key.removesuffix(".weight").replace(".", "_")
            factors |= {f"{name}.lora_down.weight": (rank, shape[1]), f"{name}.lora_up.weight": (shape[0], rank)}
    return factors


def write_files(folder: Path, tiny: ModuleType, tiny_dits: ModuleType) -> None:
    """Writes all of them."""

    def model(name: str, shapes: Shapes, metadata: dict[str, str] | None = None) -> None:
        tiny.write_skeleton(folder / f"{name}.safetensors", shapes, metadata)

    unets = {name: tiny.unet_shapes(tiny.layout_of(row["config"])) for name, row in DETECTION.items()}
    vae, vae16 = tiny.vae_shapes(128, (1, 2, 4, 4), 2), tiny.vae_shapes(128, (1, 2, 4, 4), 2, latent=16)
    vae16 = {key: shape for key, shape in vae16.items() if "quant_conv" not in key}
    clip_l = tiny.clip_shapes(768, 12)
    clip_h, clip_g = tiny.open_clip_shapes(1024, 24, 1024), tiny.open_clip_shapes(1280, 32, 1280)
    text_l = below("text_model.", clip_l)
    sd1 = below(UNET, unets["SD1.5"]) | below(VAE, vae) | below("cond_stage_model.transformer.", text_l)
    flux = tiny_dits.published_shapes(FLUX)
    model("sd1", sd1)
    model("sd1_bare", below(UNET, unets["SD1.5"]))
    model("sd1_inpaint", sd1 | below(UNET, unets["SD1.5 inpaint 9ch"]))
    model("sd2", below(UNET, unets["SD2.x 4ch"]) | below(VAE, vae) | below("cond_stage_model.model.", clip_h))
    sdxl_text = below("conditioner.embedders.0.transformer.", text_l) | below("conditioner.embedders.1.model.", clip_g)
    model("sdxl", below(UNET, unets["SDXL base"]) | below(VAE, vae) | sdxl_text)
    finer = tiny.vae_shapes(128, (1, 2, 4), 2)
    model(
        "x4",
        below(UNET, tiny.unet_shapes(tiny.PUBLISHED_X4)) | below(VAE, finer) | below("cond_stage_model.model.", clip_h),
    )
    model("sd1_lying_weight", sd1 | {f"{UNET}input_blocks.5.0.out_layers.3.weight": (640, 320, 3, 3)})
    model(
        "sd1_lying_text", sd1 | {"cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc2.weight": (768, 768)}
    )
    model("sd1_truncated_network", {key: shape for key, shape in sd1.items() if "output_blocks.11" not in key})
    model("strange_unet", below(UNET, unets["SD1.5"] | {"input_blocks.0.0.weight": (320, 6, 3, 3)}))
    model("odd_prediction", sd1, {"modelspec.prediction_type": "sample"})
    model("flux", flux)
    model("sd3", tiny_dits.published_shapes(SD3))
    model("vae", vae)
    model("vae16", vae16)
    model("broken_vae", {key: shape for key, shape in vae.items() if "down.2.block.1" not in key})
    model("clip_l", text_l)
    model("clip_g", clip_g)
    model("t5", t5_shapes())
    (folder / "with_t5").mkdir()
    tiny.write_skeleton(folder / "with_t5" / "t5.safetensors", t5_shapes())
    (folder / "with_t5" / "spiece.model").write_bytes(
        (Path(__file__).parents[1] / "vectors" / "spiece.model").read_bytes()
    )
    model("sd1_lora", lora_shapes(unets["SD1.5"], "lora_unet_") | lora_shapes(text_l, "lora_te_"))
    model("sd1_text_lora", lora_shapes(text_l, "lora_te_"))
    model("sdxl_lora", lora_shapes(unets["SDXL base"], "lora_unet_"))
    model("flux_lora", lora_shapes(flux, "lora_unet_"))
    half = {key: shape for key, shape in lora_shapes(text_l, "lora_te_").items() if "lora_up" in key}
    model("half_lora", half)
    odd = next(iter(lora_shapes(unets["SD1.5"], "lora_unet_")))
    model("misfit_lora", lora_shapes(unets["SD1.5"], "lora_unet_") | {odd: (4, 333)})
    controls = {
        name: below("control_model.", tiny.control_net_shapes(tiny.layout_of(DETECTION[family]["config"])))
        for name, family in (("sd1", "SD1.5"), ("sdxl", "SDXL base"))
    }
    for name, shapes in controls.items():
        model(f"{name}_control", shapes)
    model("half_control", {key: shape for key, shape in controls["sd1"].items() if "zero_convs.11." not in key})
    ip = {"context": 768, "picture": 1024}
    model(
        "sd1_ip_adapter",
        tiny.ip_adapter_shapes(
            "base", (320, 320, 640, 640, 1280, 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320, 320), **ip
        ),
    )
    model("clip_vision", below("visual.", tiny.open_clip_vision_shapes(1280, 32, projection=1024)))
    model("upscaler", tiny.esrgan_shapes(64))
    model("embedding", {"emb_params": (4, 768)})
    model("taesd", tiny.tiny_vae_shapes("decoder", 64))
    model("unknown", {"backbone.layer1.weight": (64, 64), "backbone.layer2.weight": (64, 64), "head.bias": (10,)})
    model("nothing", {})
    _write_broken(folder)
    for width, height in ((7, 9), (64, 48), (128, 128)):
        Image.new("RGB", (width, height), (200, 40, 40)).save(folder / f"{width}x{height}.png")


def _write_broken(folder: Path) -> None:
    """Writes files that are no models, or were cut short, or lie."""
    weight: dict[str, Any] = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    e4m3 = {"dtype": "F8_E4M3", "shape": [256, 256], "data_offsets": [0, 65536]}
    scale = {"dtype": "F32", "shape": [2, 2], "data_offsets": [65536, 65552]}
    gguf = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + _text("w") + struct.pack("<IQIQ", 1, 64, 8, 0)
    broken = {
        "empty.safetensors": b"",
        "page.safetensors": b"<!DOCTYPE html><html><head><title>401</title></head></html>",
        "pointer.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2132625894\n",
        "picture.safetensors": b"\x89PNG\r\n\x1a\n" + b"\0" * 64,
        "model.ckpt": b"PK\x03\x04" + b"\0" * 64,
        "old.pt": b"\x80\x02}q\x00." + b"\0" * 64,
        "cut_header.safetensors": struct.pack("<Q", 500) + b'{"w": {"dtype"',
        "cut_weights.safetensors": _packed({"w": weight}, b"\0" * 10),
        "lying_shape.safetensors": _packed({"w": weight | {"shape": [5]}}, b"\0" * 16),
        "lying_offsets.safetensors": _packed({"w": weight, "v": weight | {"data_offsets": [8, 24]}}, b"\0" * 24),
        "odd_format.safetensors": _packed({"w": weight | {"dtype": "F4_E2M1"}}, b"\0" * 16),
        "blocks.safetensors": _packed({"a.weight": e4m3, "a.weight_scale": scale}, b"\0" * 65552),
        "cut.gguf": gguf + b"\0" * 40,
        "lying.gguf": gguf.replace(struct.pack("<Q", 64), struct.pack("<Q", 48)) + b"\0" * 200,
        "future.gguf": b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
        "odd_format.gguf": gguf[:-12] + struct.pack("<IQ", 16, 0) + b"\0" * 200,
    }
    for name, content in broken.items():
        (folder / name).write_bytes(content)
    (folder / "no_index" / "unet").mkdir(parents=True)
    _folder(folder / "pickles", {"diffusion_pytorch_model.bin": b"\x80\x02"})
    index = json.dumps({"weight_map": {"conv_in.weight": "missing.safetensors"}}).encode()
    _folder(folder / "missing_shard", {"diffusion_pytorch_model.safetensors.index.json": index})
    index = json.dumps({"weight_map": {"w": "one.safetensors", "v": "two.safetensors"}}).encode()
    twin = _packed({"w": weight}, b"\0" * 16)
    names = ("diffusion_pytorch_model.safetensors.index.json", "one.safetensors", "two.safetensors")
    _folder(folder / "twin_shards", dict(zip(names, (index, twin, twin), strict=True)))


def _folder(path: Path, unet: Mapping[str, bytes]) -> None:
    (path / "unet").mkdir(parents=True)
    (path / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}))
    for name, content in unet.items():
        (path / "unet" / name).write_bytes(content)


def _packed(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()
