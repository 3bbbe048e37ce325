"""The structure of CLIP's and SigLIP's vision towers, and what their shapes do not tell. Data, without torch.

Sources: Radford et al. 2021, arXiv:2103.00020 (CLIP); Cherti et al. 2022, arXiv:2212.07143 (OpenCLIP's ViT-H and ViT-bigG);
Zhai et al. 2023, arXiv:2303.15343 (SigLIP).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VisionKind = Literal["clip", "siglip"]
Triple = tuple[float, float, float]

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")


@dataclass(frozen=True, slots=True)
class ClipVisionSpec:
    """A vision transformer over a square grid of patches. CLIP's has a class token and a projection, SigLIP's has neither.

    patch: the side of a patch in pixels; grid: patches along a side; side: of the pictures, in pixels. projection_width: of the
    image embedding. mean, std: of the pixels, by channel. pooling_head: whether the file has SigLIP's attention pooling, which
    nothing here reads.
    """

    kind: VisionKind
    width: int
    layers: int
    heads: int
    intermediate: int
    patch: int
    grid: int
    side: int
    activation: str
    projection_width: int | None
    mean: Triple
    std: Triple
    pooling_head: bool = False

    @property
    def embedding_width(self) -> int:
        """Width of the image embedding: of the projection, or of the tokens where there is none."""
        return self.projection_width or self.width

    @property
    def tokens(self) -> int:
        """How many token states there are for a picture."""
        return self.grid**2 + (1 if self.kind == "clip" else 0)


HEAD_WIDTH = 64
SIDES = {(14, 27): 384}  # by patch and grid: SigLIP so400m, whose patches leave 6 pixels over
OPENAI_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures
OPENAI_STD: Triple = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class VisionTower:
    """What shapes do not tell of a tower, by its kind and its number of layers. heads: None for heads of 64."""

    kind: VisionKind
    least_layers: int
    heads: int | None
    activation: str
    mean: Triple = OPENAI_MEAN
    std: Triple = OPENAI_STD


TOWERS = (
    VisionTower("clip", least_layers=32, heads=16, activation="gelu"),  # OpenCLIP's ViT-H (32) and ViT-bigG (48)
    VisionTower("clip", least_layers=0, heads=None, activation="quick_gelu"),  # OpenAI's ViT-B and ViT-L
    VisionTower(
        "siglip", least_layers=27, heads=16, activation="gelu_pytorch_tanh", mean=(0.5,) * 3, std=(0.5,) * 3
    ),  # so400m: 1152 in 16 heads
    VisionTower("siglip", least_layers=0, heads=None, activation="gelu_pytorch_tanh", mean=(0.5,) * 3, std=(0.5,) * 3),
)
