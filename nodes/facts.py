"""What our values tell of themselves before a run, and the rules by which they must go together.

By port type, each fact only where it is known:

- Model: family, latent_channels, latent_scale, downscale, text_width, pooled_width (None: it takes no pooled text),
  in_channels, spec (its ModelSpec)
- Clip: family, text_width, pooled_width, spec (its ClipSpec)
- Guider: those of its model
- Conditioning: family, text_width, pooled_width, controls (a tuple of the specs of what steers it), picture (facts of the
  latent of one to edit), shown (a tuple of the widths of the embeddings of pictures), depth (whether it carries some),
  small (a tuple of the noise, None where nobody tells, in a picture to enlarge), masked_fill (what is under the mask in a
  picture to inpaint), segments (whether it shows classes), references (a tuple of the channels, as far as they are known, of
  the latents of pictures to go by)
- ControlNet: family, spec (its ControlSpec)
- IpAdapter: spec (its IPAdapterSpec)
- StyleModel: spec (its StyleSpec)
- ClipVision: embedding_width, width, spec (its ClipVisionSpec)
- ClipVisionOutput: those of the tower that made it, and batch
- Vae: family, latent_channels, latent_scale, downscale, spec (its VaeSpec)
- Latent: family, latent_channels, latent_scale, downscale, width, height (of the picture, in pixels), batch
- Image, Mask: width, height, batch

An empty latent has no channels and no scale: sampling fits it to the model. This module reads no file and loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from latentgraph.diffusion.control.specs import ControlSpec
from latentgraph.diffusion.families.autoencoders import VaeSpec
from latentgraph.diffusion.families.dit_specs import PATCH, MMDiTSpec
from latentgraph.diffusion.families.specs import ModelSpec, network_words
from latentgraph.diffusion.families.text_joins import ClipSpec
from latentgraph.diffusion.families.vision import ClipVisionSpec
from latentgraph.diffusion.pictures.sizes import CELL, Size, cells_of, resized, whole_cells
from latentgraph.graph import Facts, Known, LatentGraphError, NodeSpec, OutputFacts

T = TypeVar("T")


class SameFacts:
    """A mixin for nodes: what is known of the input that bears the output's name is true of the output."""

    spec: ClassVar[NodeSpec]

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        name = cls.spec.outputs[0].name
        return {name: known.facts(name)}


def read_header(read: Callable[[Path], T], path: Path) -> T:
    """Returns what a function of `diffusion` reads from a file's header; its refusal becomes a problem of the document."""
    try:
        return read(path)
    except IsADirectoryError as error:
        raise LatentGraphError(f"{path}: this is a folder; name a file in it") from error
    except OSError as error:
        raise LatentGraphError(f"{path}: the file can't be read ({error.strerror or error})") from error
    except ValueError as error:
        raise LatentGraphError(str(error)) from error


class UNetAlone(SameFacts):
    """The same for a node that changes how a UNet works; a report if the model is none."""

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_unet(known)
        return super().infer(known)


def check_unet(known: Known, cure: str = "") -> None:
    """Reports the model of input 'model' if its network is no UNet that attends to text."""
    spec = known.fact("model", "spec")
    if spec is not None and spec.network.kind != "unet":
        found = network_words(spec.network.kind)
        words = f"is of the {spec.family} family, whose network is {found}; this works on UNets with text alone{cure}"
        known.problem("model", words)


def model_facts(spec: ModelSpec) -> Facts:
    """Returns what is known of a denoising network."""
    return {
        "family": spec.family,
        "latent_channels": spec.latent.channels,
        "latent_scale": spec.latent.scale,
        "downscale": spec.latent.downscale,
        "text_width": spec.context_width,
        "pooled_width": spec.pooled_width,
        "in_channels": spec.network.in_channels,
        "spec": spec,
    }


def clip_facts(spec: ClipSpec) -> Facts:
    """Returns what is known of text encoders."""
    return {
        "family": spec.family,
        "text_width": spec.context_width,
        "pooled_width": spec.pooled_width,
        "spec": spec,
    }


def vae_facts(spec: VaeSpec, model: ModelSpec | None = None) -> Facts:
    """Returns what is known of an autoencoder; `model`: whose file it is from, which tells its family and scale."""
    facts: dict[str, Any] = {"latent_channels": spec.latent_channels, "downscale": spec.downscale, "spec": spec}
    if spec.scale is not None:
        facts["latent_scale"] = spec.scale
    if model is not None:
        facts |= {"family": model.family, "latent_scale": model.latent.scale}
    return facts


def vision_facts(spec: ClipVisionSpec) -> Facts:
    """Returns what is known of a vision tower."""
    return {"embedding_width": spec.embedding_width, "width": spec.width, "spec": spec}


def control_facts(spec: ControlSpec) -> Facts:
    """Returns what is known of a control network."""
    return {"family": spec.family, "spec": spec} if spec.family else {"spec": spec}


def size_facts(size: Size | None, batch: Any = None) -> Facts:
    """Returns the facts of pictures, masks or latents of a size in pixels, as far as it is known."""
    facts: dict[str, Any] = {} if size is None else {"width": size.width, "height": size.height}
    return facts if batch is None else facts | {"batch": batch}


def size_of(known: Known, name: str) -> Size | None:
    """Returns the size in pixels of what is linked to an input, or None."""
    return _size(known.facts(name))


def resized_size(known: Known, name: str, *, least: int = 1) -> Size | None:
    """Returns the size that the literals 'width' and 'height' give to what is linked to an input, or None.

    A side of 0 follows from the other by the aspect; see `sizes.resized`.
    """
    size, width, height = size_of(known, name), known.value("width"), known.value("height")
    if width is None or height is None:
        return None
    if size is None:
        return Size(width, height) if width and height else None
    return resized(size, width=width, height=height, least=least)


def cell_of(known: Known, name: str) -> int:
    """Returns how many pixels a latent cell of what is linked to an input stands for along a side, `CELL` if nobody tells."""
    return int(known.fact(name, "downscale") or CELL)


def batch_of(known: Known, name: str) -> Any:
    """Returns how many items are in what is linked to an input, or None."""
    return known.fact(name, "batch")


def some(facts: Facts, names: Iterable[str]) -> Facts:
    """Returns the facts of these names."""
    return {name: facts[name] for name in names if name in facts}


TEXT = ("family", "text_width", "pooled_width")
"""The facts that a conditioning takes over from the text encoders that made it."""

LATENT_FORMAT = ("family", "latent_channels", "latent_scale", "downscale")
"""The facts that a latent takes over from the model or the autoencoder that made it."""


def encoded_facts(known: Known) -> Facts:
    """Returns the facts of the latent that inputs 'vae' and 'image' give; reports an autoencoder that is a decoder alone."""
    spec = known.fact("vae", "spec")
    if spec is not None and not spec.encodes:
        known.problem("vae", "is a decoder alone and can't encode; give LoadTinyVAE the encoder's file, too")
    cropped = cropped_size(known)
    return {**some(known.facts("vae"), LATENT_FORMAT), **size_facts(cropped, batch_of(known, "image"))}


def cropped_size(known: Known) -> Size | None:
    """Returns the size of input 'image' in the whole cells that input 'vae' encodes; reports one without any."""
    size, cell = size_of(known, "image"), cell_of(known, "vae")
    if size is None:
        return None
    if min(size) < cell:
        known.problem("image", f"is {size}; the sides of what is encoded must be at least {cell} pixels")
        return None
    return whole_cells(size, cell)


def check_latent(known: Known, name: str, against: str) -> None:
    """Reports the latent of an input if it is not one for the model or the autoencoder of input `against`."""
    words = {"latent_channels": "channels", "latent_scale": "as its scale", "downscale": "pixels a cell"}
    for fact, unit in words.items():
        found, wanted = known.fact(name, fact), known.fact(against, fact)
        if found is not None and wanted is not None and found != wanted:
            known.problem(
                name,
                f"is a latent{_of_family(known, name)} with {found} {unit}, but input {against!r}"
                f"{_of_family(known, against)} takes {wanted}; encode and decode with the VAE of the model that samples",
            )
            return
    spec, size = known.fact(against, "spec"), size_of(known, name)
    if size is not None and isinstance(spec, ModelSpec) and isinstance(spec.network, MMDiTSpec):
        most = spec.network.positions * PATCH * spec.latent.downscale
        if max(size) > most:
            known.problem(
                name, f"is of a {size} picture, but input {against!r} has places for {most} pixels a side at most"
            )


def sampled_facts(known: Known, against: str) -> Facts:
    """Returns the facts of what the model of input `against` makes of input 'latent': an empty one is cut to its cells."""
    size = size_of(known, "latent")
    whole = None if size is None else whole_cells(size, cell_of(known, against))
    return {**known.facts("latent"), **some(known.facts(against), LATENT_FORMAT), **size_facts(whole)}


def check_mask(known: Known, mask: str, picture: str) -> None:
    """Reports the mask of an input if its size is not that of the picture of input `picture`."""
    found, wanted = size_of(known, mask), size_of(known, picture)
    if found is not None and wanted is not None and found != wanted:
        known.problem(mask, f"is {found}, but input {picture!r} is {wanted}; use ScaleMask or ScaleImage")


def check_noise_mask(known: Known, mask: str, latent: str) -> None:
    """Reports the mask of an input if it has neither the size of the latent's picture nor that of the latent itself."""
    found, picture = size_of(known, mask), size_of(known, latent)
    if found is None or picture is None:
        return
    cells = cells_of(picture, cell_of(known, latent))
    if found not in (picture, cells):
        known.problem(mask, f"is {found}, but input {latent!r} is a latent of a {picture} picture; use ScaleMask")


def check_one_size(known: Known, name: str) -> None:
    """Reports a list of pictures that are not of one size."""
    sizes = [_size(facts) for facts in known.each(name)]
    if not sizes:
        known.problem(name, "holds no picture; link it to one at least")
    different = list(dict.fromkeys(size for size in sizes if size is not None))
    if len(different) > 1:
        known.problem(name, f"holds pictures of {', '.join(map(str, different))}; scale them to one size")


def _size(facts: Facts) -> Size | None:
    width, height = facts.get("width"), facts.get("height")
    return Size(width, height) if isinstance(width, int) and isinstance(height, int) else None


def _of_family(known: Known, name: str) -> str:
    family = known.fact(name, "family")
    return f" of the {family} family" if family else ""
