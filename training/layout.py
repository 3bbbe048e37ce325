"""Where the networks' tensors lie in a file of SD1's single-file layout, by the maps that checkpoints are written with."""

from __future__ import annotations

from dataclasses import replace

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from latentgraph.diffusion.checkpoints.export import NETWORK_PREFIX
from latentgraph.diffusion.families.catalogue import FAMILIES
from latentgraph.diffusion.layouts.autoencoder_keys import vae_destinations
from latentgraph.diffusion.layouts.autoencoder_structure import read_vae
from latentgraph.diffusion.layouts.keymaps import Destination, unet_destinations
from latentgraph.diffusion.layouts.structure import read_unet

SD1 = next(family for family in FAMILIES if family.name == "sd1")

Places = dict[str, Destination]
"""By the name of a network's tensor: its key in the file, and whether it is a 1x1 convolution there."""


def with_places(
    unet: UNet2DConditionModel, autoencoder: AutoencoderKL, text: CLIPTextModel
) -> list[tuple[nn.Module, Places]]:
    """Returns the networks of a model, each with where its tensors lie."""
    return [(unet, _unet_places(unet)), (autoencoder, _autoencoder_places(autoencoder)), (text, _text_places(text))]


def _unet_places(unet: UNet2DConditionModel) -> Places:
    """Returns where the tensors of diffusers' UNet lie."""
    shapes = _shapes(unet)
    return _below(NETWORK_PREFIX, unet_destinations(read_unet(shapes), shapes))


def _autoencoder_places(autoencoder: AutoencoderKL) -> Places:
    """Returns where the tensors of diffusers' autoencoder lie."""
    shapes = _shapes(autoencoder)
    return _below(SD1.vae_prefix, vae_destinations(read_vae(shapes), shapes))


def _text_places(text: CLIPTextModel) -> Places:
    """Returns where the tensors of transformers' CLIP lie, whose names may lack the "text_model." of the file."""
    (encoder,) = SD1.text.encoders
    names = [name for name in _shapes(text) if not name.endswith("position_ids")]
    places = [Destination("text_model." + name.removeprefix("text_model."), (name,)) for name in names]
    return _below(encoder.prefixes[0], places)


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _below(prefix: str, places: list[Destination]) -> Places:
    return {place.names[0]: replace(place, key=prefix + place.key) for place in places}
