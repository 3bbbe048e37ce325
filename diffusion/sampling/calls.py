"""How each kind of network is called: diffusers' classes as one function of latents, times and inputs.

A transformer that sees tokens is given them here, with their places, and its tokens become a latent again. Every network is
called in its own number format. A latent whose sides are no whole tokens is continued around its edge, as in ComfyUI 0.8.0
(behaviour).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..checkpoints.dit_specs import PATCH
from ..checkpoints.families import NetworkKind
from ..control.residuals import Residuals
from ..networks.sharing import SharedWork
from .network_inputs import NetworkInputs

Network = Callable[[Tensor, Tensor, NetworkInputs], Tensor]
"""(x, timestep, inputs) -> output. x: (B, C, h, w), scaled for the network; timestep: (B,); output like x."""

Steer = Callable[[Tensor, Tensor, NetworkInputs], Residuals | None]
"""(x, timestep, inputs) -> what control networks add inside the network, or None where nothing steers."""

REFERENCE_STEP = 10  # by how much FLUX.2's references are apart in their first place


def call_of(kind: NetworkKind, network: Any) -> Network:
    """Returns diffusers' network of this kind as a `Network`."""
    return _CALLS[kind](network)


def unet_network(
    unet: Any, shared: SharedWork | None = None, steer: Steer = lambda x, timestep, inputs: None
) -> Network:
    """Returns diffusers' UNet2DConditionModel as a `Network`, steered.

    shared: what its passes have in common, of a UNet that `share_work` has changed.
    """

    def predict(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
        convert = Tensor.to if shared is None else shared.converted
        added = classes = None
        if inputs.pooled is not None and inputs.sizes is None:
            classes = convert(inputs.pooled, unet.dtype)
        elif inputs.pooled is not None:
            added = {"text_embeds": convert(inputs.pooled, unet.dtype), "time_ids": inputs.sizes}
        residuals = steer(x, timestep, inputs) or Residuals()
        if shared is not None:
            shared.begin(inputs.repeats)
        output: Tensor = unet(
            _with_extra_channels(x, inputs).to(unet.dtype),
            timestep,
            convert(inputs.context, unet.dtype),
            class_labels=classes,
            added_cond_kwargs=added,
            down_block_additional_residuals=residuals.skips or None,
            mid_block_additional_residual=residuals.middle,
            down_intrablock_additional_residuals=list(residuals.levels) or None,
            return_dict=False,
        )[0]
        return output

    return predict


def plain_unet_network(unet: Any) -> Network:
    """Returns diffusers' UNet2DModel as a `Network`: it is told the time alone."""

    def predict(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
        output: Tensor = unet(_with_extra_channels(x, inputs).to(unet.dtype), timestep, return_dict=False)[0]
        return output

    return predict


def mmdit_network(transformer: Any) -> Network:
    """Returns diffusers' SD3Transformer2DModel as a `Network`."""

    def predict(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
        h, w = x.shape[-2:]
        output: Tensor = transformer(
            hidden_states=_whole_tokens(_with_extra_channels(x, inputs), PATCH).to(transformer.dtype),
            encoder_hidden_states=inputs.context.to(transformer.dtype),
            pooled_projections=_pooled(inputs).to(transformer.dtype),
            timestep=timestep,
            return_dict=False,
        )[0]
        return output[..., :h, :w]

    return predict


def flux_network(transformer: Any) -> Network:
    """Returns diffusers' FluxTransformer2DModel as a `Network`. The time that it is told is the noise level itself.

    A token's place is (what it is part of, row, column): 0 for the picture, 1 for a reference.
    """

    def predict(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
        dtype = transformer.dtype
        picture = _tokens(_with_extra_channels(x, inputs), PATCH)
        references = [_tokens(reference, PATCH) for reference in inputs.references]
        corners = _free_corners(references)
        places = [
            _places(picture),
            *(_places(each, first=1, corner=corner) for each, corner in zip(references, corners, strict=True)),
        ]
        context = inputs.context.to(dtype)
        output: Tensor = transformer(
            hidden_states=torch.cat([part.values for part in (picture, *references)], dim=1).to(dtype),
            encoder_hidden_states=context,
            pooled_projections=_pooled(inputs).to(dtype),
            timestep=timestep,
            img_ids=torch.cat(places).to(x.device),
            txt_ids=torch.zeros(context.shape[1], 3, device=x.device),
            guidance=inputs.guidance,
            return_dict=False,
        )[0]
        return _latent(output, picture, PATCH)[..., : x.shape[-2], : x.shape[-1]]

    return predict


def flux2_network(transformer: Any) -> Network:
    """Returns diffusers' Flux2Transformer2DModel as a `Network`, whose latents are made of whole tokens already.

    A token's place is (what it is part of, row, column, place in the text).
    """

    def predict(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
        dtype = transformer.dtype
        picture, *references = (_tokens(each, 1) for each in (x, *inputs.references))
        firsts = (REFERENCE_STEP * n for n in range(len(references) + 1))
        places = [_places(part, first=first) for part, first in zip((picture, *references), firsts, strict=True)]
        context = inputs.context.to(dtype)
        text_places = torch.zeros(context.shape[1], 4)
        text_places[:, 3] = torch.arange(context.shape[1])
        output: Tensor = transformer(
            hidden_states=torch.cat([part.values for part in (picture, *references)], dim=1).to(dtype),
            encoder_hidden_states=context,
            timestep=timestep,
            img_ids=functional.pad(torch.cat(places), (0, 1)).to(x.device),
            txt_ids=text_places.to(x.device),
            guidance=inputs.guidance,
            return_dict=False,
        )[0]
        return _latent(output, picture, 1)

    return predict


_CALLS: Mapping[NetworkKind, Callable[[Any], Network]] = {
    "unet": unet_network,
    "plain_unet": plain_unet_network,
    "mmdit": mmdit_network,
    "flux": flux_network,
    "flux2": flux2_network,
}


class _Tokens(NamedTuple):
    """A latent as tokens, (B, rows * columns, patch * patch * C): within a token channels are slowest."""

    values: Tensor
    rows: int
    columns: int


def _with_extra_channels(x: Tensor, inputs: NetworkInputs) -> Tensor:
    return x if inputs.concat is None else torch.cat([x, inputs.concat], dim=1)


def _pooled(inputs: NetworkInputs) -> Tensor:
    if inputs.pooled is None:
        raise ValueError("this network takes a pooled text vector, and the condition has none.")
    return inputs.pooled


def _whole_tokens(x: Tensor, patch: int) -> Tensor:
    """Returns x with its sides continued around the edge to multiples of a patch."""
    missing_rows, missing_columns = (-side % patch for side in x.shape[-2:])
    if not (missing_rows or missing_columns):
        return x
    return functional.pad(x, (0, missing_columns, 0, missing_rows), mode="circular")


def _tokens(x: Tensor, patch: int) -> _Tokens:
    x = _whole_tokens(x, patch)
    batch, channels, h, w = x.shape
    rows, columns = h // patch, w // patch
    x = x.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
    return _Tokens(x.reshape(batch, rows * columns, channels * patch**2), rows, columns)


def _latent(values: Tensor, picture: _Tokens, patch: int) -> Tensor:
    """Returns the latent of the picture's tokens, which come first."""
    rows, columns = picture.rows, picture.columns
    x = values[:, : rows * columns]
    batch, channels = len(x), x.shape[-1] // patch**2
    x = x.reshape(batch, rows, columns, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(batch, channels, rows * patch, columns * patch)


def _places(part: _Tokens, *, first: int = 0, corner: tuple[int, int] = (0, 0)) -> Tensor:
    """Returns the places of tokens, float32 (rows * columns, 3): `first`, row and column, counted from a corner."""
    places = torch.full((part.rows, part.columns, 3), float(first))
    places[..., 1] = torch.arange(part.rows)[:, None] + corner[0]
    places[..., 2] = torch.arange(part.columns) + corner[1]
    return places.flatten(0, 1)


def _free_corners(references: Sequence[_Tokens]) -> list[tuple[int, int]]:
    """Returns where each of several references begins: right of or below those before it, whichever grows the whole less."""
    rows = columns = 0
    corners = []
    for part in references:
        corner = (0, columns) if part.rows + rows > part.columns + columns else (rows, 0)
        rows, columns = max(rows, corner[0] + part.rows), max(columns, corner[1] + part.columns)
        corners.append(corner)
    return corners
