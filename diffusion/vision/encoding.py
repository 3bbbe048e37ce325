"""From pictures to the embeddings of a vision tower, which unCLIP, IP-Adapter and Redux condition on.

The towers are transformers' and come from the caller. Preprocessing, and what is read from a tower, are as in ComfyUI 0.8.0
(behaviour).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..families.vision import ClipVisionSpec
from ..names import VisionCrop
from ..types import ClipVision, ClipVisionOutput, Image


@torch.no_grad()
def encode_pictures(vision: ClipVision, image: Image, *, crop: VisionCrop = "center") -> ClipVisionOutput:
    """Returns what a vision tower makes of pictures, float32 on the CPU, one entry a picture.

    Of CLIP, last_hidden is the last block's output and the embedding its class token, normed and projected. Of SigLIP, which
    has neither, both are the last block's output, normed.
    """
    spec = vision.spec
    x = preprocess(image, spec, crop=crop)
    with vision.weights.use() as network:
        parameter = next(network.parameters())
        output = network(x.to(parameter.device, parameter.dtype), output_hidden_states=True)
        last = output.last_hidden_state
        embeds = output.image_embeds if spec.kind == "clip" else last
        states = [tensor.to("cpu", torch.float32) for tensor in (last, output.hidden_states[-2], embeds)]
    return ClipVisionOutput(*states)


def preprocess(image: Image, spec: ClipVisionSpec, *, crop: VisionCrop = "center") -> Tensor:
    """Returns pictures as a tower reads them: float32 (B, 3, side, side), in 256 steps a channel, normalised.

    center: the shorter side becomes `side` and the longer one is cut evenly at both ends; none: both are stretched to it. By
    bicubic interpolation with antialiasing, unless the pictures have the size already.
    """
    x = image.pixels[..., :3].movedim(-1, 1)
    if x.shape[-2:] != (spec.side, spec.side):
        x = _fit(x, spec.side, crop)
    x = (255.0 * x).clamp(0, 255).round() / 255.0
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    return (x - mean) / std


def _fit(x: Tensor, side: int, crop: VisionCrop) -> Tensor:
    if crop == "none":
        return interpolate(x, size=(side, side), mode="bicubic", antialias=True)
    scale = side / min(x.shape[-2:])
    size = (round(scale * x.shape[-2]), round(scale * x.shape[-1]))
    x = interpolate(x, size=size, mode="bicubic", antialias=True)
    top, left = ((length - side) // 2 for length in size)
    return x[..., top : top + side, left : left + side]
