"""The rows of `FAMILIES` of Stable Diffusion and its kin, whose networks are UNets that attend to text."""

from __future__ import annotations

from dataclasses import replace

from ..levels.space_spec import ContinuousLevels, DiscreteLevels
from .specs import PICTURE_VECTOR, REFINER_VECTOR, Family, LatentFormat, PredictionRule, UNetPattern
from .text_sets import REFINER_TEXT, SD1_TEXT, SD2_TEXT, SDXL_TEXT

# Colours: least-squares fits to decoded pictures by @keturn, @erucipe, @torridgristle (SD 1.5) and @StAlKeR7779 (SDXL), as
# published with InvokeAI.
SD_LATENT = LatentFormat(
    channels=4,
    scale=0.18215,  # LDM configs, scale_factor: latents to about unit std
    colours=(
        (0.3444, 0.1385, 0.0670),
        (0.1247, 0.4027, 0.1494),
        (-0.3192, 0.2513, 0.2103),
        (-0.1307, -0.1874, -0.7445),
    ),
)
SDXL_LATENT = LatentFormat(
    channels=4,
    scale=0.13025,  # SDXL base config, scale_factor
    colours=(
        (0.3816, 0.4930, 0.5320),
        (-0.3753, 0.1631, 0.1739),
        (0.1770, 0.3588, -0.2048),
        (-0.4350, -0.2644, -0.4289),
    ),
)

PLAYGROUND_LATENT = LatentFormat(
    channels=4,
    scale=0.5,  # Playground 2.5's VAE config: scaling_factor, latents_mean, latents_std
    means=(-1.6574, 1.886, -1.383, 2.5155),
    stds=(8.4927, 5.9022, 6.5498, 5.2299),
)

X4_LATENT = LatentFormat(channels=4, scale=0.08333, downscale=4)  # x4-upscaling.yaml, scale_factor

DEPTH = frozenset({5})  # latent + depth
LATENT_AND_PIXELS = frozenset({7})  # latent + picture to enlarge
BASE = frozenset({4})  # the latent alone
BASE_OR_INPAINT = frozenset({4, 9})  # latent; latent + mask + masked latent
INSTRUCT = frozenset({8})  # latent + latent of the picture to edit

_SDXL = UNetPattern(linear_projection=True, vector=True, outer_attention=False, inner_attention=True)

_EDM_V = (
    ("edm_vpred.sigma_max",),
    ("scheduler/EDMDPMSolverMultistepScheduler/v_prediction",),
    ("scheduler/EDMEulerScheduler/v_prediction",),
)

UNET_FAMILIES: tuple[Family, ...] = (
    Family(
        name="sd1",
        title="Stable Diffusion 1.x InstructPix2Pix",
        unet=UNetPattern(linear_projection=False, vector=False, in_channels=INSTRUCT),
        latent=SD_LATENT,
        extra="picture",
        head_count=8,
        text=SD1_TEXT,
    ),
    Family(
        name="sd1",
        title="Stable Diffusion 1.x",
        unet=UNetPattern(linear_projection=False, vector=False, in_channels=BASE_OR_INPAINT),
        latent=SD_LATENT,
        head_count=8,
        text=SD1_TEXT,
    ),
    Family(
        name="sd2",
        title="Stable Diffusion 2 depth",
        unet=UNetPattern(linear_projection=True, vector=False, in_channels=DEPTH),
        latent=SD_LATENT,
        extra="depth",
        text=SD2_TEXT,
    ),
    Family(
        name="sd-x4-upscaler",
        title="Stable Diffusion x4 upscaler",
        unet=UNetPattern(linear_projection=True, vector=False, noise_levels=True, in_channels=LATENT_AND_PIXELS),
        latent=X4_LATENT,
        prediction=PredictionRule(always="v"),
        levels=DiscreteLevels(beta_start=0.0001, beta_end=0.02),  # x4-upscaling.yaml, linear_start and linear_end
        extra="small_picture",
        head_count=8,
        text=SD2_TEXT,
    ),
    Family(
        name="sd2",
        title="Stable Diffusion 2.x",
        unet=UNetPattern(linear_projection=True, vector=False, in_channels=BASE_OR_INPAINT),
        latent=SD_LATENT,
        prediction=PredictionRule(v_probe="transformer_blocks.0.norm1.bias", v_threshold=0.09),
        v_resolution=768,
        text=SD2_TEXT,
    ),
    Family(
        name="sd2-unclip",
        title="Stable Diffusion 2.1 unCLIP",
        unet=UNetPattern(linear_projection=True, vector=True, outer_attention=True, in_channels=BASE),
        latent=SD_LATENT,
        prediction=PredictionRule(v_probe="transformer_blocks.0.norm1.bias", v_threshold=0.09),
        vector=PICTURE_VECTOR,
        resolution=768,
        text=SD2_TEXT,
    ),
    Family(
        name="playground-2.5",
        title="Playground 2.5",
        file_markers=(
            ("edm_mean", "edm_std"),
            ("scheduler/EDMDPMSolverMultistepScheduler/epsilon",),
            ("scheduler/EDMEulerScheduler/epsilon",),
        ),
        unet=replace(_SDXL, in_channels=BASE),
        latent=PLAYGROUND_LATENT,
        prediction=PredictionRule(always="edm"),
        levels=ContinuousLevels(sigma_min=0.002, sigma_max=80.0),  # its scheduler's config
        sigma_data=0.5,
        resolution=1024,
        text=SDXL_TEXT,
    ),
    Family(
        name="sdxl-edm",
        title="Stable Diffusion XL with EDM v-prediction, InstructPix2Pix",  # CosXL edit
        file_markers=_EDM_V,
        unet=replace(_SDXL, in_channels=INSTRUCT),
        latent=SDXL_LATENT,
        prediction=PredictionRule(always="v"),
        levels=ContinuousLevels(),
        extra="scaled_picture",
        resolution=1024,
        text=SDXL_TEXT,
    ),
    Family(
        name="sdxl-edm",
        title="Stable Diffusion XL with EDM v-prediction",  # CosXL
        file_markers=_EDM_V,
        unet=replace(_SDXL, in_channels=BASE_OR_INPAINT),
        latent=SDXL_LATENT,
        prediction=PredictionRule(always="v"),
        levels=ContinuousLevels(),
        resolution=1024,
        text=SDXL_TEXT,
    ),
    Family(
        name="sdxl",
        title="Stable Diffusion XL InstructPix2Pix",
        unet=replace(_SDXL, in_channels=INSTRUCT),
        latent=SDXL_LATENT,
        prediction=PredictionRule(v_key="v_pred", zero_snr_key="ztsnr"),
        extra="picture",
        resolution=1024,
        text=SDXL_TEXT,
    ),
    Family(
        name="sdxl",
        title="Stable Diffusion XL",
        unet=replace(_SDXL, in_channels=BASE_OR_INPAINT),
        latent=SDXL_LATENT,
        prediction=PredictionRule(v_key="v_pred", zero_snr_key="ztsnr"),
        resolution=1024,
        text=SDXL_TEXT,
    ),
    Family(
        name="sdxl-refiner",
        title="Stable Diffusion XL refiner",
        unet=UNetPattern(
            linear_projection=True, vector=True, outer_attention=False, inner_attention=False, in_channels=BASE
        ),
        latent=SDXL_LATENT,
        vector=REFINER_VECTOR,
        resolution=1024,
        text=REFINER_TEXT,
    ),
)
