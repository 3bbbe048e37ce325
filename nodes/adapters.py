"""Nodes that lay adapters (LoRA and its kin) on networks. They give light handles: nothing is patched before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from latentgraph.diffusion.adapters.files import fit, read_adapter, refusal
from latentgraph.diffusion.adapters.places import NetworkSpec
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.types import Clip
from latentgraph.graph import ComfyName, Context, FileInput, Known, Node, OutputFacts

from .facts import read_header

LoraFile = Annotated[Path, FileInput("lora")]
MAX_STRENGTH = 100


class PatchedPair(NamedTuple):
    """A denoising network and its text encoders, both with the adapter on them."""

    model: Model
    clip: Clip


class LoadLora(
    Node,
    version=1,
    lane="io",
    cached=False,
    comfy=ComfyName(
        "LoraLoader", {"file": "lora_name", "model_strength": "strength_model", "clip_strength": "strength_clip"}
    ),
):
    """Lay an adapter on a network and its text encoders: a LoRA, LoHa, LoKr, DoRA, GLoRA, OFT or full differences.

    The checkpoint's own weights stay as they are and are shared. Adapters are laid on one after the other by linking nodes.
    """

    model: Model = Field(description="The denoising network.")
    clip: Clip = Field(description="The text encoders of its checkpoint.")
    file: LoraFile = Field(description="An adapter's name or path.")
    model_strength: float = Field(
        1.0, ge=-MAX_STRENGTH, le=MAX_STRENGTH, description="How strongly the network is changed; 0 not at all."
    )
    clip_strength: float = Field(
        1.0, ge=-MAX_STRENGTH, le=MAX_STRENGTH, description="How strongly the text encoders are changed; 0 not at all."
    )

    def run(self, ctx: Context) -> PatchedPair:
        from latentgraph.diffusion.networks.variants import adapt

        model = adapt(self.model, self.file, strength=self.model_strength)
        clip = adapt(self.clip, self.file, strength=self.clip_strength)
        _warn_of_unused(ctx, self.file, model.unused + clip.unused)
        return PatchedPair(model.handle, clip.handle)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        _check(known, {"model": "model_strength", "clip": "clip_strength"})
        return {"model": known.facts("model"), "clip": known.facts("clip")}


class LoadLoraModelOnly(
    Node,
    version=1,
    lane="io",
    cached=False,
    comfy=ComfyName("LoraLoaderModelOnly", {"file": "lora_name", "strength": "strength_model"}),
):
    """Lay an adapter on a network alone, and leave the text encoders as they are."""

    model: Model = Field(description="The denoising network.")
    file: LoraFile = Field(description="An adapter's name or path.")
    strength: float = Field(
        1.0, ge=-MAX_STRENGTH, le=MAX_STRENGTH, description="How strongly the network is changed; 0 not at all."
    )

    def run(self, ctx: Context) -> Model:
        from latentgraph.diffusion.networks.variants import adapt

        adapted = adapt(self.model, self.file, strength=self.strength)
        _warn_of_unused(ctx, self.file, adapted.unused)
        return adapted.handle

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        _check(known, {"model": "strength"})
        return {"model": known.facts("model")}


def _check(known: Known, strengths: dict[str, str]) -> None:
    """Reports an adapter that is not one for what it is laid on. strengths: by input of a network, that of its strength."""
    path = known.file("file")
    if path is None:
        return
    adapter = read_header(read_adapter, path)
    specs = {name: network_of(known, name) for name in strengths}
    if None not in specs.values() and not any(adapter.concerns(spec) for spec in specs.values() if spec):
        parts = " and ".join(map(repr, specs))
        known.problem(
            "file", f"is {adapter.title} that changes nothing in input {parts}; it is for text encoders alone"
        )
    for name, spec in specs.items():
        if spec is None or known.value(strengths[name]) == 0:
            continue
        wrong = refusal(adapter, fit(adapter, spec), what=f"input {name!r}", family=str(known.fact(name, "family")))
        if wrong is not None:
            known.problem("file", wrong)
            return


def network_of(known: Known, name: str, *, kind: str | None = None) -> NetworkSpec | None:
    """Returns the structure of what is linked to an input, if it is known. kind: "model" or "clip", the name if None."""
    spec = known.fact(name, "spec")
    return spec.network if (kind or name) == "model" and spec is not None else spec


def _warn_of_unused(ctx: Context, file: Path, unused: tuple[str, ...]) -> None:
    if unused:
        are = "1 module" if len(unused) == 1 else f"{len(unused)} modules"
        ctx.warn(f"{are} of {file.name} had no place in the network and stayed unused, such as {unused[0]}")
    if names := read_adapter(file).embeddings:
        ctx.warn(f"the embeddings in {file.name} are not used ({', '.join(names)}); put each into a file of its own")
