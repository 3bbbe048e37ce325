"""How the tensors of diffusion transformers are named in the layouts in which they were first published; see `keymaps`.

Those layouts hold queries, keys and values (and, in FLUX.1's single blocks, the feed-forward) as one matrix, and the last
modulation's shift before its scale, where diffusers has the scale first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain

from ..families.dit_specs import DiTSpec, Flux2Spec, FluxSpec, MMDiTSpec
from .dit_layout import GROWTH
from .keymaps import Destination, Origin, Origins, Rows, check_origins, rename, turned_around

Modules = Mapping[str, tuple[str, Rows | None]]
"""diffusers' name of a module -> the original's, and which of its rows if not all."""

_MMDIT_TOP = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
}
_MMDIT_BLOCK = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
_MMDIT_STACKED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}
_FLUX_EMBEDDERS = {
    "timestep_embedder.linear_1": "time_in.in_layer",
    "timestep_embedder.linear_2": "time_in.out_layer",
    "guidance_embedder.linear_1": "guidance_in.in_layer",
    "guidance_embedder.linear_2": "guidance_in.out_layer",
    "text_embedder.linear_1": "vector_in.in_layer",
    "text_embedder.linear_2": "vector_in.out_layer",
}
_FLUX_TOP = {"x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear"}
_FLUX_ATTENTION = {
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
_FLUX_STACKED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_FLUX_DOUBLE = _FLUX_ATTENTION | {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_FLUX_SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
    "proj_out": "linear2",
}
_FLUX2_TOP = {
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
}
_FLUX2_DOUBLE = _FLUX_ATTENTION | {
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
_FLUX2_SINGLE = {
    "attn.to_qkv_mlp_proj": "linear1",
    "attn.to_out": "linear2",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}


def mmdit_origins(spec: MMDiTSpec, wanted: Iterable[str], present: Collection[str]) -> Origins:
    """Returns the origin of each tensor of diffusers' SD3Transformer2DModel, in either layout. Raises KeyMapError."""
    return _origins(mmdit_modules(spec), wanted, present, original="x_embedder.proj.weight" in present)


def flux_origins(spec: FluxSpec, wanted: Iterable[str], present: Collection[str]) -> Origins:
    """Returns the origin of each tensor of diffusers' FluxTransformer2DModel, in either layout. Raises KeyMapError."""
    return _origins(flux_modules(spec), wanted, present, original="img_in.weight" in present)


def flux2_origins(spec: Flux2Spec, wanted: Iterable[str], present: Collection[str]) -> Origins:
    """Returns the origin of each tensor of diffusers' Flux2Transformer2DModel, in either layout. Raises KeyMapError."""
    return _origins(flux2_modules(spec), wanted, present, original="img_in.weight" in present)


def mmdit_destinations(spec: MMDiTSpec, names: Iterable[str]) -> list[Destination]:
    """Returns where the tensors of diffusers' SD3Transformer2DModel go in a file of Stability AI's layout."""
    return turned_around(original_origins(mmdit_modules(spec), names))


def flux_destinations(spec: FluxSpec, names: Iterable[str]) -> list[Destination]:
    """Returns where the tensors of diffusers' FluxTransformer2DModel go in a file of Black Forest Labs' layout."""
    return turned_around(original_origins(flux_modules(spec), names))


def flux2_destinations(spec: Flux2Spec, names: Iterable[str]) -> list[Destination]:
    """Returns where the tensors of diffusers' Flux2Transformer2DModel go in a file of Black Forest Labs' layout."""
    return turned_around(original_origins(flux2_modules(spec), names))


def mmdit_modules(spec: MMDiTSpec) -> Modules:
    """Returns the modules of SD3's transformer as Stability AI names them."""
    last = spec.depth - 1
    swapped = f"joint_blocks.{last}.context_block.adaLN_modulation.1", _swapped(spec.width)
    return dict(
        chain(
            _whole(_MMDIT_TOP),
            _in_blocks(spec, spec.depth, "transformer_blocks", "joint_blocks", _MMDIT_BLOCK, _MMDIT_STACKED),
            [(f"transformer_blocks.{last}.norm1_context.linear", swapped)],
            [("norm_out.linear", ("final_layer.adaLN_modulation.1", _swapped(spec.width)))],
        )
    )


def flux_modules(spec: FluxSpec) -> Modules:
    """Returns the modules of FLUX.1's transformer as Black Forest Labs names them."""
    single = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}
    return dict(
        chain(
            _whole(_FLUX_TOP),
            _whole({f"time_text_embed.{ours}": theirs for ours, theirs in _FLUX_EMBEDDERS.items()}),
            _in_blocks(spec, spec.double_blocks, "transformer_blocks", "double_blocks", _FLUX_DOUBLE, _FLUX_STACKED),
            _in_blocks(spec, spec.single_blocks, "single_transformer_blocks", "single_blocks", _FLUX_SINGLE, single),
            [("norm_out.linear", ("final_layer.adaLN_modulation.1", _swapped(spec.width)))],
        )
    )


def flux2_modules(spec: Flux2Spec) -> Modules:
    """Returns the modules of FLUX.2's transformer as Black Forest Labs names them."""
    return dict(
        chain(
            _whole(_FLUX_TOP | _FLUX2_TOP),
            _whole({f"time_guidance_embed.{ours}": theirs for ours, theirs in _FLUX_EMBEDDERS.items()}),
            _in_blocks(spec, spec.double_blocks, "transformer_blocks", "double_blocks", _FLUX2_DOUBLE, _FLUX_STACKED),
            _in_blocks(spec, spec.single_blocks, "single_transformer_blocks", "single_blocks", _FLUX2_SINGLE, {}),
            [("norm_out.linear", ("final_layer.adaLN_modulation.1", _swapped(spec.width)))],
        )
    )


def _whole(names: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, Rows | None]]]:
    for ours, theirs in names.items():
        yield ours, (theirs, None)


def _in_blocks(
    spec: DiTSpec,
    number: int,
    ours: str,
    theirs: str,
    modules: Mapping[str, str],
    stacked: Mapping[str, tuple[str, ...]],
) -> Iterator[tuple[str, tuple[str, Rows | None]]]:
    """Yields the modules of numbered blocks; stacked: those of which the original makes one, the fourth one wider."""
    for n in range(number):
        for inner, original in modules.items():
            yield f"{ours}.{n}.{inner}", (f"{theirs}.{n}.{original}", None)
        for original, parts in stacked.items():
            start = 0
            for place, part in enumerate(parts):
                stop = start + spec.width * (GROWTH if place == 3 else 1)
                yield f"{ours}.{n}.{part}", (f"{theirs}.{n}.{original}", ((start, stop),))
                start = stop


def _swapped(width: int) -> Rows:
    return (width, 2 * width), (0, width)


def _origins(modules: Modules, wanted: Iterable[str], present: Collection[str], *, original: bool) -> Origins:
    if not original:
        return check_origins({key: Origin(key) for key in wanted}, present)
    as_comfyui = any(key.endswith("_norm.weight") for key in present)
    gain = "weight" if as_comfyui else "scale"
    return check_origins(original_origins(modules, wanted, gain=gain), present)


def original_origins(modules: Modules, names: Iterable[str], *, gain: str = "scale") -> dict[str, Origin]:
    """Returns where each tensor is in a file of the original layout. gain: what a norm's weight is called there."""
    renamed = {ours: theirs for ours, (theirs, _) in modules.items()}
    origins = {}
    for name in names:
        module = name.rpartition(".")[0]
        key = "pos_embed" if name == "pos_embed.pos_embed" else rename(name, renamed)
        if key.endswith("_norm.weight"):
            key = key.removesuffix("weight") + gain
        origins[name] = Origin(key, rows=modules[module][1] if module in modules else None)
    return origins
