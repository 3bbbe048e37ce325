"""What an IP-Adapter's file is, from its header alone, and which networks and vision towers it goes with. Loads no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Literal, NoReturn

from ..checkpoints.headers import Header, HeaderError, read_header
from ..checkpoints.parts import Part, find_part, find_shapes
from ..checkpoints.refusals import key_groups, refuse_others, unbuildable
from ..checkpoints.strangers import IP_ADAPTER
from ..families.specs import ModelSpec, UNetSpec
from ..families.vision import ClipVisionSpec
from ..layouts.keymaps import Origin, Origins, check_origins, rename
from ..layouts.structure import Shapes, StructureError, shape_of

FLUX_MARKS = ("ip_adapter_proj_model.", "double_blocks.0.processor.ip_adapter")  # XLabs' names

ProjectionKind = Literal["embedding", "resampler", "hidden"]

EXPECTED = "an IP adapter"
CURE = "Name an IP adapter for Stable Diffusion 1.x or XL."
HEAD_WIDTH = 64  # of a resampler's attention
FACE_WIDTH = 512  # numbers by which ArcFace tells a face, which no CLIP tower says
FACES = "It reads faces by a network of its own, which is not supported; use an IP adapter that reads pictures by CLIP."


@dataclass(frozen=True, slots=True)
class IPAdapterSpec:
    """How pictures become tokens, and which attentions to text see them.

    kind: "embedding" projects a tower's image embedding to `tokens` tokens; "resampler" ("plus") and "hidden" ("full") read
    its token states, of the block before the last. picture_width: of what is read. text_width: of the tokens. widths: of the
    attentions, in the order in which diffusers counts them: down, up, middle. depth, width, heads: of the resampler.
    """

    kind: ProjectionKind
    picture_width: int
    text_width: int
    widths: tuple[int, ...]
    tokens: int = 0
    depth: int = 0
    width: int = 0
    heads: int = 0

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"an IP adapter for {len(self.widths)} attentions to text of {self.text_width} numbers a token"

    def misfit(self, model: ModelSpec) -> str | None:
        """Returns in words why a denoising network can't use it, as the rest of a sentence about it, or None if it can."""
        cure = f"use one that was made for models of the {model.family} family"
        network = model.network
        if not isinstance(network, UNetSpec):
            return f"is {self.title} in a UNet, but the model is of the {model.family} family, which has none; {cure}"
        widths = attention_widths(network)
        if (self.text_width, self.widths) == (network.context_width, widths):
            return None
        same = "of other widths " if (self.text_width, len(self.widths)) == (network.context_width, len(widths)) else ""
        return (
            f"is {self.title}, but the model is of the {model.family} family and has {len(widths)} {same}"
            f"to text of {network.context_width}; {cure}"
        )

    def unreadable(self, vision: ClipVisionSpec) -> str | None:
        """Returns why it can't read what a vision tower says, as the rest of a sentence about that, or None if it can."""
        found = vision.embedding_width if self.kind == "embedding" else vision.width
        if vision.kind == "clip" and found == self.picture_width:
            return None
        what = "image embedding" if self.kind == "embedding" else "token states"
        kind = "CLIP" if vision.kind == "clip" else "SigLIP"
        return (
            f"gives {kind}'s {what} of {found} numbers, but the IP adapter reads CLIP's of {self.picture_width}; use the "
            "vision tower that it was made with (ViT-H for most)"
        )


@dataclass(frozen=True, eq=False, slots=True)
class IPAdapterDescription:
    """What an IP adapter is, and where its tensors are."""

    path: Path
    spec: IPAdapterSpec
    part: Part


def describe_ip_adapter(path: Path | str) -> IPAdapterDescription:
    """Returns what an IP adapter is. Raises HeaderError for a file that is none."""
    path = Path(path)
    header = read_header(path)
    shapes = find_shapes([header], "")
    if any(key.startswith(FLUX_MARKS) for key in shapes):
        raise HeaderError(path, "an IP adapter for FLUX.1", expected=EXPECTED, cure=f"It is not supported. {CURE}")
    if "image_proj.perceiver_resampler.proj_in.weight" in shapes or _reads_faces(shapes):
        raise HeaderError(path, "an IP adapter for faces", expected=EXPECTED, cure=FACES)
    if not any(key.startswith("ip_adapter.") for key in shapes):
        _refuse(path, header)
    try:
        return IPAdapterDescription(path, _spec(shapes), find_part([header], ""))
    except StructureError as error:
        raise unbuildable(path, error) from None


def attention_widths(network: UNetSpec) -> tuple[int, ...]:
    """Returns the width of each attention to text in a UNet, in the order in which diffusers counts them."""
    levels = [*zip(network.widths, network.depths_in, strict=True)]
    levels += zip(reversed(network.widths), network.depths_out, strict=True)
    sides = [width for width, depths in levels for depth in depths for _ in range(depth)]
    return (*sides, *[network.widths[-1]] * (network.depth_middle or 0))


def ip_adapter_origins(spec: IPAdapterSpec, wanted: Iterable[str], present: Collection[str]) -> Origins:
    """Returns the origin of each tensor of `networks.IPAdapterNetwork` in a file. Raises KeyMapError."""
    modules = dict(_MODULES[spec.kind])
    for n in range(spec.depth):
        layer = f"image_proj.layers.{n}"
        modules |= {f"{layer}.{ours}": f"{layer}.{theirs}" for ours, theirs in _LAYER.items()}
    for n in range(len(spec.widths)):  # attentions to text alternate with those of the picture to itself
        modules |= {f"to_k.{n}": f"ip_adapter.{2 * n + 1}.to_k_ip", f"to_v.{n}": f"ip_adapter.{2 * n + 1}.to_v_ip"}
    half = spec.heads * HEAD_WIDTH
    return check_origins({key: _origin(rename(key, modules), key, half) for key in wanted}, present)


_MODULES: dict[ProjectionKind, dict[str, str]] = {
    "embedding": {"image_proj.image_embeds": "image_proj.proj"},
    "hidden": {
        "image_proj.ff.net.0.proj": "image_proj.proj.0",
        "image_proj.ff.net.2": "image_proj.proj.2",
        "image_proj.norm": "image_proj.proj.3",
    },
    "resampler": {},
}
_LAYER = {
    "ln0": "0.norm1",
    "ln1": "0.norm2",
    "attn.to_q": "0.to_q",
    "attn.to_k": "0.to_kv",
    "attn.to_v": "0.to_kv",
    "attn.to_out.0": "0.to_out",
    "ff.0": "1.0",
    "ff.1.net.0.proj": "1.1",
    "ff.1.net.2": "1.3",
}


def _origin(stored: str, wanted: str, half: int) -> Origin:
    """Keys and values of a resampler are stacked in one matrix, each in `half` rows."""
    if not stored.endswith(".to_kv.weight"):
        return Origin(stored)
    return Origin(stored, rows=((0, half) if ".to_k." in wanted else (half, 2 * half),))


def _spec(shapes: Shapes) -> IPAdapterSpec:
    numbers = takewhile(lambda n: f"ip_adapter.{n}.to_k_ip.weight" in shapes, count(1, 2))
    keys = [shape_of(shapes, f"ip_adapter.{n}.to_k_ip.weight", 2) for n in numbers]
    if not keys:
        raise StructureError("'ip_adapter.1.to_k_ip.weight' is missing")
    widths, text_width = tuple(shape[0] for shape in keys), keys[0][1]
    if "image_proj.proj.weight" in shapes:
        rows, read = shape_of(shapes, "image_proj.proj.weight", 2)
        return IPAdapterSpec("embedding", read, text_width, widths, tokens=rows // text_width)
    if "image_proj.proj.3.weight" in shapes:
        return IPAdapterSpec("hidden", shape_of(shapes, "image_proj.proj.0.weight", 2)[1], text_width, widths)
    _, tokens, width = shape_of(shapes, "image_proj.latents", 3)
    layers = takewhile(shapes.__contains__, (f"image_proj.layers.{n}.0.to_q.weight" for n in count()))
    return IPAdapterSpec(
        "resampler",
        shape_of(shapes, "image_proj.proj_in.weight", 2)[1],
        text_width,
        widths,
        tokens=tokens,
        depth=sum(1 for _ in layers),
        width=width,
        heads=shape_of(shapes, "image_proj.layers.0.0.to_q.weight", 2)[0] // HEAD_WIDTH,
    )


def _reads_faces(shapes: Shapes) -> bool:
    """FaceID's projection of two layers, or InstantID's resampler, which reads what ArcFace says."""
    resampled = shapes.get("image_proj.proj_in.weight", ())
    return ("image_proj.norm.weight" in shapes and "image_proj.proj.2.weight" in shapes) or resampled[1:] == (
        FACE_WIDTH,
    )


def _refuse(path: Path, header: Header) -> NoReturn:
    refuse_others(path, [header], [IP_ADAPTER], expected=EXPECTED, cure=CURE)
    raise HeaderError(path, key_groups(header.tensors), expected=EXPECTED, cure=CURE)
