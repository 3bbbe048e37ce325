"""Prompts, and conditions told where and when to hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from latentgraph.diffusion.types import Area, Condition, Conditioning, Mask, PictureSize
from latentgraph.graph import Context
from latentgraph.nodes.conditionings import (
    ConditioningArea,
    ConditioningAreaFraction,
    ConditioningAverage,
    ConditioningCombine,
    ConditioningConcat,
    ConditioningMask,
    ConditioningRange,
    ConditioningSize,
    ConditioningStrength,
    ConditioningZeroOut,
)
from latentgraph.nodes.loading import LoadCheckpoint
from latentgraph.nodes.text import ClipSkip, TextEncode, TextEncodeSDXL

CAT = Conditioning((Condition(torch.full((1, 4, 3), 2.0), pooled=torch.full((1, 3), 2.0)),))
DOG = Conditioning((Condition(torch.full((1, 2, 3), 6.0), pooled=torch.full((1, 3), 6.0)),))
CTX = Context()


def only(conditioning: Conditioning) -> Condition:
    (entry,) = conditioning.entries
    return entry


def test_a_prompt_becomes_one_condition_as_wide_as_the_encoder(sd1: Any, context: Context) -> None:
    entry = only(TextEncode(clip=sd1.clip, text="a cat").run(context))
    assert entry.embedding.shape == (1, 77, 64)


def test_an_embedding_that_is_not_there_is_a_warning(sd1: Any, watched: Any) -> None:
    ctx = watched()
    TextEncode(clip=sd1.clip, text="a cat, embedding:nowhere").run(ctx)
    assert len(ctx.warnings) == 1
    assert "nowhere" in ctx.warnings[0]


def test_an_embedding_stands_for_its_vectors(sd1: Any, tmp_path: Path) -> None:
    with sd1.clip.weights.use() as encoders:
        word = encoders["clip_l"].get_input_embeddings().weight[2368].detach().cpu().clone()  # "cat"
    save_file({"emb_params": word}, tmp_path / "tv.safetensors")
    ctx = Context(text_files={"tv": tmp_path / "tv.safetensors"})
    embedded = only(TextEncode(clip=sd1.clip, text="a embedding:tv").run(ctx)).embedding
    assert torch.equal(embedded, only(TextEncode(clip=sd1.clip, text="a cat").run(CTX)).embedding)


@pytest.fixture(scope="module")
def sdxl(tiny_sdxl: Path, context: Context) -> Any:
    return LoadCheckpoint(file=tiny_sdxl).run(context)


def test_each_of_sdxls_encoders_can_have_words_of_its_own(sdxl: Any, context: Context) -> None:
    entry = only(TextEncodeSDXL(clip=sdxl.clip, text_g="a cat", text_l="a dog", width=512, crop_y=8).run(context))
    cat, dog = (only(TextEncode(clip=sdxl.clip, text=text).run(context)) for text in ("a cat", "a dog"))
    assert torch.equal(entry.embedding[..., :64], dog.embedding[..., :64])
    assert torch.equal(entry.embedding[..., 64:], cat.embedding[..., 64:])
    assert entry.pooled is not None
    assert cat.pooled is not None
    assert torch.equal(entry.pooled, cat.pooled)
    assert entry.size == PictureSize(height=1024, width=512, crop_y=8, target_height=1024, target_width=1024)


def test_the_shorter_of_two_prompts_is_filled_up_with_empty_chunks(sdxl: Any, context: Context) -> None:
    entry = only(TextEncodeSDXL(clip=sdxl.clip, text_g="cat " * 80, text_l="a dog").run(context))
    dog, empty = (only(TextEncode(clip=sdxl.clip, text=text).run(context)) for text in ("a dog", ""))
    assert entry.embedding.shape == (1, 154, 128)
    torch.testing.assert_close(entry.embedding[:, :77, :64], dog.embedding[..., :64])
    torch.testing.assert_close(entry.embedding[:, 77:, :64], empty.embedding[..., :64])


def test_a_conditioning_can_be_weighed() -> None:
    assert only(ConditioningStrength(conditioning=CAT, strength=3.0).run(CTX)).strength == 3.0


def test_clip_skip_reads_another_layer(sd1: Any, context: Context) -> None:
    skipped = ClipSkip(clip=sd1.clip, layer=-2).run(context)
    last = only(TextEncode(clip=sd1.clip, text="a cat").run(context)).embedding
    assert not torch.equal(only(TextEncode(clip=skipped, text="a cat").run(context)).embedding, last)


def test_combined_conditions_stay_apart() -> None:
    assert ConditioningCombine(first=CAT, second=DOG).run(CTX).entries == (*CAT.entries, *DOG.entries)


def test_concatenated_tokens_follow_one_another() -> None:
    entry = only(ConditioningConcat(conditioning=CAT, following=DOG).run(CTX))
    assert entry.embedding[0, :, 0].tolist() == [2, 2, 2, 2, 6, 6]


@pytest.mark.parametrize(("weight", "first", "pooled"), [(1.0, 2.0, 2.0), (0.25, 5.0, 5.0), (0.0, 6.0, 6.0)])
def test_an_average_lies_between_two_prompts(weight: float, first: float, pooled: float) -> None:
    entry = only(ConditioningAverage(conditioning=CAT, other=DOG, weight=weight).run(CTX))
    assert entry.embedding[0, :, 0].tolist() == [first, first, 2 * weight, 2 * weight]  # the rest meets zeros
    assert entry.pooled is not None
    assert entry.pooled[0, 0] == pooled


def test_an_average_without_a_pooled_vector_takes_the_others() -> None:
    plain = Conditioning((Condition(torch.zeros(1, 2, 3)),))
    entry = only(ConditioningAverage(conditioning=plain, other=DOG, weight=0.5).run(CTX))
    assert entry.pooled is DOG.entries[0].pooled


def test_a_blank_condition_says_nothing() -> None:
    entry = only(ConditioningZeroOut(conditioning=CAT).run(CTX))
    assert entry.pooled is not None
    assert not entry.embedding.any()
    assert not entry.pooled.any()


def test_an_area_is_rounded_down_to_latent_cells() -> None:
    entry = only(ConditioningArea(conditioning=CAT, width=128, height=64, x=16, y=8, strength=0.5).run(CTX))
    assert (entry.area, entry.strength) == (Area(height=8, width=16, y=1, x=2), 0.5)


def test_an_area_can_be_a_fraction_of_the_picture() -> None:
    entry = only(ConditioningAreaFraction(conditioning=CAT, width=0.5, height=0.25, x=0.1, y=0.2).run(CTX))
    assert entry.area == Area(height=0.25, width=0.5, y=0.2, x=0.1, unit="fraction")


def test_a_mask_limits_a_condition() -> None:
    mask = Mask(torch.ones(1, 4, 4))
    entry = only(ConditioningMask(conditioning=CAT, mask=mask, strength=0.5, bounds=True).run(CTX))
    assert entry.mask is mask.values
    assert (entry.mask_strength, entry.mask_bounds) == (0.5, True)


def test_a_range_limits_a_condition() -> None:
    entry = only(ConditioningRange(conditioning=CAT, start=0.25, end=0.75).run(CTX))
    assert (entry.start, entry.end) == (0.25, 0.75)


def test_sdxl_is_told_sizes() -> None:
    node = ConditioningSize(conditioning=CAT, width=1, height=2, crop_x=3, crop_y=4, target_width=5, target_height=6)
    size = PictureSize(width=1, height=2, crop_x=3, crop_y=4, target_width=5, target_height=6)
    assert only(node.run(CTX)).size == size
