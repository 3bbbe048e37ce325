"""CLIP's and SigLIP's vision towers: the structure of one, told from names and shapes, and where its tensors are in a file.

The layouts are transformers' and OpenCLIP's. This module loads no torch.
Sources: Radford et al. 2021, arXiv:2103.00020 (CLIP); Cherti et al. 2022, arXiv:2212.07143 (OpenCLIP's ViT-H and ViT-bigG);
Zhai et al. 2023, arXiv:2303.15343 (SigLIP).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile
from math import isqrt
from pathlib import Path
from typing import Any, Literal, NoReturn

from ..layouts.keymaps import Origin, Origins, check_origins, is_ignored, open_clip_block_origin
from ..layouts.structure import Shapes, StructureError, shape_of
from .folders import INDEX, read_component, read_folder
from .headers import Header, HeaderError, read_header
from .parts import Part, find_part, find_shapes
from .recognise import network_prefix
from .refusals import refuse_strangers
from .remembering import remembered
from .strangers import IMPOSTORS, PARTS, VISION, without_cures

VisionKind = Literal["clip", "siglip"]
Triple = tuple[float, float, float]

PREFIXES = ("", "visual.", "embedder.model.visual.")  # the last one is SD 2.1 unCLIP's
FOLDER = "image_encoder"  # of a diffusers folder


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


@dataclass(frozen=True, slots=True)
class VisionDescription:
    """What a vision tower is, and where its tensors are."""

    path: Path
    spec: ClipVisionSpec
    part: Part


@remembered
def describe_vision(path: Path | str) -> VisionDescription:
    """Returns what a vision tower is: a file of one or of a whole CLIP model, an unCLIP checkpoint's, or a folder's.

    Raises HeaderError.
    """
    path = Path(path)
    headers, config = _located(path)
    prefix = vision_prefix(key for header in headers for key in header.tensors)
    if prefix is None:
        _refuse(path, headers)
    return describe_vision_part(path, headers, prefix, config)


def describe_vision_part(
    path: Path, headers: Sequence[Header], prefix: str, config: Mapping[str, Any] | None = None
) -> VisionDescription:
    """Returns what the vision tower below a prefix is. config: transformers', where a folder has one. Raises HeaderError."""
    shapes = {key: shape for key, shape in find_shapes(headers, prefix).items() if not _is_beside(key)}
    try:
        spec = _configured(read_vision(shapes), config or {})
    except StructureError as error:
        found = f"a vision model that can't be built: {error}"
        raise HeaderError(path, found, expected="a whole network", cure="Get it again.") from None
    values = sum(
        info.numel for header in headers for key, info in header.tensors.items() if key[len(prefix) :] in shapes
    )
    return VisionDescription(path, spec, replace(find_part(headers, prefix), values=values))


def vision_prefix(keys: Iterable[str]) -> str | None:
    """Returns the prefix below which a file keeps a vision tower, or None if it has none."""
    present = set(keys)
    return next((prefix for prefix in PREFIXES for names in _LAYOUTS if prefix + names.patches in present), None)


def read_vision(shapes: Shapes) -> ClipVisionSpec:
    """Returns the structure of a vision tower; shapes are keys without prefix. Raises StructureError."""
    names = next((names for names in _LAYOUTS if names.patches in shapes), None)
    if names is None:
        raise StructureError("it has no embedding of patches")
    width, _, patch, _ = shape_of(shapes, names.patches, 4)
    layers = sum(1 for _ in takewhile(shapes.__contains__, map(names.fc1.format, count())))
    if not layers:
        raise StructureError("it has no layers")
    positions = shape_of(shapes, names.positions, 2)[0]
    kind: VisionKind = "clip" if names.class_token in shapes else "siglip"
    grid = isqrt(positions - (1 if kind == "clip" else 0))
    if grid**2 + (1 if kind == "clip" else 0) != positions:
        raise StructureError(f"{positions} positions are no square grid of patches")
    projection = None if kind == "siglip" else shape_of(shapes, names.projection, 2)[1 if names.turned else 0]
    tower = next(tower for tower in TOWERS if tower.kind == kind and layers >= tower.least_layers)
    return ClipVisionSpec(
        kind=kind,
        width=width,
        layers=layers,
        heads=tower.heads or max(1, width // HEAD_WIDTH),
        intermediate=shape_of(shapes, names.fc1.format(0), 2)[0],
        patch=patch,
        grid=grid,
        side=SIDES.get((patch, grid), patch * grid),
        activation=tower.activation,
        projection_width=projection,
        mean=tower.mean,
        std=tower.std,
        pooling_head=any(key.startswith(names.head) for key in shapes),
    )


def vision_origins(wanted: Iterable[str], present: Collection[str]) -> Origins:
    """Returns the origin of each tensor of transformers' CLIPVisionModelWithProjection or SiglipVisionModel.

    The text half of a whole CLIP model is not looked at. Raises KeyMapError.
    """
    own = {key for key in present if not _is_beside(key)}
    bare = {key: key.removeprefix("vision_model.") for key in wanted}
    if "conv1.weight" in own:
        return check_origins({key: _open_clip_origin(name) for key, name in bare.items()}, own)
    prefix = "vision_model." if any(key.startswith("vision_model.") for key in own) else ""
    origins = {key: Origin(name if name == _PROJECTION else prefix + name) for key, name in bare.items()}
    return check_origins(origins, own)


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


@dataclass(frozen=True, slots=True)
class _Names:
    """A layout's names; `fc1` has a place for the layer. turned: its projection is (in, out)."""

    class_token: str
    patches: str
    positions: str
    fc1: str
    projection: str
    head: str
    turned: bool = False


_PROJECTION = "visual_projection.weight"


def _transformers_names(prefix: str) -> _Names:
    return _Names(
        class_token=f"{prefix}embeddings.class_embedding",
        patches=f"{prefix}embeddings.patch_embedding.weight",
        positions=f"{prefix}embeddings.position_embedding.weight",
        fc1=prefix + "encoder.layers.{}.mlp.fc1.weight",
        projection=_PROJECTION,
        head=f"{prefix}head.",
    )


_LAYOUTS = (
    _transformers_names("vision_model."),
    _Names(
        class_token="class_embedding",
        patches="conv1.weight",
        positions="positional_embedding",
        fc1="transformer.resblocks.{}.mlp.c_fc.weight",
        projection="proj",
        head="attn_pool.",
        turned=True,
    ),
    _transformers_names(""),
)
_OPEN_CLIP = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",  # transformers' own spelling
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
_BESIDE = ("text_model.", "text_projection", "logit_")  # of a whole CLIP model in transformers' layout


def _is_beside(key: str) -> bool:
    return key.startswith(_BESIDE) or is_ignored(key)


def _open_clip_origin(name: str) -> Origin:
    if name == _PROJECTION:
        return Origin("proj", transposed=True)
    return Origin(_OPEN_CLIP[name]) if name in _OPEN_CLIP else open_clip_block_origin(name)


def _located(path: Path) -> tuple[Sequence[Header], Mapping[str, Any]]:
    if path.is_file():
        return [read_header(path)], {}
    if not (path / INDEX).is_file():
        component = read_component(path)
        return component.headers, component.config
    found = read_folder(path).components.get(FOLDER)
    if found is None:
        raise HeaderError(path, f"a folder without {FOLDER}/", expected="a vision model", cure="Name a file of one.")
    return found.headers, found.config


def _refuse(path: Path, headers: Sequence[Header]) -> NoReturn:
    cure = "Name a CLIP vision or SigLIP model, such as clip_vision_h.safetensors."
    keys = [key for header in headers for key in header.tensors]
    if network_prefix(keys) is None:
        kinds = without_cures(kind for kind in (*IMPOSTORS, *PARTS) if kind is not VISION)
        refuse_strangers(path, headers, kinds, expected="a CLIP vision model", cure=cure)
    raise HeaderError(path, "no vision model in it", expected="keys such as vision_model.*", cure=cure)


def _configured(spec: ClipVisionSpec, config: Mapping[str, Any]) -> ClipVisionSpec:
    """Returns the structure with what transformers' config adds to the shapes."""
    config = config.get("vision_config", config)
    heads = config.get("num_attention_heads", spec.heads)
    activation = config.get("hidden_act", spec.activation)
    if not isinstance(heads, int) or heads < 1 or spec.width % heads:
        raise StructureError(f"it has {heads!r} attention heads for a width of {spec.width}")
    side = config.get("image_size", spec.side)
    if not isinstance(side, int) or side // spec.patch != spec.grid:
        raise StructureError(
            f"it reads pictures of {side!r} pixels, but has {spec.grid} patches of {spec.patch} a side"
        )
    if activation not in ACTIVATIONS:
        raise StructureError(f"it has the activation {activation!r}, none of {', '.join(ACTIVATIONS)}")
    return replace(spec, heads=heads, activation=activation, side=side)


ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")
