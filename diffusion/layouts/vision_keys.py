"""How the tensors of vision towers are named in transformers' layout and in OpenCLIP's; strict, as in `keymaps`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .keymaps import Origin, Origins, check_origins, is_ignored, open_clip_block_origin

_PROJECTION = "visual_projection.weight"


@dataclass(frozen=True, slots=True)
class VisionNames:
    """The names by which a layout shows a structure; `fc1` has a place for the layer. turned: its projection is (in, out)."""

    class_token: str
    patches: str
    positions: str
    fc1: str
    projection: str
    head: str
    turned: bool = False


def _transformers_names(prefix: str) -> VisionNames:
    return VisionNames(
        class_token=f"{prefix}embeddings.class_embedding",
        patches=f"{prefix}embeddings.patch_embedding.weight",
        positions=f"{prefix}embeddings.position_embedding.weight",
        fc1=prefix + "encoder.layers.{}.mlp.fc1.weight",
        projection=_PROJECTION,
        head=f"{prefix}head.",
    )


LAYOUTS = (
    _transformers_names("vision_model."),
    VisionNames(
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


def is_beside(key: str) -> bool:
    """Returns whether a tensor is none of the tower's, but of what files keep beside one."""
    return key.startswith(_BESIDE) or is_ignored(key)


def vision_origins(wanted: Iterable[str], present: Collection[str]) -> Origins:
    """Returns the origin of each tensor of transformers' CLIPVisionModelWithProjection or SiglipVisionModel.

    The text half of a whole CLIP model is not looked at. Raises KeyMapError.
    """
    own = {key for key in present if not is_beside(key)}
    bare = {key: key.removeprefix("vision_model.") for key in wanted}
    if "conv1.weight" in own:
        return check_origins({key: _open_clip_origin(name) for key, name in bare.items()}, own)
    prefix = "vision_model." if any(key.startswith("vision_model.") for key in own) else ""
    origins = {key: Origin(name if name == _PROJECTION else prefix + name) for key, name in bare.items()}
    return check_origins(origins, own)


def _open_clip_origin(name: str) -> Origin:
    if name == _PROJECTION:
        return Origin("proj", transposed=True)
    return Origin(_OPEN_CLIP[name]) if name in _OPEN_CLIP else open_clip_block_origin(name)
