"""How the tensors of control networks are named in the files of their makers; see `layouts.keymaps`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from ..layouts.dit_keymaps import flux_modules, original_origins
from ..layouts.keymaps import Origin, Origins, Rows, check_origins, rename, unet_modules
from .specs import ControlSpec
from .transformer_specs import HINT_CONVOLUTIONS, FluxControlSpec, SD3ControlSpec
from .unet_specs import ControlNetSpec, T2IAdapterSpec

STABILITY_MARK = "transformer_blocks.0.attn.qkv.weight"
"""The key that Stability AI's layout of ControlNets for SD3.5 large is told by."""

CONTROL_TYPE = "control_type"
"""Where that layout says what the pictures of its network show, as a number."""


def _hint_modules(ours: str, inner: int) -> Iterator[tuple[str, str]]:
    """Yields the convolutions that see pixels, so many of them between the first and the last."""
    yield f"{ours}.conv_in", "input_hint_block.0"
    yield from ((f"{ours}.blocks.{n}", f"input_hint_block.{2 * (n + 1)}") for n in range(inner))
    yield f"{ours}.conv_out", f"input_hint_block.{2 * (inner + 1)}"


HINT_BLOCK = tuple(_hint_modules("input_hint_block", HINT_CONVOLUTIONS))
"""The convolutions by which XLabs' networks see pixels, as diffusers names them and as XLabs does."""

_UNUSED = (CONTROL_TYPE, "pos_embed.")  # of Stability AI's layout: what no network takes
_STABILITY_BLOCK = {
    "norm1.linear": "adaLN_modulation.1",
    "attn.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}


def control_origins(spec: ControlSpec, wanted: Collection[str], present: Collection[str]) -> Origins:
    """Returns the origin of each tensor of diffusers' control network, in any layout of its files. Raises KeyMapError.

    wanted: of a T2I adapter, names without the "adapter." in front.
    """
    if isinstance(spec, ControlNetSpec):
        original = "input_blocks.0.0.weight" in present
        return _renamed(_control_net_modules(spec) if original else (), wanted, present)
    if isinstance(spec, T2IAdapterSpec):
        original = not any(".resnets." in key for key in present)
        return _renamed(_t2i_adapter_modules(spec) if original else (), wanted, present)
    if isinstance(spec, SD3ControlSpec) and STABILITY_MARK in present:
        used = {key for key in present if not key.startswith(_UNUSED)}
        return check_origins(original_origins(dict(_stability_modules(spec)), wanted), used)
    if isinstance(spec, FluxControlSpec) and "img_in.weight" in present:
        own = {"controlnet_x_embedder": "pos_embed_input", **dict(HINT_BLOCK)}
        modules = {**flux_modules(spec.network), **{ours: (theirs, None) for ours, theirs in own.items()}}
        return check_origins(original_origins(modules, wanted), present)
    return _renamed((), wanted, present)


def original_keys(spec: ControlNetSpec, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields each tensor of diffusers' ControlNet with its key in the original layout."""
    modules = dict(_control_net_modules(spec))
    yield from ((name, rename(name, modules)) for name in names)


def _renamed(modules: Iterable[tuple[str, str]], wanted: Iterable[str], present: Collection[str]) -> Origins:
    names = dict(modules)
    return check_origins({key: Origin(rename(key, names)) for key in wanted}, present)


def _stability_modules(spec: SD3ControlSpec) -> Iterator[tuple[str, tuple[str, Rows | None]]]:
    width = spec.network.width
    for n in range(spec.network.depth):
        block = f"transformer_blocks.{n}"
        yield from ((f"{block}.{ours}", (f"{block}.{theirs}", None)) for ours, theirs in _STABILITY_BLOCK.items())
        for place, part in enumerate(("to_q", "to_k", "to_v")):
            yield f"{block}.attn.{part}", (f"{block}.attn.qkv", ((place * width, (place + 1) * width),))


def _control_net_modules(spec: ControlNetSpec) -> Iterator[tuple[str, str]]:
    yield from unet_modules(spec.encoder)
    skips = 1 + sum(spec.encoder.res_blocks) + len(spec.encoder.res_blocks) - 1
    yield from ((f"controlnet_down_blocks.{n}", f"zero_convs.{n}.0") for n in range(skips))
    yield "controlnet_mid_block", "middle_block_out.0"
    yield from _hint_modules("controlnet_cond_embedding", 2 * (len(spec.hint_widths) - 1))


def _t2i_adapter_modules(spec: T2IAdapterSpec) -> Iterator[tuple[str, str]]:
    for n in range(len(spec.features)):
        if spec.kind == "light_adapter":
            yield from ((f"body.{n}.resnets.{i}", f"body.{n}.body.{i}") for i in range(spec.res_blocks))
        else:
            first = n * spec.res_blocks  # the original layout counts the res blocks through
            yield f"body.{n}.in_conv", f"body.{first}.in_conv"
            yield from ((f"body.{n}.resnets.{i}", f"body.{first + i}") for i in range(spec.res_blocks))
