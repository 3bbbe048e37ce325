"""IP adapters as `networks.memory` loads them: diffusers' projections of pictures, and a key and a value for each attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from diffusers.models.embeddings import ImageProjection, IPAdapterFullImageProjection, IPAdapterPlusImageProjection
from torch import Tensor, nn

from ..checkpoints.parts import Part
from ..networks.filling import Conversion, fill
from ..networks.precision import NumericPolicy
from ..networks.weight_source import OnePart
from .reading import HEAD_WIDTH, IPAdapterSpec, ip_adapter_origins


class IPAdapterNetwork(nn.Module):
    """An IP adapter's networks, on the meta device until they are filled."""

    def __init__(self, spec: IPAdapterSpec) -> None:
        super().__init__()
        self.image_proj = _projection(spec)
        sizes = [(spec.text_width, width) for width in spec.widths]
        self.to_k, self.to_v = (nn.ModuleList(nn.Linear(*size, bias=False) for size in sizes) for _ in range(2))

    def forward(self, pictures: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Returns the keys and the values, (1, T, C) for each attention, of pictures that are shown together.

        pictures: what the projection reads, (B, P) embeddings or (B, N, D) token states. Their tokens follow each other.
        """
        weight = next(self.parameters())
        tokens = self.image_proj(pictures.to(weight.device, weight.dtype)).flatten(0, 1).unsqueeze(0)
        keys, values = ([project(tokens) for project in projections] for projections in (self.to_k, self.to_v))
        return keys, values


@dataclass(frozen=True, slots=True)
class IPAdapterSource(OnePart):
    """The IP adapter in a part of a file."""

    spec: IPAdapterSpec
    part: Part
    noun: ClassVar[str] = "IP adapter"

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes it takes when loaded."""
        return self.part.bytes(policy.unet.itemsize)

    def load(self, policy: NumericPolicy) -> IPAdapterNetwork:
        """Returns the adapter's networks with these weights."""
        with torch.device("meta"):
            network = IPAdapterNetwork(self.spec)
        fill(network, self.part, partial(ip_adapter_origins, self.spec), Conversion(policy.device, policy.unet))
        return network


def _projection(spec: IPAdapterSpec) -> nn.Module:
    network: nn.Module
    if spec.kind == "embedding":
        network = ImageProjection(spec.picture_width, spec.text_width, spec.tokens)
    elif spec.kind == "hidden":
        network = IPAdapterFullImageProjection(spec.picture_width, spec.text_width)
    else:
        network = IPAdapterPlusImageProjection(
            spec.picture_width, spec.text_width, spec.width, spec.depth, HEAD_WIDTH, spec.heads, spec.tokens
        )
    return network
