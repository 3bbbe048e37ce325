"""Files that people take for checkpoints: how to tell them, and what to do with them instead.

A stranger is told by its keys alone. Those that contain a checkpoint's keys come first, so that a LoRA for a UNet is
never taken for the UNet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Stranger:
    """A kind of file. It is one if some key contains one of `anywhere`, or begins with one of `prefixes`.

    cure: what to do with it, if anything but naming another file.
    """

    title: str
    cure: str | None = None
    anywhere: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    counted: str = "tensors"

    def keys_of(self, keys: list[str]) -> list[str]:
        """Returns the keys that show that a file is of this kind."""
        return [key for key in keys if key.startswith(self.prefixes) or any(part in key for part in self.anywhere)]


def without_cures(kinds: Iterable[Stranger]) -> tuple[Stranger, ...]:
    """Returns the kinds without what is to be done with them where a checkpoint is asked for."""
    return tuple(replace(kind, cure=None) for kind in kinds)


LORA = Stranger(
    title="a LoRA",
    cure="It changes a checkpoint and is none itself: load the checkpoint that it was made for, and it with LoadLora.",
    anywhere=(".lora_up.", ".lora_down.", ".lora_A.", ".lora_B.", ".lora.up.", ".lora.down.", "_lora.up.", "_lora.down.",
              "_lora1.up.", "_lora2.up.",
              ".hada_w1", ".lokr_w1", ".lokr_w2", ".oft_blocks"),
    counted="lora keys",
)  # fmt: skip

_STEERS = (
    "It steers a checkpoint and is none itself: load the checkpoint that it was made for, and it with LoadControlNet."
)

CONTROL_NET = Stranger(
    title="a ControlNet",
    cure=_STEERS,
    anywhere=("zero_convs.0.", "controlnet_cond_embedding.", "controlnet_blocks.0.", "lora_controlnet"),
)
T2I_ADAPTER = Stranger(
    title="a T2I adapter",
    cure=_STEERS,
    prefixes=("adapter.body.", "body.0.block1.", "body.0.in_conv.", "body.0.resnets."),
)

IP_ADAPTER = Stranger(
    title="an IP adapter",
    cure="It adds a picture prompt to a checkpoint and is none itself: load the checkpoint, and it with LoadIPAdapter.",
    prefixes=("ip_adapter.", "image_proj.", "ip_adapter_proj_model."),
)

LLLITE = Stranger(
    title="a ControlNet-LLLite, which is not supported",
    cure="Take a ControlNet for Stable Diffusion XL, and load it with LoadControlNet.",
    prefixes=("lllite_",),
)

IMPOSTORS = (
    LORA,
    LLLITE,
    CONTROL_NET,
    T2I_ADAPTER,
    IP_ADAPTER,
)  # fmt: skip
"""Files that may hold a checkpoint's keys among their own."""

EMBEDDING = Stranger(
    title="a textual inversion embedding",
    cure="Name it in a prompt, as embedding:name.",
    anywhere=("string_to_param", "emb_params"),
    prefixes=("clip_l", "clip_g", "t5xxl"),
)

VISION = Stranger(
    title="a CLIP vision model",
    cure="It reads pictures, not prompts: load it with LoadClipVision.",
    prefixes=("vision_model.", "visual.", "vision_encoder."),
)
UPSCALER = Stranger(
    title="an upscale model",
    cure="It enlarges pictures: load it with LoadUpscaleModel.",
    anywhere=(".RDB1.conv1.", ".rdb1.conv1.", "residual_group.", "upsampler.0.", "conv_after_body."),
)
STYLE = Stranger(
    title="a style model",
    cure="It makes text of pictures: load it with LoadStyleModel.",
    prefixes=("redux_up.", "redux_down."),
)
TINY_CURE = "Load it with LoadTinyVAE, which asks what the file does not tell: whose latents it speaks."

TEXT = Stranger(
    title="a text encoder alone",
    cure="Load it with LoadTextEncoder.",
    prefixes=("text_model.", "embeddings.token_embedding.", "transformer.resblocks.", "encoder.block.", "token_embedding.",
              "cond_stage_model.", "conditioner.embedders.", "text_encoders.", "model.layers.0.", "model.language_model.",
              "language_model."),
)  # fmt: skip

TURNED = Stranger(
    title="a language model of llama.cpp's whose rows are in an order of its own, as Mistral's and Llama's are",
    cure="It can't be read: take the safetensors file of this model.",
    prefixes=("blk.0.",),
)

PARTS = (
    TURNED,
    Stranger(
        title="a VAE alone",
        cure="Load it with LoadVAE.",
        prefixes=("decoder.conv_in.", "first_stage_model.decoder.", "vae.decoder.", "decoder_unet."),
    ),
    Stranger(title="a tiny autoencoder (TAESD)", cure=TINY_CURE, prefixes=("taesd_decoder.", "decoder.layers.0.", "3.conv.0.")),
    VISION,
    TEXT,
    EMBEDDING,
    UPSCALER,
    STYLE,
)  # fmt: skip
"""Files that hold one part of a checkpoint, or none."""

_OTHER_NETWORKS = {
    "Stable Video Diffusion": (".time_stack.",),
    "AnimateDiff": ("motion_modules.",),
    "Chroma": ("distilled_guidance_layer.",),
    "Qwen-Image": ("transformer_blocks.0.img_mod.1.",),
    "Z-Image or Lumina 2": ("noise_refiner.0.",),
    "HiDream": ("double_stream_blocks.0.block.",),
    "HunyuanVideo": ("individual_token_refiner.",),
    "Hunyuan-DiT": ("mlp_t5.0.",),
    "Wan": ("head.modulation", "condition_embedder.time_proj."),
    "PixArt": ("t_block.1.weight", "caption_projection.linear_1."),
    "LTX-Video": ("adaln_single.emb.timestep_embedder.",),
    "AuraFlow": ("double_layers.0.attn.w1q.", "joint_transformer_blocks.0."),
    "Stable Cascade": ("clip_txt_mapper.", "clip_mapper."),
    "Cosmos": ("blocks.block0.blocks.0.block.attn.", "x_embedder.proj.1."),
    "Mochi": ("t5_yproj.",),
    "Kolors": ("encoder_hid_proj.",),
}
NETWORKS = tuple(
    Stranger(title=f"a network of {name}, which is not supported", anywhere=marks)
    for name, marks in _OTHER_NETWORKS.items()
)
"""Denoising networks of families that can't be run, told so that a user gets their name (ComfyUI's and diffusers' layouts)."""
