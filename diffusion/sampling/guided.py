"""A model, lists of conditions and a rule of guidance as one denoiser: what answers a sampler's queries in a run.

Knows how many lists a rule needs and what a model asks of a run, but no sampler, no schedule and no mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..checkpoints.families import NetworkKind
from ..levels.space import SamplingSpace
from ..networks.faults import check_finite
from ..networks.patches import add_free_u, record_self_attention, shared_copy
from ..networks.sharing import SharedWork, share_work
from ..samplers.drive import Denoise
from ..samplers.problem import Answer, Query
from .calls import Steer, call_of, unet_network
from .conditioning import PreparedCondition
from .denoiser import Conditions, Joins, estimate
from .guidance import Estimates, Guidance, ListName
from .options import SamplingOptions, SelfAttentionGuidance

BLUR_TAPS = 9
LEAST_SIDE = BLUR_TAPS // 2 + 1  # latent cells that reflection at the edges needs
ATTENDED = 1.0  # a cell that gets more than its even share of all attention


def guided_denoiser(
    network: Any,
    kind: NetworkKind,
    space: SamplingSpace,
    lists: Mapping[ListName, tuple[PreparedCondition, ...]],
    rule: Guidance,
    *,
    options: SamplingOptions,
    steer: Steer = lambda x, timestep, inputs: None,
    max_batch: int | None = None,
    share: bool = False,
) -> Denoise:
    """Returns what answers a run's queries: one pass, or as few as can be, for all lists that a query needs.

    network: diffusers' network of this kind; it is not changed. The order of `lists` is that of the batches. steer: what
    control networks add in each pass of a UNet. share: do work once that is equal in several of its passes, which moves the
    last bits.
    """
    degrading: _Degrading | None = None
    shared: SharedWork | None = None
    if kind != "unet" and (options.free_u or options.self_attention):
        raise ValueError(
            "FreeU and self-attention guidance change how a UNet works, and this network is a transformer."
        )
    if options.free_u or options.self_attention or (share and kind == "unet"):
        network = shared_copy(network)
        if share:
            shared = share_work(network)
        add_free_u(network, options.free_u)
        if options.self_attention:
            if "negative" not in lists:
                raise ValueError(
                    "self-attention guidance degrades the negative estimate; use a guider with a negative."
                )
            degrading = _Degrading(network, options.self_attention, list(lists).index("negative"))
    call = unet_network(network, shared, steer) if kind == "unet" else call_of(kind, network)
    joins: Joins = {}
    always: set[ListName] = {"negative"} if degrading else set()

    def denoise(query: Query) -> Answer:
        x, sigma = query.x, query.sigma
        needs = rule.needs | always | ({"negative"} if query.wants_negative else set())
        wanted: list[Conditions] = [conditions if name in needs else () for name, conditions in lists.items()]
        before = degrading.before_pass if degrading else None
        found = estimate(call, space, wanted, x, sigma, max_batch=max_batch, before_pass=before, joins=joins)
        estimates = Estimates(x, sigma, dict(zip(lists, found, strict=True)), options.rescale)
        denoised = rule(estimates)
        negative = estimates.lists.get("negative", denoised)
        if degrading is not None and min(x.shape[-2:]) >= LEAST_SIDE:
            degraded = degrading.degrade(negative)
            (worse,) = estimate(
                call, space, [lists["negative"]], degraded + (x - negative), sigma, max_batch=max_batch, joins=joins
            )
            denoised = denoised + (degraded - worse) * degrading.scale
        return Answer(denoised, negative)

    def checked(query: Query) -> Answer:
        answer = denoise(query)
        what = f"step {query.step + 1} of the sampling, at sigma {float(query.sigma.max()):.4g},"
        check_finite(answer.denoised, network, lambda: denoise(query), what=what, given=_origin(query))
        return answer

    return checked


def _origin(query: Query) -> str:
    """Returns where a latent that is not finite before any network has seen it comes from."""
    if query.x.isfinite().all():
        return "The network was given them, in the conditioning: look at the nodes that made it."
    if query.step:
        return "The sampler itself ran off: give it more steps, or choose another one."
    return "The latent that it began with has them already: look at the nodes that made it."


class _Degrading:
    """Blurs what a network's middle attends to most. Hong et al. 2022, arXiv:2210.00939, section 4.

    Remembers from each pass what the negative list's part attended to.
    """

    def __init__(self, unet: Any, settings: SelfAttentionGuidance, negative: int) -> None:
        """unet: is changed. negative: the number of the negative list."""
        record_self_attention(unet, self._remember)
        self.scale = settings.scale
        self._sigma = settings.blur_sigma
        self._halvings = len(unet.config.block_out_channels) - 1
        self._negative = negative
        self._parts: tuple[int, ...] = ()
        self._weights: Tensor | None = None

    def before_pass(self, parts: tuple[int, ...]) -> None:
        """Is told which list each part of the next batch is from."""
        self._parts = parts

    def degrade(self, denoised: Tensor) -> Tensor:
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
