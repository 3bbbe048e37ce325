"""From a picture of classes to the condition of a network that paints by them.

Semantic synthesis of Rombach et al. 2022, arXiv:2112.10752, section 4.3.2.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from ..families.text_specs import SegmentSpec
from ..types import Clip, Condition, Conditioning, Image

HALVINGS = 2  # LDM's SpatialRescaler, n_stages: from pixels to cells of 4
LEVELS = 255  # of an 8-bit picture, whose grey levels are the numbers of classes


def segment_spec(clip: Clip) -> SegmentSpec:
    """Returns what is known of a network's classes. Raises ValueError for what is told something else."""
    (spec, *_) = clip.spec.encoders
    if not isinstance(spec, SegmentSpec):
        raise ValueError(f"{clip.weights.source.title} is not shown classes by a picture; use TextEncode.")
    return spec


@torch.no_grad()
def encode_segments(clip: Clip, image: Image) -> Conditioning:
    """Returns a picture's classes as a condition: of each pixel, its grey level is the number of its class.

    Raises ValueError for a picture in colour, and for a number that is none of the classes.
    """
    spec = segment_spec(clip)
    pixels = image.pixels[..., :3]
    if not torch.equal(pixels, pixels[..., :1].expand_as(pixels)):
        raise ValueError(
            "the picture is in colour; give a grey one, whose levels (0 to 255) are the numbers of classes."
        )
    numbers = (pixels[..., 0] * LEVELS).round().long()
    if (found := int(numbers.max())) >= spec.vocab:
        raise ValueError(f"the picture has the class {found}; the network knows 0 to {spec.vocab - 1}.")
    with clip.weights.use() as models:
        mapper = models[spec.key]["channel_mapper"]
        table = mapper.weight[:, :, 0, 0].T.to("cpu", torch.float32)  # (classes, channels)
    shown = table[numbers].movedim(-1, 1)
    for _ in range(HALVINGS):  # averages commute with the map, and are of few channels behind it
        shown = functional.interpolate(shown, scale_factor=0.5, mode="bilinear")
    return Conditioning((Condition(torch.zeros(1, 1, spec.width), segments=shown),))
