"""How each kind of network is called: diffusers' classes as one function of latents, times and inputs.

A transformer that sees tokens is given them here, with their places, and its tokens become a latent again. Every network is
called in its own number format. A latent whose sides are no whole tokens is continued around its edge, as in ComfyUI 0.8.0
(behaviour).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..control.residuals import Residuals
from ..families.dit_specs import PATCH
from ..families.specs import NetworkKind
from ..networks.sharing import SharedWork
from ..networks.telling import told_exactly
from .network_inputs import NetworkInputs
from .tokens import free_corners, latent_of, token_places, tokens_of, whole_tokens

Network = Callable[[Tensor, Tensor, NetworkInputs], Tensor]
"""(x, timestep, inputs) -> output. x: (B, C, h, w), scaled for the network; timestep: (B,); output like x."""

Steer = Callable[[Tensor, Tensor, NetworkInputs], Residuals | None]
"""(x, timestep, inputs) -> what control networks add inside the network, or None where nothing steers."""

REFERENCE_STEP = 10  # by how much FLUX.2's references are apart in their first place


def unsteered(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> None:
    """A `Steer` that adds nothing."""


def call_of(kind: NetworkKind, network: Any, steer: Steer = unsteered) -> Network:
    """Returns diffusers' network of this kind as a `Network`, steered."""
    return _CALLS[kind](network, steer)


def unet_network(unet: Any, shared: SharedWork | None = None, steer: Steer = unsteered) -> Network:
    """Returns diffusers' UNet2DConditionModel as a `Network`, steered.

    shared: what its passes have in common, of a UNet that `share_work` has changed.
    """

    def predict(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
        convert = Tensor.to if shared is None else shared.converted
        added, classes = None, inputs.noise_level
        if inputs.pooled is not None and inputs.sizes is None:
            classes = convert(inputs.pooled, unet.dtype)
        elif inputs.pooled is not None:
            added = {"text_embeds": convert(inputs.pooled, unet.dtype), "time_ids": inputs.sizes}
        residuals = _residuals(steer, x, timestep, inputs, unet.dtype)
        if shared is not None:
            shared.begin(inputs.repeats)
        output: Tensor = unet(
            _with_extra_channels(x, inputs).to(unet.dtype),
            timestep,
            convert(inputs.context, unet.dtype),
            class_labels=classes,
            added_cond_kwargs=added,
            down_block_additional_residuals=residuals.skips or None,
            mid_block_additional_residual=residuals.middle[0] if residuals.middle else None,
            down_intrablock_additional_residuals=list(residuals.levels) or None,
            return_dict=False,
        )[0]
        return output

    return predict


def plain_unet_network(unet: Any, steer: Steer) -> Network:
    """Returns diffusers' UNet2DModel as a `Network`: it is told the time alone."""

    def predict(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
        output: Tensor = unet(_with_extra_channels(x, inputs).to(unet.dtype), timestep, return_dict=False)[0]
        return output

    return predict


def mmdit_network(transformer: Any, steer: Steer) -> Network:
    """Returns diffusers' SD3Transformer2DModel as a `Network`, steered."""

    def predict(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
        h, w = x.shape[-2:]
        residuals = _residuals(steer, x, timestep, inputs, transformer.dtype)
        with _added_to_input(transformer.norm_out, residuals.end):
            output: Tensor = transformer(
                hidden_states=whole_tokens(_with_extra_channels(x, inputs), PATCH).to(transformer.dtype),
                encoder_hidden_states=inputs.context.to(transformer.dtype),
                pooled_projections=_pooled(inputs).to(transformer.dtype),
                timestep=timestep,
                block_controlnet_hidden_states=list(residuals.blocks) or None,
                return_dict=False,
            )[0]
        return output[..., :h, :w]

    return predict


def flux_network(transformer: Any, steer: Steer) -> Network:
    """Returns diffusers' FluxTransformer2DModel as a `Network`, steered. The time that it is told is the noise level itself.

    A token's place is (what it is part of, row, column): 0 for the picture, 1 for a reference.
    """

    def predict(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
        dtype = transformer.dtype
        picture = tokens_of(_with_extra_channels(x, inputs), PATCH)
        references = [tokens_of(reference, PATCH) for reference in inputs.references]
        corners = free_corners(references)
        places = [
            token_places(picture),
            *(token_places(each, first=1, corner=corner) for each, corner in zip(references, corners, strict=True)),
        ]
        context = inputs.context.to(dtype)
        unsteered_tokens = sum(part.values.shape[1] for part in references)
        residuals = _residuals(steer, x, timestep, inputs, dtype)
        residuals = residuals.map(lambda tokens: functional.pad(tokens, (0, 0, 0, unsteered_tokens)))
        with told_exactly(transformer.time_text_embed, timestep, inputs.guidance):
            output: Tensor = transformer(
                hidden_states=torch.cat([part.values for part in (picture, *references)], dim=1).to(dtype),
                encoder_hidden_states=context,
                pooled_projections=_pooled(inputs).to(dtype),
                timestep=timestep,
                img_ids=torch.cat(places).to(x.device),
                txt_ids=torch.zeros(context.shape[1], 3, device=x.device),
                guidance=inputs.guidance,
                controlnet_block_samples=list(residuals.blocks) or None,
                controlnet_single_block_samples=list(residuals.single_blocks) or None,
                return_dict=False,
            )[0]
        return latent_of(output, picture, PATCH)[..., : x.shape[-2], : x.shape[-1]]

    return predict


def flux2_network(transformer: Any, steer: Steer) -> Network:
    """Returns diffusers' Flux2Transformer2DModel as a `Network`, whose latents are made of whole tokens already.

    A token's place is (what it is part of, row, column, place in the text).
    """

    def predict(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
        dtype = transformer.dtype
        picture, *references = (tokens_of(each, 1) for each in (x, *inputs.references))
        firsts = (REFERENCE_STEP * n for n in range(len(references) + 1))
        places = [token_places(part, first=first) for part, first in zip((picture, *references), firsts, strict=True)]
        context = inputs.context.to(dtype)
        text_places = torch.zeros(context.shape[1], 4)
        text_places[:, 3] = torch.arange(context.shape[1])
        with told_exactly(transformer.time_guidance_embed, timestep, inputs.guidance):
            output: Tensor = transformer(
                hidden_states=torch.cat([part.values for part in (picture, *references)], dim=1).to(dtype),
                encoder_hidden_states=context,
                timestep=timestep,
                img_ids=functional.pad(torch.cat(places), (0, 1)).to(x.device),
                txt_ids=text_places.to(x.device),
                guidance=inputs.guidance,
                return_dict=False,
            )[0]
        return latent_of(output, picture, 1)

    return predict


_CALLS: Mapping[NetworkKind, Callable[[Any, Steer], Network]] = {
    "unet": lambda unet, steer: unet_network(unet, steer=steer),
    "plain_unet": plain_unet_network,
    "mmdit": mmdit_network,
    "flux": flux_network,
    "flux2": flux2_network,
}


@contextmanager
def _added_to_input(module: Any, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Within, tensors are added to what this thread gives a module first."""
    thread = get_ident()

    def add(module: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return (sum(tensors, start=given[0]), *given[1:]) if get_ident() == thread else None

    if not tensors:
        yield
        return
    hook = module.register_forward_pre_hook(add)
    try:
        yield
    finally:
        hook.remove()


def _residuals(steer: Steer, x: Tensor, timestep: Tensor, inputs: NetworkInputs, dtype: torch.dtype) -> Residuals:
    """Returns what is added inside a network of this number format."""
    return (steer(x, timestep, inputs) or Residuals()).map(lambda residual: residual.to(dtype))


def _with_extra_channels(x: Tensor, inputs: NetworkInputs) -> Tensor:
    return x if inputs.concat is None else torch.cat([x, inputs.concat], dim=1)


def _pooled(inputs: NetworkInputs) -> Tensor:
    if inputs.pooled is None:
        raise ValueError("this network takes a pooled text vector, and the condition has none.")
    return inputs.pooled
