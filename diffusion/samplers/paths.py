"""How noise enters a latent along a run: x = alpha(sigma) * latent + sigma * noise, and what follows from it.

Knows no network and no schedule. Results as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from . import precise


class Path(Protocol):
    """How noise enters: x = alpha(sigma) * latent + sigma * noise."""

    @property
    def is_flow(self) -> bool:
        """True where sigma runs from 0 to 1 and alpha = 1 - sigma (rectified flow), False where alpha = 1."""

    def add_noise(self, sigma: Tensor, noise: Tensor, latent: Tensor, *, max_denoise: bool) -> Tensor:
        """Returns the noisy latent; sigma is already broadcastable to it."""

    def remove_scale(self, sigma: Tensor, x: Tensor) -> Tensor:
        """Returns x / alpha(sigma): what a run that ends at sigma hands on."""

    def log_snr(self, sigma: Tensor) -> Tensor:
        """Returns lambda = ln(alpha / sigma). Lu et al. 2022, arXiv:2206.00927, section 2 (half the log of the SNR)."""

    def sigma_at(self, log_snr: Tensor) -> Tensor:
        """Returns the sigma whose `log_snr` this is."""


class VarianceExploding:
    """alpha = 1; sigma is the noise's std in units of the scaled latent. Karras et al. 2022, arXiv:2206.00364."""

    is_flow = False

    def add_noise(self, sigma: Tensor, noise: Tensor, latent: Tensor, *, max_denoise: bool) -> Tensor:
        """At the top of the schedule x has the std of noise plus unit data, so that pure noise lies on the path."""
        std = precise.sqrt(1.0 + sigma**2) if max_denoise else sigma
        return noise * std + latent

    def remove_scale(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x

    def log_snr(self, sigma: Tensor) -> Tensor:
        return precise.log(sigma).neg()

    def sigma_at(self, log_snr: Tensor) -> Tensor:
        return precise.exp(log_snr.neg())


class RectifiedFlow:
    """alpha = 1 - sigma, sigma in 0..1. Liu et al. 2022, arXiv:2209.03003; Esser et al. 2024, arXiv:2403.03206."""

    is_flow = True

    def add_noise(self, sigma: Tensor, noise: Tensor, latent: Tensor, *, max_denoise: bool) -> Tensor:
        return sigma * noise + (1.0 - sigma) * latent

    def remove_scale(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x / (1.0 - sigma)

    def log_snr(self, sigma: Tensor) -> Tensor:
        return precise.logit(sigma).neg()

    def sigma_at(self, log_snr: Tensor) -> Tensor:
        return precise.sigmoid(log_snr.neg())
