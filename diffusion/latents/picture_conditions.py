"""Pictures made ready for a network that goes by them: as latents with a mask, or in the conditions beside the latent.

Behaviour as in ComfyUI 0.8.0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from ..names import MaskedFill
from ..pictures.inpainting import fill_masked, grow_noise_mask
from ..types import Condition, Conditioning, Image, Latent, Mask, Vae
from .autoencoder import OnNotice, encode
from .tiling import OnProgress


def encode_for_inpaint(
    vae: Vae,
    image: Image,
    mask: Mask,
    *,
    grow_mask_by: int = 6,
    on_progress: OnProgress | None = None,
    on_notice: OnNotice | None = None,
) -> Latent:
    """Returns the latents of the pictures with the masked part greyed out, and that part, grown, as their noise mask.

    For models that know nothing of inpainting, at full denoise: what was under the mask is lost.
    """
    greyed = fill_masked(image, mask, multiple=vae.spec.downscale)
    latent = encode(vae, greyed.image, on_progress=on_progress, on_notice=on_notice)
    return replace(latent, noise_mask=grow_noise_mask(greyed.mask, pixels=grow_mask_by))


class PictureConditions(NamedTuple):
    """What a model that is shown a picture beside the latent takes: conditions that carry it, and the latent."""

    positive: Conditioning
    negative: Conditioning
    latent: Latent


def condition_on_inpaint(
    vae: Vae,
    positive: Conditioning,
    negative: Conditioning,
    image: Image,
    mask: Mask,
    *,
    noise_mask: bool = True,
    fill: MaskedFill = "grey",
    on_progress: OnProgress | None = None,
    on_notice: OnNotice | None = None,
) -> PictureConditions:
    """Returns the conditions with mask and masked picture, for a network with channels for them, and the full latent.

    noise_mask: also keep the unmasked part of the latent as it is while sampling. fill: what is under the mask in the picture.
    """

    def half(done: float) -> OnProgress | None:
        return None if on_progress is None else lambda fraction: on_progress(done + fraction / 2)

    filled = fill_masked(image, mask, multiple=vae.spec.downscale, fill=fill)
    picture = encode(vae, filled.image, on_progress=half(0.0), on_notice=on_notice).samples
    channels = filled.mask.values.unsqueeze(1)
    latent = encode(vae, image, on_progress=half(0.5), on_notice=on_notice)
    if noise_mask:
        latent = replace(latent, noise_mask=channels)

    def carrying(entry: Condition) -> Condition:
        return replace(entry, concat_latent=picture, concat_mask=channels)

    return PictureConditions(positive.each(carrying), negative.each(carrying), latent)


def condition_on_picture(
    vae: Vae,
    positive: Conditioning,
    negative: Conditioning,
    image: Image,
    *,
    on_progress: OnProgress | None = None,
    on_notice: OnNotice | None = None,
) -> PictureConditions:
    """Returns the conditions with a picture to edit, for a network with channels for it, and an empty latent of its size.

    Brooks et al. 2022, arXiv:2211.09800 (InstructPix2Pix).
    """
    picture = encode(vae, image, on_progress=on_progress, on_notice=on_notice).samples

    def carrying(entry: Condition) -> Condition:
        return replace(entry, concat_latent=picture)

    latent = Latent(torch.zeros_like(picture), cell=vae.spec.downscale)
    return PictureConditions(positive.each(carrying), negative.each(carrying), latent)
