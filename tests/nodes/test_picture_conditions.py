"""Conditions that carry a picture."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from latentgraph.diffusion.types import Conditioning, Image, Mask, PictureSize
from latentgraph.graph import Context
from latentgraph.nodes.autoencoders import VAEDecode, VAEEncode
from latentgraph.nodes.latents import EmptyLatent
from latentgraph.nodes.loading import LoadCheckpoint, LoadUnclipCheckpoint
from latentgraph.nodes.picture_conditions import (
    DepthConditioning,
    InpaintConditioning,
    InstructPixToPixConditioning,
    UnclipConditioning,
    UpscaleConditioning,
)
from latentgraph.nodes.sampling import KSampler
from latentgraph.nodes.text import TextEncode, TextEncodeSDXLRefiner
from latentgraph.nodes.unprompted import EmptyConditioning, SegmentConditioning
from latentgraph.nodes.vision import EncodeClipVision


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


def test_variations_depend_on_the_picture_and_on_how_much_noise_is_mixed_in(
    tiny: ModuleType, tmp_path: Path, context: Context
) -> None:
    path = tiny.write(tmp_path / "unclip.safetensors", tiny.unclip_tensors())
    loaded = LoadUnclipCheckpoint(file=path).run(context)
    assert loaded.clip is not None
    nothing = TextEncode(clip=loaded.clip, text="").run(context)
    picture = Image(torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(0)))

    def varied(picture: Image, **options: float) -> torch.Tensor:
        look = EncodeClipVision(clip_vision=loaded.clip_vision, image=picture).run(context)
        shown = UnclipConditioning(conditioning=nothing, pictures=look, **options).run(context)
        latent = EmptyLatent(width=64, height=64).run(context)
        node = KSampler(model=loaded.model, positive=shown, negative=nothing, latent=latent, steps=2)
        return node.run(context).samples

    first = varied(picture)
    assert torch.equal(first, varied(picture))
    assert not torch.equal(first, varied(Image(1.0 - picture.pixels)))
    assert not torch.equal(first, varied(picture, noise=0.5))
    assert not torch.equal(first, varied(picture, strength=0.5))


def test_the_refiner_is_told_how_beautiful_a_picture_is_to_be(
    tiny: ModuleType, tmp_path: Path, context: Context
) -> None:
    loaded = LoadCheckpoint(file=tiny.write(tmp_path / "refiner.safetensors", tiny.refiner_tensors())).run(context)
    assert loaded.clip is not None
    plain = TextEncode(clip=loaded.clip, text="a cat").run(context)
    told = TextEncodeSDXLRefiner(clip=loaded.clip, text="a cat", score=9.0, width=832, height=1216).run(context)
    assert told.entries[0].size == PictureSize(height=1216, width=832, aesthetic_score=9.0)
    assert torch.equal(told.entries[0].embedding, plain.entries[0].embedding)
    latent = EmptyLatent(width=64, height=64).run(context)

    def painted(positive: Conditioning) -> torch.Tensor:
        node = KSampler(model=loaded.model, positive=positive, negative=plain, latent=latent, steps=2)
        return node.run(context).samples

    assert not torch.equal(painted(told), painted(plain))


@pytest.mark.parametrize(("factor", "size"), [(4.0, (64, 48)), (2.0, (32, 24)), (0.0, (4, 4))])
def test_a_picture_is_enlarged_by_a_factor(
    factor: float, size: tuple[int, int], tiny: ModuleType, tmp_path: Path, context: Context
) -> None:
    loaded = LoadCheckpoint(file=tiny.write(tmp_path / "x4.safetensors", tiny.x4_tensors())).run(context)
    assert loaded.clip is not None
    assert loaded.vae is not None
    nothing = TextEncode(clip=loaded.clip, text="").run(context)
    picture = Image(torch.rand(2, 12, 16, 4, generator=torch.Generator().manual_seed(0)))

    def larger(picture: Image, noise: float = 0.0) -> torch.Tensor:
        told = UpscaleConditioning(positive=nothing, negative=nothing, image=picture, factor=factor, noise=noise)
        shown = told.run(context)
        inputs: dict[str, Any] = {"positive": shown.positive, "negative": shown.negative, "latent": shown.latent}
        latent = KSampler(model=loaded.model, steps=2, **inputs).run(context)
        return VAEDecode(vae=loaded.vae, latent=latent).run(context).pixels

    first = larger(picture)
    assert first.shape == (2, size[1], size[0], 3)
    assert torch.equal(first, larger(picture))
    assert not torch.equal(first, larger(Image(1.0 - picture.pixels)))
    assert not torch.equal(first, larger(picture, noise=0.3))


def test_latent_diffusion_enlarges_a_picture_through_nodes(tiny: ModuleType, tmp_path: Path, context: Context) -> None:
    path = tiny.write(tmp_path / "superres.safetensors", tiny.ldm_tensors(tiny.LDM_SUPERRES))
    loaded = LoadCheckpoint(file=path).run(context)
    nothing = EmptyConditioning(model=loaded.model).run(context)

    def larger(picture: Image) -> torch.Tensor:
        shown = UpscaleConditioning(positive=nothing, negative=nothing, image=picture).run(context)
        inputs: dict[str, Any] = {"positive": shown.positive, "negative": shown.negative, "latent": shown.latent}
        latent = KSampler(model=loaded.model, steps=2, cfg=1.0, sampler="ddim", **inputs).run(context)
        return VAEDecode(vae=loaded.vae, latent=latent).run(context).pixels

    picture = Image(torch.rand(1, 12, 16, 3, generator=torch.Generator().manual_seed(0)))
    first = larger(picture)
    assert first.shape == (1, 48, 64, 3)
    assert not torch.equal(first, larger(Image(1.0 - picture.pixels)))


def test_latent_diffusion_inpaints_a_picture_through_nodes(tiny: ModuleType, tmp_path: Path, context: Context) -> None:
    path = tiny.write(tmp_path / "inpaint.safetensors", tiny.ldm_tensors(tiny.LDM_INPAINT))
    loaded = LoadCheckpoint(file=path).run(context)
    nothing = EmptyConditioning(model=loaded.model).run(context)
    values = torch.zeros(1, 48, 64)
    values[:, 8:32, 16:40] = 1.0

    def painted(picture: Image) -> torch.Tensor:
        told = InpaintConditioning(
            positive=nothing, negative=nothing, vae=loaded.vae, image=picture, mask=Mask(values), fill="black"
        ).run(context)
        inputs: dict[str, Any] = {"positive": told.positive, "negative": told.negative, "latent": told.latent}
        latent = KSampler(model=loaded.model, steps=2, cfg=1.0, sampler="ddim", **inputs).run(context).samples
        kept = torch.nn.functional.interpolate(values[:, None], size=(12, 16)) == 0
        assert torch.allclose(latent[kept.expand_as(latent)], told.latent.samples[kept.expand_as(latent)], atol=1e-5)
        return latent[..., 2:8, 4:10]

    picture = Image(torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(0)))
    first = painted(picture)
    assert first.shape == (1, 3, 6, 6)
    assert not torch.equal(painted(Image(1.0 - picture.pixels)), first)


def test_a_picture_of_classes_is_painted_through_nodes(tiny: ModuleType, tmp_path: Path, context: Context) -> None:
    loaded = LoadCheckpoint(file=tiny.write(tmp_path / "segments.safetensors", tiny.segment_tensors())).run(context)
    assert loaded.clip is not None
    numbers = torch.arange(48)[:, None].expand(48, 64) // 16

    def painted(numbers: torch.Tensor) -> torch.Tensor:
        segments = Image((numbers / 255)[None, ..., None].expand(-1, -1, -1, 3))
        told = SegmentConditioning(clip=loaded.clip, segments=segments).run(context)
        inputs: dict[str, Any] = {"positive": told.conditioning, "negative": told.conditioning, "latent": told.latent}
        latent = KSampler(model=loaded.model, steps=2, cfg=1.0, sampler="ddim", **inputs).run(context)
        return VAEDecode(vae=loaded.vae, latent=latent).run(context).pixels

    first = painted(numbers)
    assert first.shape == (1, 48, 64, 3)
    assert not torch.equal(first, painted(numbers + 1))


def test_what_is_nearer_moves_a_picture_of_a_depth_model(tiny: ModuleType, tmp_path: Path, context: Context) -> None:
    loaded = LoadCheckpoint(file=tiny.write_sd2(tmp_path / "depth.safetensors", in_channels=5)).run(context)
    assert loaded.clip is not None
    nothing = TextEncode(clip=loaded.clip, text="").run(context)
    ramp = Image(torch.linspace(0, 1, 64).reshape(1, 1, 64, 1).expand(1, 64, 64, 3))

    def painted(depth: Image) -> torch.Tensor:
        told = DepthConditioning(positive=nothing, negative=nothing, depth=depth).run(context)
        latent = EmptyLatent(width=64, height=64).run(context)
        node = KSampler(model=loaded.model, positive=told.positive, negative=told.negative, latent=latent, steps=2)
        return node.run(context).samples

    assert torch.allclose(painted(ramp), painted(Image(ramp.pixels / 2)), atol=1e-3)  # only proportions count
    assert not torch.allclose(painted(ramp), painted(Image(1.0 - ramp.pixels)), atol=1e-2)
