"""What a model asks to be done to the guided estimate, one after the other, in the order in which it was asked.

Most steer away from an estimate that was made worse on purpose, and cost a pass more for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..families.specs import UNETS, network_words
from ..networks.patches import perturb_self_attention, record_self_attention, skip_blocks
from .guidance import Estimates, ListName
from .options import (
    Correction,
    NormLimit,
    PerturbedAttentionGuidance,
    ProjectedGuidance,
    SelfAttentionGuidance,
    SkipLayerGuidance,
    ZeroStar,
)
from .passes import Passes
from .projected import Projected

BLUR_TAPS = 9
LEAST_SIDE = BLUR_TAPS // 2 + 1  # latent cells that reflection at the edges needs
ATTENDED = 1.0  # a cell that gets more than its even share of all attention
LEAST_SQUARE, LEAST_LENGTH = 1e-8, 1e-8  # instead of 0, where an estimate is as good as empty


class Correct(Protocol):
    """A correction of one run. needs: the lists that it looks at beside those of the rule of guidance."""

    @property
    def needs(self) -> frozenset[ListName]: ...

    def __call__(self, guided: Tensor, estimates: Estimates) -> Tensor:
        """Returns the guided estimate, (B, C, h, w), corrected."""


def make_correction(setting: Correction, passes: Passes, *, scale: float) -> Correct:
    """Returns a correction for the run with these passes. scale: of the rule of guidance.

    Raises ValueError where the network or the guider is not one for it.
    """
    match setting:
        case SelfAttentionGuidance():
            return _SelfAttention(setting, passes)
        case PerturbedAttentionGuidance():
            _check_unet(passes, "perturbed-attention guidance")
            return _Away(passes.changed(perturb_self_attention), setting.scale)
        case SkipLayerGuidance():
            return _skip_layers(setting, passes)
        case ZeroStar():
            return _Arithmetic(lambda guided, estimates: zero_star(guided, estimates, scale))
        case ProjectedGuidance():
            return Projected(setting, scale)
        case NormLimit():
            return _Arithmetic(lambda guided, estimates: limit_norm(guided, estimates, setting.strength))


def zero_star(guided: Tensor, estimates: Estimates, scale: float) -> Tensor:
    """Returns the estimate that guidance by `scale` gives from the negative one times alpha. Fan et al. 2025, arXiv:2503.18886.

    alpha is how much of the negative direction the positive one holds, for each item. As in ComfyUI 0.8.0 (behaviour).
    """
    positive, negative = estimates.lists["positive"], estimates.lists.get("negative")
    if negative is None:
        return guided
    towards, away = (estimates.x - each for each in (positive, negative))
    dims = tuple(range(1, guided.ndim))
    square = (away**2).sum(dim=dims, keepdim=True) + LEAST_SQUARE
    alpha = (towards * away).sum(dim=dims, keepdim=True) / square
    return guided + negative * (alpha - 1.0) + scale * negative * (1.0 - alpha)


def limit_norm(guided: Tensor, estimates: Estimates, strength: float) -> Tensor:
    """Returns the estimate, nowhere longer over its channels than the positive one, times `strength`."""
    positive = estimates.lists["positive"].norm(dim=1, keepdim=True)
    scale = (positive / (guided.norm(dim=1, keepdim=True) + LEAST_LENGTH)).clamp(0.0, 1.0)
    limited: Tensor = guided * scale * strength
    return limited


class _Arithmetic:
    """A correction that costs no pass."""

    needs: frozenset[ListName] = frozenset()

    def __init__(self, change: Callable[[Tensor, Estimates], Tensor]) -> None:
        self._change = change

    def __call__(self, guided: Tensor, estimates: Estimates) -> Tensor:
        return self._change(guided, estimates)


class _Away:
    """Steers away from the positive estimate by a network that was made worse."""

    needs: frozenset[ListName] = frozenset()

    def __init__(
        self,
        worse: Passes,
        scale: float,
        *,
        sigma_start: float = float("inf"),
        sigma_end: float = 0.0,
        rescaling: float = 0.0,
    ) -> None:
        self._worse = worse
        self._scale = scale
        self._levels = sigma_end, sigma_start
        self._rescaling = rescaling

    def __call__(self, guided: Tensor, estimates: Estimates) -> Tensor:
        end, start = self._levels
        if self._scale == 0.0 or not end <= estimates.sigma.flatten()[0].item() <= start:
            return guided
        positive = estimates.lists["positive"]
        worse = self._worse.estimate({"positive"}, estimates.x, estimates.sigma)["positive"]
        guided = guided + (positive - worse) * self._scale
        if self._rescaling:
            guided = guided * (self._rescaling * (positive.std() / guided.std()) + (1.0 - self._rescaling))
        return guided


def _skip_layers(setting: SkipLayerGuidance, passes: Passes) -> Correct:
    if passes.setting.kind in UNETS:
        found = network_words(passes.setting.kind)
        raise ValueError(f"skip-layer guidance leaves out blocks of a transformer, and this network is {found}.")
    percent_to_sigma = passes.setting.space.percent_to_sigma

    def skip(transformer: object) -> None:
        skip_blocks(transformer, double=setting.double, single=setting.single)

    return _Away(
        passes.changed(skip),
        setting.scale,
        sigma_start=percent_to_sigma(setting.start),
        sigma_end=percent_to_sigma(setting.end),
        rescaling=setting.rescaling,
    )


def _check_unet(passes: Passes, what: str) -> None:
    if passes.setting.kind != "unet":
        found = network_words(passes.setting.kind)
        raise ValueError(f"{what} changes how a UNet with text works, and this network is {found}.")


class _SelfAttention:
    """Blurs what a network's middle attends to most. Hong et al. 2022, arXiv:2210.00939, section 4.

    Remembers from each pass what the negative list's part attended to.
    """

    needs: frozenset[ListName] = frozenset({"negative"})

    def __init__(self, setting: SelfAttentionGuidance, passes: Passes) -> None:
        """passes: their network is changed."""
        _check_unet(passes, "self-attention guidance")
        if "negative" not in passes.setting.lists:
            raise ValueError("self-attention guidance degrades the negative estimate; use a guider with a negative.")
        passes.observe(lambda unet: record_self_attention(unet, self._remember), self._before_pass)
        self._passes = passes
        self._scale = setting.scale
        self._sigma = setting.blur_sigma
        self._halvings = len(passes.network.config.block_out_channels) - 1
        self._negative = passes.number_of("negative")
        self._parts: tuple[int, ...] = ()
        self._weights: Tensor | None = None

    def __call__(self, guided: Tensor, estimates: Estimates) -> Tensor:
        x, negative = estimates.x, estimates.lists["negative"]
        if min(x.shape[-2:]) < LEAST_SIDE:
            return guided
        degraded = self._degrade(negative)
        worse = self._passes.estimate({"negative"}, degraded + (x - negative), estimates.sigma)["negative"]
        return guided + (degraded - worse) * self._scale

    def _degrade(self, denoised: Tensor) -> Tensor:
        """Returns the negative estimate, (B, C, h, w), blurred where the last pass attended to it more than evenly."""
        h, w = denoised.shape[-2:]
        for _ in range(self._halvings):
            h, w = -(-h // 2), -(-w // 2)
        if self._weights is None or self._weights.shape[-1] != h * w:
            return denoised  # only parts of the picture have negative conditions
        attended = self._weights.mean(dim=1).sum(dim=1) > ATTENDED  # (B, N): over heads, then over what attends
        mask = attended.reshape(-1, 1, h, w).to(denoised)
        mask = functional.interpolate(mask, denoised.shape[-2:])
        return gaussian_blur(denoised, self._sigma) * mask + denoised * (1.0 - mask)

    def _before_pass(self, parts: tuple[int, ...]) -> None:
        self._parts = parts

    def _remember(self, weights: Tensor) -> None:
        if self._negative in self._parts:
            self._weights = weights.chunk(len(self._parts))[self._parts.index(self._negative)]


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Returns (B, C, h, w) blurred by a Gaussian of this std in cells, cut off at 4 cells, edges reflected."""
    if sigma == 0:
        return x
    at = torch.linspace(-(BLUR_TAPS // 2), BLUR_TAPS // 2, BLUR_TAPS)
    taps = torch.exp(-0.5 * (at / sigma) ** 2)
    taps = (taps / taps.sum()).to(x)
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, -1, -1)
    padded = functional.pad(x, (BLUR_TAPS // 2,) * 4, mode="reflect")
    return functional.conv2d(padded, kernel, groups=x.shape[1])
