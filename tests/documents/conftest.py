"""The folder that broken documents are read in: checkpoints that are headers over a hole, and files that are no such thing."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

BROKEN = Path(__file__).parent / "broken"


@pytest.fixture(scope="session")
def folder(
    tiny: ModuleType, tiny_dits: ModuleType, tiny_texts: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The broken documents, with the models and pictures that they name. Tests write nothing here."""
    here = tmp_path_factory.mktemp("documents")
    shutil.copytree(BROKEN, here, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.expected"))
    folders = ("models/checkpoints", "models/loras", "models/embeddings", "images")
    checkpoints, loras, embeddings, images = (here / folder for folder in folders)
    for made in (checkpoints, loras, embeddings, images):
        made.mkdir(parents=True)
    _write_weights(tiny, checkpoints)
    _write_transformers(tiny, tiny_dits, checkpoints)
    tiny_texts.write_encoders(here / "models" / "text_encoders")
    _write_strangers(checkpoints)
    _write_loras(tiny, loras)
    _write_embeddings(tiny, embeddings)
    _write_pictures(images)
    return here


def _write_weights(tiny: ModuleType, folder: Path) -> None:
    """Writes true layouts. The values are holes in the disk, so that to read one would be to read zeros."""

    def parts(layout: object, text: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
        networks = {tiny.UNET: tiny.unet_shapes(layout), tiny.VAE: tiny.vae_shapes(), **text}
        return {prefix + key: shape for prefix, shapes in networks.items() for key, shape in shapes.items()}

    sd1 = parts(tiny.SD1, {tiny.SD1_TEXT: tiny.clip_shapes()})
    inpaint = tiny.UNetLayout(**{**vars(tiny.SD1), "in_channels": 9})
    sdxl_text = {tiny.SDXL_TEXT_L: tiny.clip_shapes(), tiny.SDXL_TEXT_G: tiny.open_clip_shapes()}
    files = {
        "sd1": sd1,
        "inpaint": parts(inpaint, {tiny.SD1_TEXT: tiny.clip_shapes()}),
        "sdxl": parts(tiny.SDXL, sdxl_text),
        "vae": tiny.vae_shapes(),
        "unet_only": {key: shape for key, shape in sd1.items() if key.startswith(tiny.UNET)},
        "unet_and_text": {key: shape for key, shape in sd1.items() if not key.startswith(tiny.VAE)},
        "lora": {
            f"lora_unet_mid_block_attentions_0_proj_in.lora_{side}.weight": shape
            for side, shape in (("down", (4, 64)), ("up", (64, 4)))
        },
        "unknown": {"lexer.weight": (4, 4), "parser.head.bias": (4,)},
    }
    for name, shapes in files.items():
        tiny.write_skeleton(folder / f"{name}.safetensors", shapes)


def _write_transformers(tiny: ModuleType, tiny_dits: ModuleType, folder: Path) -> None:
    """Writes the headers of transformers alone, and of one with its VAE."""
    flux = tiny_dits.published_shapes(tiny_dits.FLUX)
    sd3 = {tiny_dits.NETWORK + key: shape for key, shape in tiny_dits.published_shapes(tiny_dits.SD3).items()}
    files = {
        "flux": flux,
        "flux_cut": {key: shape for key, shape in flux.items() if "txt_in" not in key},
        "sd3": sd3 | {tiny.VAE + key: shape for key, shape in tiny.vae_shapes(latent=16).items()},
    }
    for name, shapes in files.items():
        tiny.write_skeleton(folder / f"{name}.safetensors", shapes)


def _write_loras(tiny: ModuleType, folder: Path) -> None:
    """Writes adapters of which only the header is one."""
    text_alone = tiny.kohya_lora({f"text_model.{key}": w for key, w in tiny.clip_shapes().items()}, "lora_te_")
    attention = tiny.kohya_lora(tiny.attention_of(tiny.unet_shapes(tiny.SD1)), "lora_unet_")
    wider = {key: tuple(2 * n if n > 4 else n for n in w.shape) for key, w in attention.items()}
    module = "lora_unet_middle_block_1_proj_in"
    flux = "lora_unet_double_blocks_0_img_attn_qkv"
    files = {
        "for_sd1": tiny.sd1_lora(),
        "for_sd2": tiny.kohya_lora(tiny.unet_shapes(tiny.SD2), "lora_unet_"),
        "for_sdxl": tiny.sdxl_lora(),
        "for_text": text_alone,
        "wider": wider,
        "for_flux": {f"{flux}.lora_up.weight": (192, 4), f"{flux}.lora_down.weight": (4, 64)},
        "two_ranks": {f"{module}.lora_up.weight": (64, 4, 1, 1), f"{module}.lora_down.weight": (8, 64, 1, 1)},
        "half": {f"{module}.lora_up.weight": (64, 4, 1, 1)},
        "unknown_lora": {"encoder.style.gamma": (4, 4)},
    }
    for name, tensors in files.items():
        shapes = {key: tuple(getattr(w, "shape", w)) for key, w in tensors.items()}
        tiny.write_skeleton(folder / f"{name}.safetensors", shapes)
    (folder / "pickled.pt").write_bytes(b"PK\x03\x04" + b"\0" * 60)


def _write_embeddings(tiny: ModuleType, folder: Path) -> None:
    files = {
        "cat": {"emb_params": (2, 64)},
        "wide_cat": {"emb_params": (2, 768)},
        "half_cat": {"clip_l": (2, 64), "clip_g": (2, 1280)},
        "no_cat": {"conv.weight": (4, 4, 3, 3)},
    }
    for name, shapes in files.items():
        tiny.write_skeleton(folder / f"{name}.safetensors", shapes)


def _write_strangers(folder: Path) -> None:
    """Writes files that claim to be weights and are not, or not whole."""
    whole = {"a": {"dtype": "F16", "shape": [8], "data_offsets": [0, 16]}}
    lies = {"a": {"dtype": "F16", "shape": [64, 64], "data_offsets": [0, 16]}}
    overlap = {**whole, "b": {"dtype": "F16", "shape": [8], "data_offsets": [8, 24]}}
    contents = {
        "truncated.safetensors": _safetensors(whole, 10),
        "lies.safetensors": _safetensors(lies, 16),
        "overlap.safetensors": _safetensors(overlap, 24),
        "huge_header.safetensors": struct.pack("<Q", 8_000_000_000) + b'{"a": ' + b" " * 64,
        "pickle.safetensors": b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01K\x01s.",
        "zip.ckpt": b"PK\x03\x04" + b"\0" * 60,
        "page.safetensors": b"<!DOCTYPE html>\n<html><body>Please log in.</body></html>\n",
        "pointer.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4265380512\n",
        "empty.safetensors": b"",
        "model.gguf": b"GGUF" + b"\3\0\0\0" + b"\0" * 56,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def _write_pictures(folder: Path) -> None:
    Image.new("RGB", (64, 64), "orange").save(folder / "cat.png")
    Image.new("RGB", (32, 64), "white").save(folder / "mask.png")
    (folder / "huge.png").write_bytes(_png_header(90_000, 90_000))
    (folder / "cut.png").write_bytes((folder / "cat.png").read_bytes()[:20])
    (folder / "notes.png").write_text("Ask the cat to sit still.\n")
    (folder / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>\n')


def _safetensors(header: Mapping[str, object], data_bytes: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * data_bytes


def _png_header(width: int, height: int) -> bytes:
    """Returns a PNG that claims a size, and holds not one row of it."""
    claims = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", claims), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
