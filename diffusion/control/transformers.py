"""ControlNets for transformers as they are asked at each step: diffusers' for SD3 and FLUX.1 behind the face of `networks`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FluxControlNetModel, SD3ControlNetModel
from torch import Tensor, nn

from ..families.dit_specs import PATCH
from ..networks.building import flux_config, mmdit_config
from ..networks.patches import shared_copy
from ..networks.telling import told_exactly
from ..sampling.network_inputs import NetworkInputs
from ..sampling.tokens import token_places, tokens_of, whole_tokens
from .residuals import Residuals
from .transformer_specs import FluxControlSpec, SD3ControlSpec

DEFAULT_GUIDANCE = 3.5  # FLUX.1 dev's, for a network that is told it beside a model that is not


class SD3Controller:
    """diffusers' SD3ControlNetModel."""

    def __init__(self, network: Any, spec: SD3ControlSpec, embedding: Any) -> None:
        """embedding: of the latent, the steered network's, for a network that has none of its own; else None."""
        self._network, self._spec, self._embedding = network, spec, embedding

    def embed(self, hint: Tensor) -> tuple[Tensor, ...]:
        return (whole_tokens(hint, PATCH).to(self._network.device, self._network.dtype),)

    def steer(
        self, x: Tensor, timestep: Tensor, inputs: NetworkInputs, embedded: Sequence[Tensor], kinds: Sequence[int]
    ) -> Residuals:
        pooled, dtype = _pooled(inputs), self._network.dtype
        x = whole_tokens(x, PATCH).to(dtype)
        found: tuple[Sequence[Tensor]] = self._network(
            hidden_states=self._embedding(x) if self._spec.leans else x,
            controlnet_cond=embedded[0],
            encoder_hidden_states=None if self._spec.leans else inputs.context.to(dtype),
            pooled_projections=(pooled if self._spec.pooled else torch.zeros_like(pooled)).to(dtype),
            timestep=timestep,
            return_dict=False,
        )
        blocks = tuple(found[0])
        return Residuals(blocks=blocks, end=blocks[-1:] if self._spec.leans else ())


class FluxController:
    """diffusers' FluxControlNetModel. The convolutions of XLabs' networks, which see the picture alone, are apart."""

    def __init__(self, network: Any, spec: FluxControlSpec) -> None:
        """network: is changed."""
        self._network, self._pixels = network, network.input_hint_block
        network.input_hint_block = None
        self._untold = network
        if spec.union is not None:
            self._untold = shared_copy(network)
            self._untold.union = False

    def embed(self, hint: Tensor) -> tuple[Tensor, ...]:
        hint = hint.to(self._network.device, self._network.dtype)
        return (tokens_of(hint if self._pixels is None else self._pixels(2.0 * hint - 1.0), PATCH).values,)

    def steer(
        self, x: Tensor, timestep: Tensor, inputs: NetworkInputs, embedded: Sequence[Tensor], kinds: Sequence[int]
    ) -> Residuals:
        network, dtype = self._network if kinds else self._untold, self._network.dtype
        picture = tokens_of(x, PATCH)
        context = inputs.context.to(dtype)
        guidance = None
        if network.config.guidance_embeds:
            guidance = x.new_full((len(x),), DEFAULT_GUIDANCE) if inputs.guidance is None else inputs.guidance
        with told_exactly(network.time_text_embed, timestep, guidance):
            blocks, single_blocks = network(
                hidden_states=picture.values.to(dtype),
                controlnet_cond=embedded[0],
                controlnet_mode=torch.tensor(list(kinds), device=x.device).expand(len(x), -1) if kinds else None,
                encoder_hidden_states=context,
                pooled_projections=_pooled(inputs).to(dtype),
                timestep=timestep,
                img_ids=token_places(picture).to(x.device),
                txt_ids=torch.zeros(context.shape[1], 3, device=x.device),
                guidance=guidance,
                return_dict=False,
            )
        return Residuals(blocks=tuple(blocks or ()), single_blocks=tuple(single_blocks or ()))


def build_sd3_control(spec: SD3ControlSpec) -> SD3ControlNetModel:
    """Returns diffusers' ControlNet for SD3 of this structure, on the meta device."""
    config = mmdit_config(spec.network)
    if spec.leans:
        config |= {"joint_attention_dim": None, "use_pos_embed": False, "pos_embed_type": None}
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers warns of a class that it uses itself
        return SD3ControlNetModel(**config, extra_conditioning_channels=int(spec.hint.mask))


def build_flux_control(spec: FluxControlSpec) -> FluxControlNetModel:
    """Returns diffusers' ControlNet for FLUX.1 of this structure, on the meta device."""
    network = spec.network
    pixels = None if spec.hint.latent else network.in_channels
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as above
        built = FluxControlNetModel(
            num_mode=spec.union, conditioning_embedding_channels=pixels, patch_size=PATCH, **flux_config(network)
        )
        if spec.hint.mask:  # which diffusers' class does not know, and needs nothing else
            built.controlnet_x_embedder = nn.Linear(PATCH**2 * (spec.hint.channels + 1), network.width)
        return built


def _pooled(inputs: NetworkInputs) -> Tensor:
    if inputs.pooled is None:
        raise ValueError("this control network takes a pooled text vector, and the condition has none.")
    return inputs.pooled
