"""How the tensors of autoencoders are named in files and in diffusers' networks: strict maps, as in `keymaps`. No torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from ..families.autoencoders import ConsistencySpec, KLSpec, PatchedKLSpec, TinySpec, VaeSpec, VQSpec
from .keymaps import Destination, KeyMapError, Origin, Origins, check_origins, old_attention_name, rename

_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def vae_origins(spec: VaeSpec, module: str, wanted: Iterable[str], present: Collection[str]) -> Origins:
    """Returns the origin of each tensor of a module of diffusers' autoencoder (see `modules`). Raises KeyMapError.

    A KL or a VQ autoencoder may come in LDM's layout or in diffusers', the other kinds have one.
    """
    if isinstance(spec, TinySpec):
        return _tiny_origins(module, wanted, present)
    modules = {}
    if isinstance(spec, KLSpec | PatchedKLSpec | VQSpec) and "encoder.down.0.block.0.conv1.weight" in present:
        modules = dict(_ldm_modules(spec))
    names = {key: rename(key, modules) if modules else old_attention_name(key, present) for key in wanted}
    return check_origins({key: Origin(name) for key, name in names.items()}, present)


def vae_destinations(spec: VaeSpec, names: Iterable[str]) -> list[Destination]:
    """Returns where the tensors of diffusers' autoencoder go in an LDM file, whose attention is of 1x1 convolutions.

    Raises KeyMapError for a kind that no LDM file holds.
    """
    if isinstance(spec, ConsistencySpec | TinySpec):
        raise KeyMapError("the autoencoder is of a kind that no checkpoint holds; save the model without it")
    modules = dict(_ldm_modules(spec))
    kernels = {f"{module}.weight" for module in modules if ".attentions." in module and ".to_" in module}
    return [Destination(rename(name, modules), (name,), kernel=name in kernels) for name in names]


def _tiny_origins(module: str, wanted: Iterable[str], present: Collection[str]) -> Origins:
    """TAESD's own decoder begins with a clamp, which has no weight: all its numbers are one higher than diffusers'."""
    shift = 1 if module == "decoder" and "0.weight" not in present else 0
    origins = {}
    for key in wanted:
        number, _, rest = key.removeprefix("layers.").partition(".")
        origins[key] = Origin(f"{int(number) + shift}.{rest}")
    return check_origins(origins, present)


def _ldm_modules(spec: KLSpec | PatchedKLSpec | VQSpec) -> Iterator[tuple[str, str]]:
    """Yields (diffusers, LDM) names of modules; below a pair of modules the names agree."""
    if isinstance(spec, PatchedKLSpec):
        yield from (("quant_conv", "encoder.quant_conv"), ("post_quant_conv", "decoder.post_quant_conv"))
    innermost = len(spec.widths) - 1
    for x in range(len(spec.widths)):
        y = innermost - x  # diffusers counts the decoder's levels in order of execution
        for ours, theirs in (
            (f"encoder.down_blocks.{x}", f"encoder.down.{x}"),
            (f"decoder.up_blocks.{y}", f"decoder.up.{x}"),
        ):
            for i in range(spec.encoder_blocks + 1):
                yield f"{ours}.resnets.{i}", f"{theirs}.block.{i}"
                yield f"{ours}.resnets.{i}.conv_shortcut", f"{theirs}.block.{i}.nin_shortcut"
                yield from _attention(f"{ours}.attentions.{i}", f"{theirs}.attn.{i}")
        yield f"encoder.down_blocks.{x}.downsamplers.0", f"encoder.down.{x}.downsample"
        yield f"decoder.up_blocks.{y}.upsamplers.0", f"decoder.up.{x}.upsample"
    for side in ("encoder", "decoder"):
        yield f"{side}.conv_norm_out", f"{side}.norm_out"
        yield f"{side}.mid_block.resnets.0", f"{side}.mid.block_1"
        yield f"{side}.mid_block.resnets.1", f"{side}.mid.block_2"
        yield from _attention(f"{side}.mid_block.attentions.0", f"{side}.mid.attn_1")


def _attention(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for inner, ldm in _ATTENTION.items():
        yield f"{ours}.{inner}", f"{theirs}.{ldm}"
