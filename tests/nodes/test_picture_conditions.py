"""Conditions that carry a picture."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from latentgraph.diffusion.types import Image
from latentgraph.graph import Context
from latentgraph.nodes.latents import VAEEncode
from latentgraph.nodes.loading import LoadCheckpoint
from latentgraph.nodes.picture_conditions import InstructPixToPixConditioning
from latentgraph.nodes.sampling import KSampler
from latentgraph.nodes.text import TextEncode


def test_an_edited_picture_depends_on_the_picture_and_the_instruction(
    tiny: ModuleType, tmp_path: Path, context: Context
) -> None:
    model = LoadCheckpoint(file=tiny.write_sd1(tmp_path / "instruct.safetensors", in_channels=8)).run(context)
    assert model.clip is not None
    picture = Image(torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(0)))
    nothing = TextEncode(clip=model.clip, text="").run(context)

    def edited(picture: Image, instruction: str) -> torch.Tensor:
        positive = TextEncode(clip=model.clip, text=instruction).run(context)
        told = InstructPixToPixConditioning(positive=positive, negative=nothing, vae=model.vae, image=picture).run(
            context
        )
        assert told.latent.samples.shape == (1, 4, 6, 8)
        assert not told.latent.samples.any()
        assert torch.equal(
            told.positive.entries[0].concat_latent, VAEEncode(vae=model.vae, image=picture).run(context).samples
        )
        inputs: dict[str, Any] = {"positive": told.positive, "negative": told.negative, "latent": told.latent}
        return KSampler(model=model.model, steps=2, **inputs).run(context).samples

    first = edited(picture, "make it night")
    assert torch.equal(first, edited(picture, "make it night"))
    assert not torch.equal(first, edited(picture, "make it day"))
    assert not torch.equal(first, edited(Image(1.0 - picture.pixels), "make it night"))
