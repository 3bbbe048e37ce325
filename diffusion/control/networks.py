"""Control networks as they are asked at each step: diffusers' ControlNets and T2I adapters behind one face.

What a network makes of the picture alone is worked out once a run (`embed`), and what depends on the noisy latent at each
step (`steer`). Nothing here knows strengths, ranges or conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from diffusers import ControlNetModel, ControlNetUnionModel, T2IAdapter
from torch import Tensor, nn

from ..layouts.structure import StructureError
from ..networks.building import GROUPS
from ..networks.patches import shared_copy
from ..sampling.network_inputs import NetworkInputs
from .residuals import Residuals
from .unet_specs import ControlNetSpec, T2IAdapterSpec

UNION_HEADS = 8  # of the attention that joins a union network's pictures


class Controller(Protocol):
    """A control network in memory."""

    def embed(self, hint: Tensor) -> tuple[Tensor, ...]:
        """Returns what the network makes of the pictures, (B, C, H, W) in 0..1, whatever the step: (B, ...) each."""

    def steer(
        self, x: Tensor, timestep: Tensor, inputs: NetworkInputs, embedded: Sequence[Tensor], kinds: Sequence[int]
    ) -> Residuals:
        """Returns what is added inside the denoising network.

        x: (B, C, h, w), scaled for the network; timestep: (B,); embedded: of B items each; kinds: what the picture
        shows, for union networks, where none means that they are not told.
        """


class ControlNetController:
    """diffusers' ControlNetModel. Its first convolutions, which see the picture alone, are apart."""

    def __init__(self, network: Any, *, pooled: bool) -> None:
        """network: is changed."""
        self._network, self._pooled = network, pooled
        self._embed = network.controlnet_cond_embedding
        network.controlnet_cond_embedding = nn.Identity()

    def embed(self, hint: Tensor) -> tuple[Tensor, ...]:
        return (self._embed(hint.to(self._network.device, self._network.dtype)),)

    def steer(
        self, x: Tensor, timestep: Tensor, inputs: NetworkInputs, embedded: Sequence[Tensor], kinds: Sequence[int]
    ) -> Residuals:
        skips, middle = self._run(x, timestep, inputs, embedded[0], kinds)
        residuals = Residuals(skips=tuple(skips), middle=(middle,))
        return residuals.map(lambda h: h.mean(dim=(2, 3), keepdim=True)) if self._pooled else residuals

    def _run(
        self, x: Tensor, timestep: Tensor, inputs: NetworkInputs, embedded: Tensor, kinds: Sequence[int]
    ) -> tuple[Sequence[Tensor], Tensor]:
        found: tuple[Sequence[Tensor], Tensor] = self._network(
            x.to(self._network.dtype), timestep, controlnet_cond=embedded, return_dict=False, **self._told(inputs)
        )
        return found

    def _told(self, inputs: NetworkInputs) -> dict[str, Any]:
        dtype = self._network.dtype
        added = None
        if self._network.config.addition_embed_type is not None and inputs.pooled is not None:
            added = {"text_embeds": inputs.pooled.to(dtype), "time_ids": inputs.sizes}
        return {"encoder_hidden_states": inputs.context.to(dtype), "added_cond_kwargs": added}


class UnionController(ControlNetController):
    """diffusers' ControlNetUnionModel, which is told what its picture shows."""

    def __init__(self, network: Any, *, pooled: bool) -> None:
        super().__init__(network, pooled=pooled)
        network.transformer_layes = nn.ModuleList(map(_Apart, network.transformer_layes))
        self._untold = shared_copy(network)  # what it was trained to add for a kind of picture, it leaves out
        self._untold.spatial_ch_projs = _Zero()

    def _run(
        self, x: Tensor, timestep: Tensor, inputs: NetworkInputs, embedded: Tensor, kinds: Sequence[int]
    ) -> tuple[Sequence[Tensor], Tensor]:
        network = self._network if kinds else self._untold
        told = torch.zeros(len(x), network.config.num_control_type, device=x.device)
        told[:, list(kinds)] = 1.0
        found: tuple[Sequence[Tensor], Tensor] = network(
            x.to(network.dtype),
            timestep,
            controlnet_cond=[embedded],
            control_type=told,
            control_type_idx=list(kinds) or [0],
            return_dict=False,
            **self._told(inputs),
        )
        return found


class T2IAdapterController:
    """diffusers' T2IAdapter, which sees the picture alone."""

    def __init__(self, network: T2IAdapter) -> None:
        self._network = network

    def embed(self, hint: Tensor) -> tuple[Tensor, ...]:
        features: list[Tensor] = self._network(hint.to(self._network.device, self._network.dtype))
        return tuple(features)

    def steer(
        self, x: Tensor, timestep: Tensor, inputs: NetworkInputs, embedded: Sequence[Tensor], kinds: Sequence[int]
    ) -> Residuals:
        return Residuals(levels=tuple(embedded))


class _Apart(nn.Module):
    """A layer of what joins a union network's pictures, of which each item has one, and attends to it alone.

    As the network was published, and in diffusers, the items of a batch attend to each other instead. For items that share
    their picture, as prompt and negative prompt do, that is the same; others would change with what they share a batch with.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x.reshape(1, -1, x.shape[-1]))
        return found.reshape(x.shape)


class _Zero(nn.Module):
    """Nothing, of the shape of what it is asked about."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def build_control_net(spec: ControlNetSpec) -> ControlNetModel | ControlNetUnionModel:
    """Returns diffusers' ControlNet of this structure, on the meta device. Raises StructureError if it can't express it."""
    encoder = spec.encoder
    depths = [each or (0,) for each in encoder.depths_in]
    uneven = any(len(set(level)) > 1 for level in depths) or len(set(encoder.res_blocks)) > 1
    if uneven or any(width % GROUPS for width in encoder.widths):
        raise StructureError(f"levels of {encoder.widths} channels with {encoder.depths_in} transformer blocks")
    # Where the innermost level does not attend, its depth is free and serves the middle, which has the last one.
    layers = [level[0] for level in depths[:-1]] + [depths[-1][0] or encoder.depth_middle or 1]
    if encoder.depth_middle and layers[-1] != encoder.depth_middle:
        raise StructureError(f"depth {encoder.depth_middle} in the middle, but {layers[-1]} at the innermost level")
    options: dict[str, Any] = {
        "in_channels": encoder.in_channels,
        "conditioning_channels": spec.picture_channels,
        "down_block_types": ["CrossAttnDownBlock2D" if level[0] else "DownBlock2D" for level in depths],
        "block_out_channels": encoder.widths,
        "layers_per_block": encoder.res_blocks[0],
        "cross_attention_dim": encoder.context_width or None,
        "transformer_layers_per_block": [max(1, depth) for depth in layers],
        "attention_head_dim": encoder.heads,  # diffusers' old name for the number of heads
        "use_linear_projection": encoder.linear_projection,
        "addition_embed_type": "text_time" if encoder.vector_width else None,
        "addition_time_embed_dim": encoder.size_width if encoder.vector_width else None,
        "projection_class_embeddings_input_dim": encoder.vector_width,
        "conditioning_embedding_out_channels": spec.hint_widths,
        "norm_num_groups": GROUPS,
    }
    with torch.device("meta"):
        if spec.union is None:
            middle = "UNetMidBlock2DCrossAttn" if encoder.depth_middle else "UNetMidBlock2D"
            return ControlNetModel(**options, mid_block_type=middle)
        return ControlNetUnionModel(
            **{**options, "addition_time_embed_dim": encoder.size_width},
            num_control_type=spec.union.kinds,
            num_trans_channel=spec.union.width,
            num_trans_head=UNION_HEADS,
            num_trans_layer=spec.union.layers,
            num_proj_channel=encoder.widths[0],
        )


def build_t2i_adapter(spec: T2IAdapterSpec) -> T2IAdapter:
    """Returns diffusers' T2I adapter of this structure, on the meta device."""
    with torch.device("meta"):
        return T2IAdapter(spec.picture_channels, list(spec.widths), spec.res_blocks, spec.downscale, spec.kind)
