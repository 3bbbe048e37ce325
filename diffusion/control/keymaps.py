"""How the tensors of control networks are named in the files of their makers; see `checkpoints.keymaps`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from ..layouts.keymaps import Origin, Origins, check_origins, rename, unet_modules
from .specs import ControlNetSpec, T2IAdapterSpec


def control_net_origins(spec: ControlNetSpec, wanted: Iterable[str], present: Collection[str]) -> Origins:
    """Returns the origin of each tensor of diffusers' ControlNet, in the original layout or diffusers'. Raises KeyMapError."""
    modules = dict(_control_net_modules(spec)) if "input_blocks.0.0.weight" in present else {}
    return check_origins({key: Origin(rename(key, modules)) for key in wanted}, present)


def original_keys(spec: ControlNetSpec, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields each tensor of diffusers' ControlNet with its key in the original layout."""
    modules = dict(_control_net_modules(spec))
    yield from ((name, rename(name, modules)) for name in names)


def t2i_adapter_origins(spec: T2IAdapterSpec, wanted: Iterable[str], present: Collection[str]) -> Origins:
    """Returns the origin of each tensor of diffusers' T2IAdapter, in the original layout or diffusers'. Raises KeyMapError.

    wanted: names without the "adapter." in front.
    """
    original = not any(".resnets." in key for key in present)
    modules = dict(_t2i_adapter_modules(spec)) if original else {}
    return check_origins({key: Origin(rename(key, modules)) for key in wanted}, present)


def diffusers_origins(wanted: Iterable[str], present: Collection[str]) -> Origins:
    """Returns the origin of each tensor of a network in a file by diffusers' own names. Raises KeyMapError."""
    return check_origins({key: Origin(key) for key in wanted}, present)


def _control_net_modules(spec: ControlNetSpec) -> Iterator[tuple[str, str]]:
    yield from unet_modules(spec.encoder)
    skips = 1 + sum(spec.encoder.res_blocks) + len(spec.encoder.res_blocks) - 1
    yield from ((f"controlnet_down_blocks.{n}", f"zero_convs.{n}.0") for n in range(skips))
    yield "controlnet_mid_block", "middle_block_out.0"
    inner = 2 * (len(spec.hint_widths) - 1)
    hint = "controlnet_cond_embedding"
    yield f"{hint}.conv_in", "input_hint_block.0"
    yield from ((f"{hint}.blocks.{n}", f"input_hint_block.{2 * (n + 1)}") for n in range(inner))
    yield f"{hint}.conv_out", f"input_hint_block.{2 * (inner + 1)}"


def _t2i_adapter_modules(spec: T2IAdapterSpec) -> Iterator[tuple[str, str]]:
    for n in range(len(spec.features)):
        if spec.kind == "light_adapter":
            yield from ((f"body.{n}.resnets.{i}", f"body.{n}.body.{i}") for i in range(spec.res_blocks))
        else:
            first = n * spec.res_blocks  # the original layout counts the res blocks through
            yield f"body.{n}.in_conv", f"body.{first}.in_conv"
            yield from ((f"body.{n}.resnets.{i}", f"body.{first + i}") for i in range(spec.res_blocks))
