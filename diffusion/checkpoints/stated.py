"""What files and diffusers configs state of a model beside its weights: its noise levels, its latent scale, its colours.

Whatever is stated wrongly, or not understood, counts as not stated. Reads single small tensors, and loads no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ..families.specs import Colours, Family, LatentFormat, ModelSpec
from ..levels.space_spec import ContinuousLevels, DiscreteLevels, FlowLevels, Levels
from .headers import Header, read_floats

BETAS, SCALE = "betas", "scale_factor"
"""Where files of LDM's layout keep the variances of the steps, and the scale of the latents if it was measured."""

EDM_LOW, EDM_HIGH = "edm_vpred.sigma_min", "edm_vpred.sigma_max"
"""Where files of SDXL with EDM v-prediction keep the ends of their noise levels."""

PICTURES = "noise_augmentor.data_"
"""Before `mean` and `std` of the picture embeddings that a network was trained with."""

_STEPS = 1000
_EVEN = 1e-3  # how far from evenly spaced roots the variance in the middle may be, relative to it


def stated_levels(family: Family, header: Header, scheduler: Mapping[str, Any], *, zero_snr: bool) -> Levels:
    """Returns a family's levels with what its file, or a diffusers scheduler's config, states of them."""
    levels = family.levels
    if isinstance(levels, DiscreteLevels):
        levels = replace(levels, zero_terminal_snr=zero_snr or levels.zero_terminal_snr)
        ends = (_file_betas(header) or _config_betas(scheduler)) if family.told_by_file else None
        return replace(levels, beta_start=ends[0], beta_end=ends[1]) if ends else levels
    if isinstance(levels, ContinuousLevels):
        return _stated_ends(levels, header, scheduler)
    shift = scheduler.get("shift")
    if isinstance(levels, FlowLevels) and isinstance(shift, int | float) and not scheduler.get("use_dynamic_shifting"):
        return replace(levels, shift=float(shift)) if 0 < shift <= 100 else levels
    return levels


def stated_latent(
    family: Family, header: Header, *, vae_config: Mapping[str, Any], downscale: int | None
) -> LatentFormat:
    """Returns a family's latent format with what its file states: the scale and the colours, and what the VAE is known to be.

    downscale: pixels of a latent cell by the VAE, if there is one.
    """
    latent = replace(family.latent, colours=_stated_colours(header.metadata, family.latent))
    if not family.told_by_file:
        return latent
    scale = vae_config.get("scaling_factor")
    info = header.tensors.get(SCALE)
    if info is not None and info.numel == 1:
        scale = _six_digits(read_floats(header, SCALE)[0])
    if isinstance(scale, int | float) and 0 < scale < 1e3:
        latent = replace(latent, scale=float(scale))
    return replace(latent, downscale=downscale or latent.downscale)


class PictureStats(NamedTuple):
    """Mean and standard deviation of the picture embeddings that a network was trained with; empty where they are 0 and 1."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def stated_picture_stats(header: Header | None, prefix: str) -> PictureStats:
    """Returns what a file states of the picture embeddings of its network: below a prefix, `mean` and `std`."""
    keys = f"{prefix}mean", f"{prefix}std"
    if header is None or not all(key in header.tensors for key in keys):
        return PictureStats()
    mean, std = (tuple(read_floats(header, key)) for key in keys)
    if len(mean) != len(std) or not all(value > 0 for value in std):
        return PictureStats()
    return PictureStats() if not any(mean) and all(value == 1 for value in std) else PictureStats(mean, std)


def stated_resolution(metadata: Mapping[str, str]) -> int | None:
    """Returns the side that the file's metadata names, as "1024x1024" (Stability AI's modelspec 1.0)."""
    side = metadata.get("modelspec.resolution", "").partition("x")[0]
    return int(side) if side.isdecimal() and len(side) <= 5 else None


def statements(family: Family, spec: ModelSpec) -> dict[str, tuple[float, ...]]:
    """Returns what a file of this model has to state by key, so that it is read again as what it is."""
    stated: dict[str, tuple[float, ...]] = {key: () for key in family.file_markers[0] if not key.endswith(".weight")}
    levels = spec.levels
    if family.told_by_file and isinstance(levels, DiscreteLevels):
        first, last = levels.beta_start**0.5, levels.beta_end**0.5
        betas = tuple((first + (last - first) * n / (_STEPS - 1)) ** 2 for n in range(_STEPS))
        stated |= {SCALE: (spec.latent.scale,), BETAS: betas}
    if EDM_HIGH in stated and isinstance(levels, ContinuousLevels):
        stated |= {EDM_LOW: (levels.sigma_min,), EDM_HIGH: (levels.sigma_max,)}
    if spec.picture_mean:
        stated |= {f"{PICTURES}mean": spec.picture_mean, f"{PICTURES}std": spec.picture_std}
    return stated


def _stated_ends(levels: ContinuousLevels, header: Header, scheduler: Mapping[str, Any]) -> ContinuousLevels:
    low, high = (
        _six_digits(read_floats(header, key)[0])
        if (info := header.tensors.get(key)) is not None and info.numel == 1
        else scheduler.get(name, default)
        for key, name, default in (
            (EDM_LOW, "sigma_min", levels.sigma_min),
            (EDM_HIGH, "sigma_max", levels.sigma_max),
        )
    )
    known = isinstance(low, int | float) and isinstance(high, int | float) and 0 < low < high < 1e6
    return replace(levels, sigma_min=float(low), sigma_max=float(high)) if known else levels


def _file_betas(header: Header) -> tuple[float, float] | None:
    info = header.tensors.get(BETAS)
    if info is None or info.dtype not in {"F32", "F64"} or info.shape != (_STEPS,):
        return None
    values = read_floats(header, BETAS)
    first, middle, last = values[0], values[_STEPS // 2], values[-1]
    if not 0 < first < last < 1:
        return None
    even = (first**0.5 + (last**0.5 - first**0.5) * (_STEPS // 2) / (_STEPS - 1)) ** 2
    return (_six_digits(first), _six_digits(last)) if abs(middle - even) < _EVEN * even else None


def _config_betas(scheduler: Mapping[str, Any]) -> tuple[float, float] | None:
    first, last = scheduler.get("beta_start"), scheduler.get("beta_end")
    if scheduler.get("beta_schedule") != "scaled_linear" or scheduler.get("num_train_timesteps", _STEPS) != _STEPS:
        return None
    if not (isinstance(first, float) and isinstance(last, float) and 0 < first < last < 1):
        return None
    return first, last


def _six_digits(value: float) -> float:
    """Returns a number as it was written before it became a float32."""
    return float(f"{value:.6g}")


def _stated_colours(metadata: Mapping[str, str], latent: LatentFormat) -> Colours | None:
    """Returns the preview colours that the file's metadata states, as JSON rows, else those of the format."""
    try:
        rows = json.loads(metadata.get("latentgraph.colours", "null"))
        red, green, blue = ([float(value) for value in column] for column in zip(*rows, strict=True))
        colours = tuple(zip(red, green, blue, strict=True))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return latent.colours
    return colours if latent.channels <= len(colours) <= latent.channels + 1 else latent.colours
