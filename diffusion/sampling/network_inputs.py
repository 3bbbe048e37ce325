"""What a network is fed beside the noisy latent: text, sizes, guidance and extra channels, made from a condition once per run.

Families differ here by their spec alone: a network with a pooled width takes pooled text, one with more input channels than
the latent has what `extra_channels` makes. Knows no areas, no strengths and no steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..families.specs import ModelSpec
from ..latents.batches import fit_batch, to_model_space
from ..types import Condition, Control
from .enlarging import picture_level
from .extra_channels import extra_channels
from .vectors import vector_of

LONGEST_REPETITION = 4  # texts of unlike length share a batch if none has to be repeated more often to be as long


@dataclass(frozen=True, eq=False, slots=True)
class PreparedControl:
    """A control for one run and one size of latent. hint: (B, C, H, W) in 0..1, cut and resized to the latent's picture, or
    that as a latent, scaled.

    sigma_start, sigma_end: it acts at levels from start down to end, both included.
    """

    control: Control
    hint: Tensor
    sigma_start: float
    sigma_end: float


class ActiveControl(NamedTuple):
    """A control that acts in a pass: on all items alike, or as strongly as `holds`, (B, 1, 1, 1) of 1 and 0, says."""

    control: PreparedControl
    holds: Tensor | float


@dataclass(frozen=True, eq=False, slots=True)
class NetworkInputs:
    """The network's arguments for one condition, or for a batch of them.

    context: (B, T, D), the text's token states. pooled: (B, P), what text says in sum or pictures show, and sizes: (B, n),
    for networks with vector conditioning. concat: (B, k, h, w), channels that follow those of the latent. guidance: (B,),
    how strongly a network that was distilled to be told follows the prompt. references: latents of pictures to go by, (B,
    C, h', w') in the network's units, of any size. B is 1 where all items share. repeats: how often the same latents, with
    the same further channels, follow each other in the batch, each time with other text. stretches: a text that is repeated
    says the same, so that texts of unlike length may share a batch; where text and picture attend to each other it does
    not. controls: what steers the network now. noise_level: (B,), how noisy the picture is that it enlarges.
    """

    context: Tensor
    pooled: Tensor | None = None
    sizes: Tensor | None = None
    concat: Tensor | None = None
    guidance: Tensor | None = None
    references: tuple[Tensor, ...] = ()
    repeats: int = 1
    stretches: bool = True
    controls: tuple[ActiveControl, ...] = ()
    noise_level: Tensor | None = None

    def joins(self, other: NetworkInputs) -> bool:
        """Returns whether the two may go through the network in one batch."""
        a, b = self.context.shape[1], other.context.shape[1]
        if [each.shape[1:] for each in self.references] != [each.shape[1:] for each in other.references]:
            return False
        return a == b or (self.stretches and math.lcm(a, b) // min(a, b) <= LONGEST_REPETITION)


def join_inputs(inputs: Sequence[NetworkInputs], items: int, *, one_window: bool = True) -> NetworkInputs:
    """Returns the inputs for one batch: each for `items` latents, one after the other.

    one_window: all are for the same part of the latents.
    """
    length = math.lcm(*(entry.context.shape[1] for entry in inputs))
    first = inputs[0].concat
    alike = first is None or all(each.concat is not None and torch.equal(each.concat, first) for each in inputs)
    return NetworkInputs(
        context=_join([entry.context.repeat(1, length // entry.context.shape[1], 1) for entry in inputs], items),
        pooled=_join([entry.pooled for entry in inputs], items),
        sizes=_join([entry.sizes for entry in inputs], items),
        concat=_join([entry.concat for entry in inputs], items),
        guidance=_join([entry.guidance for entry in inputs], items),
        references=tuple(_join(same, items) for same in zip(*(entry.references for entry in inputs), strict=True)),
        repeats=len(inputs) if alike and one_window else 1,
        stretches=inputs[0].stretches,
        noise_level=_join([entry.noise_level for entry in inputs], items),
    )


def _join(tensors: Sequence[Tensor | None], items: int) -> Any:
    """The tensors, each for `items` latents, one after the other; None if the network takes none."""
    present = [tensor.expand(items, *tensor.shape[1:]) for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None


def network_inputs(
    condition: Condition,
    *,
    spec: ModelSpec,
    latent: Tensor,
    noise_mask: Tensor | None = None,
    negative: bool = False,
    seed: int = 0,
) -> NetworkInputs:
    """Returns what the network of `spec` is fed for a condition, on the latent's device.

    latent: (B, C, h, w), the start of the run in scaled-latent units. noise_mask: (B, C, h, w) or None. negative: whether it
    says what to avoid. seed: of the run. Raises ValueError where the condition is not one for this network.
    """
    _check_context(condition, spec)
    network, device = spec.network, latent.device
    pooled, sizes = vector_of(condition, spec=spec, latent=latent, negative=negative, seed=seed)
    return NetworkInputs(
        context=condition.embedding.to(device),
        pooled=pooled,
        sizes=sizes,
        concat=extra_channels(condition, spec=spec, latent=latent, noise_mask=noise_mask, seed=seed)
        if spec.takes_extra
        else None,
        guidance=torch.tensor([condition.guidance], device=device) if network.guidance else None,
        references=_references(condition, spec, latent) if network.references else (),
        stretches=network.kind == "unet",
        noise_level=torch.tensor([picture_level(condition)], device=device) if spec.knows_noise else None,
    )


def _references(condition: Condition, spec: ModelSpec, latent: Tensor) -> tuple[Tensor, ...]:
    found = []
    for reference in condition.references:
        if reference.shape[1] != spec.latent.channels:
            raise ValueError(
                f"the condition carries a reference of {reference.shape[1]} channels, but a {spec.family} network has latents "
                f"of {spec.latent.channels}; encode it with the VAE of the model that samples."
            )
        x = to_model_space(reference.to(latent), spec.latent)
        found.append(x if len(x) == 1 else fit_batch(x, len(latent)))
    return tuple(found)


def _check_context(condition: Condition, spec: ModelSpec) -> None:
    width = condition.embedding.shape[-1]
    if width != spec.context_width:
        raise ValueError(
            f"the condition's text is {width} wide, but a {spec.family} network attends to {spec.context_width}; "
            "encode the prompt with the text encoder of the same model family."
        )
