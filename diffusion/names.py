"""The names by which people choose samplers, schedules and ways to treat pictures. Importing this module loads no torch.

Each `Literal` lists exactly what some module takes (`samplers.catalogue.SAMPLERS`, `levels.schedules.SCHEDULES`, ...), in the
order in which a menu should show them, so that a declaration can be checked and drawn before any numerics are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal

SamplerName = Literal[
    "euler",
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "heun",
    "heunpp2",
    "exp_heun_2_x0",
    "exp_heun_2_x0_sde",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
    "sa_solver_pece",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
]

ScheduleName = Literal[
    "simple",
    "sgm_uniform",
    "karras",
    "exponential",
    "ddim_uniform",
    "beta",
    "normal",
    "linear_quadratic",
    "kl_optimal",
]

AlignedModel = Literal["SD1", "SDXL", "SVD"]  # levels/chosen.py: whose measured levels
LevelSpacing = Literal["linear", "cosine", "sine"]  # levels/edits.py
SdeRule = Literal["midpoint", "heun"]  # samplers/sde.py
ErSolver = Literal["ER-SDE", "Reverse-time SDE", "ODE"]  # samplers/er_sde.py
SeedsSolver = Literal["phi_1", "phi_2"]  # samplers/seeds.py

ResizeMethod = Literal["nearest-exact", "bilinear", "area", "bicubic", "lanczos", "bislerp"]  # pictures/resize.py
Precision = Literal["auto", "exact", "fp32", "bf16", "fp16"]  # networks/precision.py: the number formats of a run
PrecisionChoice = Literal["default", "auto", "exact", "fp32", "bf16", "fp16"]  # of one file; default is that of the run
VaePrecisionChoice = Literal["default", "auto", "exact", "fp32", "bf16"]  # autoencoders overflow in float16
WeightFormat = Literal["float16", "bfloat16", "float32"]  # checkpoints/export.py
CropName = Literal["disabled", "center"]  # what pictures/resize.py does with a picture of another aspect
TextFamily = Literal["auto", "stable_diffusion", "sdxl", "sd3", "flux", "flux2", "ldm"]  # checkpoints/describe_text.py
EmptyPrompt = Literal["none", "empty_prompt"]  # text/encoding.py: what is made of a text encoder without words
VisionCrop = Literal["center", "none"]  # vision/encoding.py
MaskedFill = Literal["grey", "black"]  # pictures/inpainting.py
MaskOperation = Literal["multiply", "add", "subtract", "and", "or", "xor"]  # pictures/masks.py
BlendMode = Literal["normal", "multiply", "screen", "overlay", "soft_light", "difference"]  # pictures/edits.py
LatentBlendMode = Literal["values", "directions"]  # latents/edits.py
FlipDirection = Literal["horizontal", "vertical"]  # latents/edits.py
ChannelName = Literal["alpha", "red", "green", "blue"]  # pictures/masks.py


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Returns the error for a `name` that no `kind` of thing bears, with the nearest known name and the whole list."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.")
