"""ControlNets for transformers as they are asked at each step: diffusers' for SD3 and FLUX.1 behind the face of `networks`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FluxControlNetModel, SD3ControlNetModel
from torch import Tensor

from ..families.dit_specs import PATCH, FluxSpec
from ..networks.building import flux_config, mmdit_config
from ..networks.patches import shared_copy
from ..networks.telling import told_exactly
from ..sampling.network_inputs import NetworkInputs
from ..sampling.tokens import token_places, tokens_of, whole_tokens
from .residuals import Residuals
from .specs import TransformerControlSpec

DEFAULT_GUIDANCE = 3.5  # FLUX.1 dev's, for a network that is told it beside a model that is not


class SD3Controller:
    """diffusers' SD3ControlNetModel."""

    def __init__(self, network: Any, spec: TransformerControlSpec) -> None:
        self._network, self._spec = network, spec

    def embed(self, hint: Tensor) -> tuple[Tensor, ...]:
        return (whole_tokens(hint, PATCH).to(self._network.device, self._network.dtype),)

    def steer(
        self, x: Tensor, timestep: Tensor, inputs: NetworkInputs, embedded: Sequence[Tensor], kinds: Sequence[int]
    ) -> Residuals:
        pooled = _pooled(inputs)
        found: tuple[Sequence[Tensor]] = self._network(
            hidden_states=whole_tokens(x, PATCH).to(self._network.dtype),
            controlnet_cond=embedded[0],
            encoder_hidden_states=inputs.context.to(self._network.dtype),
            pooled_projections=(torch.zeros_like(pooled) if self._spec.plain else pooled).to(self._network.dtype),
            timestep=timestep,
            return_dict=False,
        )
        return Residuals(blocks=tuple(found[0]))


class FluxController:
    """diffusers' FluxControlNetModel."""

    def __init__(self, network: Any, spec: TransformerControlSpec) -> None:
        self._network, self._spec = network, spec
        self._untold = network
        if spec.union is not None:
            self._untold = shared_copy(network)
            self._untold.union = False

    def embed(self, hint: Tensor) -> tuple[Tensor, ...]:
        return (tokens_of(hint, PATCH).values.to(self._network.device, self._network.dtype),)

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


def build_transformer_control(spec: TransformerControlSpec) -> SD3ControlNetModel | FluxControlNetModel:
    """Returns diffusers' ControlNet of this structure, on the meta device."""
    network = spec.network
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers warns of a class that it uses itself
        if isinstance(network, FluxSpec):
            return FluxControlNetModel(num_mode=spec.union, **flux_config(network))
        return SD3ControlNetModel(**mmdit_config(network))


def controller_of(network: Any, spec: TransformerControlSpec) -> SD3Controller | FluxController:
    """Returns a network that is filled, with its face."""
    return (FluxController if isinstance(spec.network, FluxSpec) else SD3Controller)(network, spec)


def _pooled(inputs: NetworkInputs) -> Tensor:
    if inputs.pooled is None:
        raise ValueError("this control network takes a pooled text vector, and the condition has none.")
    return inputs.pooled
