"""How the tensors of text encoders are named in transformers' and diffusers', whichever layout a file has; see `keymaps`.

The networks are transformers' CLIP text models, T5EncoderModel (without its second name for the token table), Qwen3Model and
MistralModel, and diffusers' LDMBertModel. This module loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping

from ..families.text_specs import TextEncoderSpec, TextKind
from .keymaps import Destination, Origin, Origins, check_origins, open_clip_block_origin, turned_around
from .text_structure import BERT_NAMES, T5_TOKENS, decoder_prefix


def text_origins(spec: TextEncoderSpec, wanted: Iterable[str], present: Collection[str]) -> Origins:
    """Returns the origin of each tensor of a text encoder's network, in any layout of its kind. Raises KeyMapError."""
    return _ORIGINS[spec.kind](list(wanted), present)


def text_destinations(spec: TextEncoderSpec, names: Iterable[str], *, open_clip: bool) -> list[Destination]:
    """Returns where the tensors of a text encoder go in a single file; open_clip: CLIP's in OpenCLIP's layout."""
    if spec.kind != "clip":
        return [Destination(name, (name,)) for name in names]
    bare = {name.removeprefix("text_model."): name for name in names}
    if not open_clip:
        apart = ("text_projection.weight",)
        return [Destination(key if key in apart else f"text_model.{key}", (name,)) for key, name in bare.items()]
    return turned_around({name: _open_clip_origin(key) for key, name in bare.items()})


def _clip_origins(wanted: list[str], present: Collection[str]) -> Origins:
    """The "text_model." in front of transformers' names may be there or not, on either side."""
    own = {key for key in present if not key.startswith(_BESIDE_CLIP)}
    if "token_embedding.weight" in own:
        return check_origins({key: _open_clip_origin(key.removeprefix("text_model.")) for key in wanted}, own)
    named = any(key.startswith("text_model.") for key in own)
    origins = {}
    for key in wanted:
        bare = key.removeprefix("text_model.")
        if bare != _PROJECTION:
            origins[key] = Origin(f"text_model.{bare}" if named else bare)
        else:
            origins[key] = Origin(bare) if bare in own else Origin("text_projection", transposed=True)
    return check_origins(origins, own)


def _t5_origins(wanted: list[str], present: Collection[str]) -> Origins:
    own = {key for key in present if not key.startswith(_BESIDE_T5)}
    tokens = next((name for name in T5_TOKENS if name in own), T5_TOKENS[0])
    origins = {key: Origin(tokens if key in T5_TOKENS else key) for key in wanted}
    return check_origins(origins, own - (set(T5_TOKENS) - {tokens}))


def _bert_origins(wanted: list[str], present: Collection[str]) -> Origins:
    if BERT_NAMES[0].tokens not in present:
        return check_origins({key: Origin(key) for key in wanted}, present)
    return check_origins({key: Origin(_ldm_bert_key(key)) for key in wanted}, present)


def _as_named(wanted: list[str], present: Collection[str]) -> Origins:
    return check_origins({key: Origin(key) for key in wanted}, present)


def _decoder_origins(wanted: list[str], present: Collection[str]) -> Origins:
    """Blocks that are not wanted, the last norm, and what is beside a language model are not looked at."""
    prefix = decoder_prefix(present) or ""
    origins = {key: Origin(prefix + key) for key in wanted}
    blocks = {prefix + ".".join(key.split(".")[:2]) + "." for key in wanted if key.startswith("layers.")}
    return check_origins(origins, {key for key in present if key.startswith(tuple(blocks)) or key in _values(origins)})


def _values(origins: Origins) -> set[str]:
    return {origin.key for origin in origins.values()}


_ORIGINS: Mapping[TextKind, Callable[[list[str], Collection[str]], Origins]] = {
    "clip": _clip_origins,
    "t5": _t5_origins,
    "bert": _bert_origins,
    "classes": _as_named,
    "segments": _as_named,
    "decoder": _decoder_origins,
}

_PROJECTION = "text_projection.weight"
_BESIDE_CLIP = ("vision_model.", "visual_projection.", "visual.")  # of a whole CLIP model
_BESIDE_T5 = ("decoder.", "lm_head.", "spiece_model")  # of a whole T5; a tokenizer that ComfyUI keeps among weights

_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def _open_clip_origin(key: str) -> Origin:
    """Returns where OpenCLIP keeps a tensor of transformers' text model (named without "text_model.")."""
    if key == _PROJECTION:
        return Origin("text_projection", transposed=True)
    return Origin(_OPEN_CLIP[key]) if key in _OPEN_CLIP else open_clip_block_origin(key)


_BERT_LAYER = re.compile(r"model\.layers\.(\d+)\.(\w+(?:\.\w+_proj)?)\.(weight|bias)")
_BERT_MODULES = {  # in the layer pairs of latent diffusion: attention at an even place, feed-forward behind it
    "self_attn_layer_norm": (0, "0"),
    "self_attn.q_proj": (0, "1.to_q"),
    "self_attn.k_proj": (0, "1.to_k"),
    "self_attn.v_proj": (0, "1.to_v"),
    "self_attn.out_proj": (0, "1.to_out"),
    "final_layer_norm": (1, "0"),
    "fc1": (1, "1.net.0.0"),
    "fc2": (1, "1.net.2"),
}
_BERT_TOP = {
    "model.embed_tokens.weight": "token_emb.weight",
    "model.embed_positions.weight": "pos_emb.emb.weight",
    "model.layer_norm.weight": "norm.weight",
    "model.layer_norm.bias": "norm.bias",
}


def _ldm_bert_key(key: str) -> str:
    """Returns latent diffusion's name of a tensor of diffusers' LDMBertModel."""
    match = _BERT_LAYER.fullmatch(key)
    if match is None:
        return _BERT_TOP.get(key, key)
    n, module, leaf = match.groups()
    place, name = _BERT_MODULES[module]
    return f"attn_layers.layers.{2 * int(n) + place}.{name}.{leaf}"
