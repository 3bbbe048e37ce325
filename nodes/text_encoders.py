"""Nodes that open text encoders by themselves, and that encode prompts for families with several of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from latentgraph.diffusion.checkpoints.describe_text import TextDescription, describe_text
from latentgraph.diffusion.checkpoints.tokenizer_files import missing_tokenizer, needs_tokenizer
from latentgraph.diffusion.families.text_joins import ClipSpec
from latentgraph.diffusion.families.text_specs import EncoderKey
from latentgraph.diffusion.names import EmptyPrompt, PrecisionChoice, TextFamily
from latentgraph.diffusion.types import Clip, Conditioning
from latentgraph.graph import ComfyName, Context, FileInput, Known, LatentGraphError, Node, OutputFacts

from .companions import encoder_tokenizers
from .facts import TEXT, clip_facts, read_header, some
from .loading import PRECISION
from .text import Prompt, check_embeddings, warn_of_missing

TextFile = Annotated[Path, FileInput("text_encoder", encoder_tokenizers)]


class LoadTextEncoder(
    Node, version=1, lane="io", cached=False, comfy=ComfyName("CLIPLoader", {"file": "clip_name", "family": "type"})
):
    """Open a text encoder that has a file to itself, or those of a diffusers folder or of a checkpoint.

    CLIP-L, CLIP-G, CLIP-H, T5, latent diffusion's BERT and FLUX.2's language models are told from what is in them. All but CLIP
    need a tokenizer: its file lies beside the encoder's or in `tokenizers/`.
    """

    file: TextFile = Field(description="A text encoder's name or path.")
    family: TextFamily = Field("auto", description="The models it is for; auto goes by which encoders there are.")
    precision: PrecisionChoice = Field("default", description=PRECISION)

    def run(self, ctx: Context) -> Clip:
        return _open(ctx, [self.file], self.family, self.precision)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return _infer(known, ["file"])


class LoadTextEncoders(
    Node,
    version=1,
    lane="io",
    cached=False,
    comfy=ComfyName(
        "DualCLIPLoader",
        {"first": "clip_name1", "second": "clip_name2", "third": "clip_name3", "family": "type"},
        also=(ComfyName("TripleCLIPLoader", {"first": "clip_name1", "second": "clip_name2", "third": "clip_name3"}),),
    ),
):
    """Open the text encoders of SDXL, FLUX or SD3 from a file each, in any order.

    SDXL has CLIP-L and CLIP-G, FLUX has CLIP-L and T5, SD3 any of CLIP-L, CLIP-G and T5.
    """

    first: TextFile = Field(description="A text encoder's name or path.")
    second: TextFile = Field(description="Another one's.")
    third: TextFile | None = Field(None, description="A third one's, for SD3.")
    family: TextFamily = Field("auto", description="The models they are for; auto goes by which encoders there are.")
    precision: PrecisionChoice = Field("default", description=PRECISION)

    def run(self, ctx: Context) -> Clip:
        paths = [path for path in (self.first, self.second, self.third) if path is not None]
        return _open(ctx, paths, self.family, self.precision)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        if known.file("first") is None or known.file("second") is None:
            return {}  # which of them is missing is told where it is named
        return _infer(known, ["first", "second", "third"])


class TextEncodeFlux(Node, version=1, lane="device", comfy=ComfyName("CLIPTextEncodeFlux")):
    """Encode a prompt for a FLUX network, with words of its own for each of its text encoders."""

    clip: Clip = Field(description="FLUX's text encoders.")
    clip_l: Prompt = Field(description="What to paint in a few words, for CLIP-L, which sums it up.")
    t5xxl: Prompt = Field(description="What to paint in sentences, for T5.")
    guidance: float = Field(3.5, ge=0, le=100, description="How strongly FLUX dev follows the prompt.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import set_guidance

        prompts: dict[EncoderKey, str] = {"clip_l": self.clip_l, "t5xxl": self.t5xxl}
        return set_guidance(_encode(ctx, self.clip, prompts), self.guidance)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        _check_family(known, "flux")
        check_embeddings(known, "t5xxl")
        return {"conditioning": some(known.facts("clip"), TEXT)}


class TextEncodeSD3(Node, version=1, lane="device", comfy=ComfyName("CLIPTextEncodeSD3")):
    """Encode a prompt for an SD3 network, with words of its own for each of its text encoders.

    Words for an encoder that is not there are passed over.
    """

    clip: Clip = Field(description="SD3's text encoders.")
    clip_l: Prompt = Field(description="What to paint, for CLIP-L.")
    clip_g: Prompt = Field(description="What to paint, for CLIP-G.")
    t5xxl: Prompt = Field(description="What to paint in sentences, for T5.")
    empty_padding: EmptyPrompt = Field(
        "none", description="What an encoder without words says: nothing, or what it makes of an empty prompt."
    )

    def run(self, ctx: Context) -> Conditioning:
        prompts: dict[EncoderKey, str] = {"clip_l": self.clip_l, "clip_g": self.clip_g, "t5xxl": self.t5xxl}
        return _encode(ctx, self.clip, prompts, skip_empty=self.empty_padding == "none")

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        _check_family(known, "sd3")
        check_embeddings(known, "t5xxl")
        return {"conditioning": some(known.facts("clip"), TEXT)}


def _encode(ctx: Context, clip: Clip, prompts: dict[EncoderKey, str], *, skip_empty: bool = False) -> Conditioning:
    from latentgraph.diffusion.text.embeddings import vector_finder
    from latentgraph.diffusion.text.encoding import encode_prompts

    encoded = encode_prompts(clip, prompts, find_vectors=vector_finder(ctx.text_files), skip_empty=skip_empty)
    warn_of_missing(ctx, encoded.missing)
    return encoded.conditioning


def _open(ctx: Context, paths: Sequence[Path], family: TextFamily, precision: PrecisionChoice) -> Clip:
    from latentgraph.diffusion.checkpoints.opening import in_precision, open_text
    from latentgraph.diffusion.networks.memory import WeightMemory

    opened = open_text(paths, ctx.resource(WeightMemory), family=family, tokenizers=ctx.companions or None)
    return in_precision(opened, precision)


def _infer(known: Known, names: Iterable[str]) -> OutputFacts:
    """What is known of the encoders in the files of the inputs `names`; a tokenizer that is not there is an error."""
    paths = {name: path for name in names if (path := known.file(name)) is not None}
    family = known.value("family")
    if not paths or family is None:
        return {}
    found: TextDescription = read_header(
        lambda _: describe_text(list(paths.values()), family), next(iter(paths.values()))
    )
    for source in found.sources:
        if needs_tokenizer(source.key) and source.key not in known.companions:
            raise LatentGraphError(f"{source.path}: {missing_tokenizer(source.key, source.path)}")
    return {"clip": clip_facts(found.spec)}


def _check_family(known: Known, family: str) -> None:
    clip: ClipSpec | None = known.fact("clip", "spec")
    if clip is not None and clip.family != family:
        keys = " and ".join(encoder.key for encoder in clip.encoders)
        known.problem("clip", f"has {keys}, of the {clip.family} family, not those of {family}; use TextEncode")
