"""The nodes of latentgraph: thin typed adapters from the graph to the numerics.

How to write a node
-------------------
A node is a class. Its fields are its inputs, what `run` returns are its outputs, its docstring is its documentation::

    class InvertMask(Node, version=1, comfy=ComfyName("InvertMask")):
        \"""Swap what a mask keeps and what it changes.\"""

        mask: Mask = Field(description="The mask.")

        def run(self, ctx: Context) -> Mask:
            from latentgraph.diffusion.pictures.masks import invert_mask

            return invert_mask(self.mask)

- The name says what the node does or gives, in the field's plain words; the same word is the `type` in a document.
- Every input has a description, and a literal its range. A value class (`Mask`) is linked; a file is
  `Annotated[Path, FileInput(kind)]`. Several outputs are the fields of a NamedTuple.
- `run` is a call or two into `latentgraph.diffusion`. Numerics live there, and are tested there.
- A module here loads no torch, so that documents are checked in a moment: import numerics inside `run`. What is light
  (types, names, sizes, headers) may be imported at the top.
- `version` rises when equal inputs give a new result; old cached results are then not used.
- `lane`: "device" if a network runs (its results then depend on the numeric environment), "io" for files, else "cpu".
- A node changes no input, reads no clock, environment or global random state, and keeps nothing between runs. Whatever
  it sees of the world comes from `ctx`; whatever is random comes from a seed. It calls `ctx.progress` at every step, tile
  or picture, which is also where a cancelled run stops. A node that saves or sends something says `effect=True`.
- `infer` says what is known of the outputs before a run, and reports what can't go together: see `facts`. A mistake that a
  header or a size shows must never cost someone a run.
- `comfy` states ComfyUI's name of the node and of inputs that are called otherwise there.

`default_registry` has every node class that a module of `MENU` defines. Test yours as a value:
`InvertMask(mask=mask).run(Context())`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType

from latentgraph.graph import Node, Registry

from . import (
    adapters,
    autoencoders,
    conditionings,
    control,
    custom_sampling,
    flux,
    guidance,
    image_prompts,
    images,
    latent_edits,
    latents,
    loading,
    masks,
    measuring,
    merging,
    model_options,
    picture_batches,
    picture_conditions,
    picture_edits,
    samplers,
    sampling,
    saving,
    schedules,
    sigmas,
    text,
    text_encoders,
    unprompted,
    upscaling,
    vision,
)

__all__ = ["default_registry", "node_groups"]

MENU: Mapping[str, tuple[ModuleType, ...]] = {
    "Models": (loading,),
    "LoRA and its kin": (adapters,),
    "Mixtures of models": (merging, saving),
    "Prompts": (text, conditionings, text_encoders, unprompted),
    "FLUX": (flux,),
    "Pictures to go by": (vision, control, picture_conditions, image_prompts),
    "Autoencoders": (autoencoders,),
    "Latents": (latents, latent_edits),
    "Sampling": (sampling, custom_sampling),
    "Samplers": (samplers,),
    "Noise levels": (schedules, sigmas),
    "Options of a model": (model_options, guidance),
    "Pictures": (images, picture_edits, picture_batches, upscaling),
    "Masks": (masks,),
    "Measures": (measuring,),
}
"""The modules that define nodes, by what people look for."""


def node_groups() -> dict[str, tuple[type[Node], ...]]:
    """Returns the nodes that come with latentgraph by the headings of a menu."""
    return {
        heading: tuple(cls for module in modules for cls in _node_classes(module)) for heading, modules in MENU.items()
    }


def default_registry() -> Registry:
    """Returns the nodes that come with latentgraph, in the order of a menu."""
    return Registry(cls for classes in node_groups().values() for cls in classes)


def _node_classes(module: ModuleType) -> Iterator[type[Node]]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Node) and value.__module__ == module.__name__:
            yield value
