"""Builds diffusers' autoencoders from a spec, on the meta device, without weights; see `building`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderTiny, ConsistencyDecoderVAE, VQModel
from diffusers.schedulers.scheduling_consistency_decoder import ConsistencyDecoderScheduler
from torch import nn

from ..families.autoencoders import PATCH, ConsistencySpec, KLSpec, PatchedKLSpec, TinySpec, VaeSpec, VQSpec
from .building import GROUPS, check_widths

# Of SD1's latents, by channel: openai/consistencydecoder, ldm_transform_latent.
CONSISTENCY_MEANS = (0.38862467, 0.02253063, 0.07381133, -0.0171294)
CONSISTENCY_STDS = (0.9654121, 1.0440036, 0.76147926, 0.77022034)


@singledispatch
def build_vae(spec: VaeSpec) -> nn.Module:
    """Returns diffusers' autoencoder of this structure. Raises StructureError for one that diffusers can't express."""
    raise TypeError(f"{type(spec).__name__} is no kind of autoencoder")


@build_vae.register
def _(spec: KLSpec) -> AutoencoderKL:
    check_widths(spec.widths)
    with torch.device("meta"):
        return AutoencoderKL(
            in_channels=spec.picture_channels,
            out_channels=spec.picture_channels,
            latent_channels=spec.latent_channels,
            block_out_channels=spec.widths,
            layers_per_block=spec.encoder_blocks,
            down_block_types=_down_blocks(spec.widths, spec.attention),
            up_block_types=_up_blocks(spec.widths, spec.attention),
            use_quant_conv=spec.quant_convs,
            use_post_quant_conv=spec.quant_convs,
            mid_block_add_attention=spec.middle_attention,
            norm_num_groups=GROUPS,
        )


@build_vae.register
def _(spec: PatchedKLSpec) -> AutoencoderKLFlux2:
    check_widths(spec.widths)
    check_widths(spec.decoder_widths)
    with torch.device("meta"):
        return AutoencoderKLFlux2(
            in_channels=spec.picture_channels,
            out_channels=spec.picture_channels,
            latent_channels=spec.latent_channels // PATCH**2,
            block_out_channels=spec.widths,
            decoder_block_out_channels=spec.decoder_widths,
            layers_per_block=spec.encoder_blocks,
            down_block_types=_down_blocks(spec.widths, ()),
            up_block_types=_up_blocks(spec.decoder_widths, ()),
            use_quant_conv=spec.quant_convs,
            use_post_quant_conv=spec.quant_convs,
            mid_block_add_attention=spec.middle_attention,
            norm_num_groups=GROUPS,
            patch_size=(PATCH, PATCH),
        )


@build_vae.register
def _(spec: VQSpec) -> VQModel:
    check_widths(spec.widths)
    with torch.device("meta"):
        return VQModel(
            in_channels=spec.picture_channels,
            out_channels=spec.picture_channels,
            latent_channels=spec.inner_channels,
            block_out_channels=spec.widths,
            layers_per_block=spec.encoder_blocks,
            down_block_types=_down_blocks(spec.widths, spec.attention),
            up_block_types=_up_blocks(spec.widths, spec.attention),
            num_vq_embeddings=spec.codes,
            vq_embed_dim=spec.latent_channels,
            mid_block_add_attention=spec.middle_attention,
            norm_num_groups=GROUPS,
        )


@build_vae.register
def _(spec: TinySpec) -> AutoencoderTiny:
    down = spec.encoder_blocks or (1,)
    with torch.device("meta"):
        network = AutoencoderTiny(
            in_channels=spec.picture_channels,
            out_channels=spec.picture_channels,
            latent_channels=spec.latent_channels,
            encoder_block_out_channels=(spec.width,) * len(down),
            decoder_block_out_channels=(spec.width,) * len(spec.decoder_blocks),
            num_encoder_blocks=down,
            num_decoder_blocks=spec.decoder_blocks,
        )
    if not spec.encodes:
        del network.encoder
    return network


@build_vae.register
def _(spec: ConsistencySpec) -> ConsistencyDecoderVAE:
    check_widths(spec.encoder_widths)
    check_widths(spec.decoder_widths)
    with torch.device("meta"):
        network = ConsistencyDecoderVAE(
            scaling_factor=spec.scale,
            latent_channels=spec.latent_channels,
            encoder_in_channels=spec.picture_channels,
            encoder_out_channels=spec.latent_channels,
            encoder_block_out_channels=spec.encoder_widths,
            encoder_down_block_types=_down_blocks(spec.encoder_widths, ()),
            encoder_layers_per_block=spec.encoder_blocks,
            encoder_norm_num_groups=GROUPS,
            decoder_in_channels=spec.picture_channels + spec.latent_channels,
            decoder_out_channels=2 * spec.picture_channels,
            decoder_block_out_channels=spec.decoder_widths,
            decoder_down_block_types=["ResnetDownsampleBlock2D"] * len(spec.decoder_widths),
            decoder_up_block_types=["ResnetUpsampleBlock2D"] * len(spec.decoder_widths),
            decoder_layers_per_block=spec.decoder_blocks,
            decoder_norm_num_groups=GROUPS,
            decoder_num_train_timesteps=spec.times,
        )
    network.decoder_scheduler = ConsistencyDecoderScheduler()  # its tables are values, which the meta device left out
    for name, values in (("means", CONSISTENCY_MEANS), ("stds", CONSISTENCY_STDS)):
        network.register_buffer(name, torch.tensor(values)[None, :, None, None], persistent=False)
    return network


def _down_blocks(widths: Sequence[int], attention: Sequence[bool]) -> list[str]:
    attends = attention or (False,) * len(widths)
    return ["AttnDownEncoderBlock2D" if each else "DownEncoderBlock2D" for each in attends]


def _up_blocks(widths: Sequence[int], attention: Sequence[bool]) -> list[str]:
    attends = attention or (False,) * len(widths)
    return ["AttnUpDecoderBlock2D" if each else "UpDecoderBlock2D" for each in reversed(attends)]
