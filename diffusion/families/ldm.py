"""The rows of `FAMILIES` for latent diffusion as it was first published, before Stable Diffusion.

Rombach et al. 2022, arXiv:2112.10752, tables 12 to 15, and the configs of CompVis/latent-diffusion.
"""

from __future__ import annotations

from ..levels.space_spec import DiscreteLevels
from .specs import Family, LatentFormat, UNetPattern
from .stable_diffusion import SD_LATENT
from .text_sets import CLASSES, LDM_TEXT, SEGMENTS

PLAIN_MARKERS: tuple[tuple[str, ...], ...] = (
    ("input_blocks.0.0.weight", "middle_block.1.qkv.weight"),
    ("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight", "mid_block.attentions.0.group_norm.weight"),
)
VQ4_LATENT = LatentFormat(channels=3, scale=1.0, downscale=4)
KL8_LATENT = LatentFormat(channels=4, scale=1.0)  # files tell the scale that was measured

_MASK_AND_PICTURE = frozenset({7})  # latent + masked latent + mask
_PIXELS = frozenset({6})  # latent + picture to enlarge, or what is made of classes

_TEXT = UNetPattern(linear_projection=False, vector=False, in_channels=frozenset({4}))
_WORDS = (("cond_stage_model.transformer.token_emb.weight",), ("bert/model.embed_tokens.weight",))
_CLASSES = (("cond_stage_model.embedding.weight",),)

LDM_FAMILIES: tuple[Family, ...] = (
    Family(
        name="ldm",
        title="Latent Diffusion, text to picture",  # text2img-large
        file_markers=_WORDS,
        unet=_TEXT,
        latent=SD_LATENT,
        told_by_file=True,
        head_count=8,
        resolution=256,
        text=LDM_TEXT,
    ),
    Family(
        name="ldm",
        title="Latent Diffusion, text to picture",  # text2img256, over a VQ autoencoder of 4 pixels a cell
        file_markers=_WORDS,
        unet=UNetPattern(linear_projection=False, vector=False, in_channels=frozenset({3})),
        latent=VQ4_LATENT,
        levels=DiscreteLevels(beta_start=0.0015, beta_end=0.0195),
        told_by_file=True,
        head_width=32,
        resolution=256,
        text=LDM_TEXT,
    ),
    Family(
        name="ldm-class",
        title="Latent Diffusion, classes",  # cin256-v2
        file_markers=_CLASSES,
        unet=UNetPattern(linear_projection=False, vector=False, in_channels=frozenset({3})),
        latent=VQ4_LATENT,
        levels=DiscreteLevels(beta_start=0.0015, beta_end=0.0195),
        told_by_file=True,
        head_count=1,
        resolution=256,
        text=CLASSES,
    ),
    Family(
        name="ldm-class",
        title="Latent Diffusion, classes",  # cin256, over a VQ autoencoder of 8 pixels a cell
        file_markers=_CLASSES,
        unet=_TEXT,
        latent=KL8_LATENT,
        levels=DiscreteLevels(beta_start=0.0015, beta_end=0.0205),
        told_by_file=True,
        head_width=32,
        resolution=256,
        text=CLASSES,
    ),
    Family(
        name="ldm-unconditional",
        title="Latent Diffusion, unconditional",  # celebahq256, ffhq256, lsun_beds256
        markers=PLAIN_MARKERS,
        kind="plain_unet",
        unet=UNetPattern(in_channels=frozenset({3})),
        latent=VQ4_LATENT,
        levels=DiscreteLevels(beta_start=0.0015, beta_end=0.0195),
        told_by_file=True,
        head_width=32,
        resolution=256,
    ),
    Family(
        name="ldm-unconditional",
        title="Latent Diffusion, unconditional",  # lsun_churches256
        markers=PLAIN_MARKERS,
        kind="plain_unet",
        unet=UNetPattern(in_channels=frozenset({4})),
        latent=KL8_LATENT,
        levels=DiscreteLevels(beta_start=0.0015, beta_end=0.0155),
        told_by_file=True,
        head_count=8,
        resolution=256,
    ),
    Family(
        name="ldm-inpaint",
        title="Latent Diffusion, inpainting",  # inpainting_big
        markers=PLAIN_MARKERS,
        kind="plain_unet",
        unet=UNetPattern(in_channels=_MASK_AND_PICTURE),
        latent=VQ4_LATENT,
        levels=DiscreteLevels(beta_start=0.0015, beta_end=0.0205),
        extra="picture_and_mask",
        head_count=8,
        resolution=256,
    ),
    Family(
        name="ldm-segments",
        title="Latent Diffusion, semantic synthesis",  # semantic_synthesis256, semantic_synthesis512
        markers=PLAIN_MARKERS,
        file_markers=(("cond_stage_model.channel_mapper.weight",),),
        kind="plain_unet",
        unet=UNetPattern(in_channels=_PIXELS),
        latent=VQ4_LATENT,
        levels=DiscreteLevels(beta_start=0.0015, beta_end=0.0205),
        extra="segments",
        head_count=8,
        resolution=256,
        text=SEGMENTS,
    ),
    Family(
        name="ldm-superres",
        title="Latent Diffusion, super-resolution",  # bsr_sr
        markers=PLAIN_MARKERS,
        kind="plain_unet",
        unet=UNetPattern(in_channels=_PIXELS),
        latent=VQ4_LATENT,
        levels=DiscreteLevels(beta_start=0.0015, beta_end=0.0155),
        extra="small_picture",
        head_width=32,
        resolution=256,
    ),
)
