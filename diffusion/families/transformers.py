"""The rows of `FAMILIES` whose networks are transformers; see `specs`."""

from __future__ import annotations

from dataclasses import replace

from ..levels.space_spec import FlowLevels, FluxLevels
from .specs import DiTPattern, Family, LatentFormat, PredictionRule
from .text_sets import FLUX2_TEXT, FLUX_TEXT, KLEIN_TEXT, SD3_TEXT

# Colours: least-squares fits to decoded pictures, as published with InvokeAI (invokeai/app/util/step_callback.py).
SD3_LATENT = LatentFormat(
    channels=16,
    scale=1.5305,  # SD3's VAE config, scaling_factor
    shift=0.0609,  # the same, shift_factor
    colours=(
        (-0.05240681, 0.03251581, 0.0749016),
        (-0.0580572, 0.00759826, 0.05729818),
        (0.16144888, 0.01270368, -0.03768577),
        (0.14418615, 0.08460266, 0.15941818),
        (0.04894035, 0.0056485, -0.06686988),
        (0.05187166, 0.19222395, 0.06261094),
        (0.1539433, 0.04818359, 0.07103094),
        (-0.08601796, 0.09013458, 0.10893912),
        (-0.12398469, -0.06766567, 0.0033688),
        (-0.0439737, 0.07825329, 0.02258823),
        (0.03101129, 0.06382551, 0.07753657),
        (-0.01315361, 0.08554491, -0.08772475),
        (0.06464487, 0.05914605, 0.13262741),
        (-0.07863674, -0.02261737, -0.12761454),
        (-0.09923835, -0.08010759, -0.06264447),
        (-0.03392309, -0.0804029, -0.06078822),
    ),
)
FLUX_LATENT = LatentFormat(
    channels=16,
    scale=0.3611,  # FLUX.1's VAE config, scaling_factor
    shift=0.1159,  # the same, shift_factor
    colours=(
        (-0.0412, 0.0149, 0.0521),
        (0.0056, 0.0291, 0.0768),
        (0.0342, -0.0681, -0.0427),
        (-0.0258, 0.0092, 0.0463),
        (0.0863, 0.0784, 0.0547),
        (-0.0017, 0.0402, 0.0158),
        (0.0501, 0.1058, 0.1152),
        (-0.0209, -0.0218, -0.0329),
        (-0.0314, 0.0083, 0.0896),
        (0.0851, 0.0665, -0.0472),
        (-0.0534, 0.0238, -0.0024),
        (0.0452, -0.0026, 0.0048),
        (0.0892, 0.0831, 0.0881),
        (-0.1117, -0.0304, -0.0789),
        (0.0027, -0.0479, -0.0043),
        (-0.1146, -0.0827, -0.0598),
    ),
)
FLUX2_LATENT = LatentFormat(channels=128, scale=1.0, downscale=16)  # its VAE normalises by itself

FLOW = PredictionRule(always="flow")
MASK_CELLS = 64  # channels of a mask at full size: a cell's 8x8 pixels

_FLUX_MARKERS = (
    ("double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight", "vector_in.in_layer.weight"),
    ("double_blocks.0.img_attn.norm.key_norm.weight", "img_in.weight", "vector_in.in_layer.weight"),
    (
        "transformer_blocks.0.attn.add_q_proj.weight",
        "x_embedder.weight",
        "time_text_embed.text_embedder.linear_1.weight",
    ),
)


def _takes(channels: int, *, guidance: bool = True) -> DiTPattern:
    return DiTPattern(guidance, frozenset({channels}))


_FLUX = Family(
    name="flux",
    title="FLUX.1",
    markers=_FLUX_MARKERS,
    kind="flux",
    transformer=_takes(16),
    latent=FLUX_LATENT,
    prediction=FLOW,
    levels=FluxLevels(shift=1.15),
    resolution=1024,
    text=FLUX_TEXT,
    vae_prefix="vae.",
)

_FLUX2 = Family(
    name="flux2",
    title="FLUX.2",
    markers=(
        ("double_stream_modulation_img.lin.weight",),
        ("double_stream_modulation_img.linear.weight",),
    ),
    kind="flux2",
    transformer=_takes(128),
    latent=FLUX2_LATENT,
    prediction=FLOW,
    levels=FluxLevels(shift=2.02),
    resolution=1024,
    text=FLUX2_TEXT,
    vae_prefix="vae.",
)

DIT_FAMILIES: tuple[Family, ...] = (
    Family(
        name="sd3",
        title="Stable Diffusion 3",
        markers=(
            ("joint_blocks.0.context_block.attn.qkv.weight",),
            ("transformer_blocks.0.attn.add_q_proj.weight", "pos_embed.proj.weight"),
        ),
        kind="mmdit",
        transformer=DiTPattern(in_channels=frozenset({16})),
        latent=SD3_LATENT,
        prediction=FLOW,
        levels=FlowLevels(shift=3.0, multiplier=1000.0),
        resolution=1024,
        text=SD3_TEXT,
    ),
    replace(
        _FLUX,
        title="FLUX.1 fill",
        transformer=_takes(16 + 16 + MASK_CELLS),
        extra="picture_and_mask_cells",
    ),
    replace(_FLUX, title="FLUX.1 canny or depth", transformer=_takes(16 + 16), extra="scaled_picture"),
    replace(
        _FLUX, title="FLUX.1 schnell", transformer=_takes(16, guidance=False), levels=FlowLevels(1.0, multiplier=1.0)
    ),
    _FLUX,
    replace(_FLUX2, title="FLUX.2 klein", transformer=_takes(128, guidance=False), text=KLEIN_TEXT),
    _FLUX2,
)
