"""Mistakes that headers and sizes show are found before a run, and what is foretold of a value is true."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import save_file

from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.types import Image, Latent, Mask
from latentgraph.graph import (
    Fingerprints,
    Graph,
    InvalidWorkflow,
    NoCache,
    PlainCodec,
    Scheduler,
    build_graph,
    cache_keys,
    make_plan,
    parse_document,
)
from latentgraph.graph.dag import Link
from latentgraph.nodes import default_registry
from latentgraph.nodes.codec import TensorCodec


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType) -> Path:
    """Pictures by their size, and files that are wrong."""
    folder = tmp_path_factory.mktemp("files")
    for width, height in ((64, 48), (67, 45), (67, 50), (128, 128), (8, 6), (32, 32)):
        Pillow.new("RGBA", (width, height), (200, 40, 40, 255)).save(folder / f"{width}x{height}.png")
    (folder / "notes.png").write_text("no picture")
    (folder / "model.safetensors").write_text("no model")
    vae = {f"first_stage_model.{key}": w for key, w in tiny.fill(tiny.vae_shapes(latent=16)).items()}
    tiny.write(folder / "vae16.safetensors", vae)
    for half in ("decoder", "encoder"):
        tiny.write(folder / f"taesd_{half}.safetensors", tiny.fill(tiny.tiny_vae_shapes(half)))
    tiny.write_sd1(folder / "instruct.safetensors", in_channels=8)
    tiny.write(folder / "unclip.safetensors", tiny.unclip_tensors())
    vision = {f"visual.{key}": w for key, w in tiny.fill(tiny.open_clip_vision_shapes(projection=32)).items()}
    tiny.write(folder / "vision.safetensors", vision)
    tiny.write(folder / "things.safetensors", tiny.classes_tensors())
    plain = {tiny.UNET + key: w for key, w in tiny.fill(tiny.plain_unet_shapes()).items()}
    codes = {tiny.VAE + key: w for key, w in tiny.fill(tiny.vae_shapes(mult=(1, 1, 1), latent=3, codes=16)).items()}
    tiny.write(folder / "faces.safetensors", plain | codes)
    tiny.write(folder / "ldm_inpaint.safetensors", tiny.ldm_tensors(tiny.LDM_INPAINT))
    tiny.write(folder / "ldm_segments.safetensors", tiny.segment_tensors())
    tiny.write(folder / "ldm_superres.safetensors", tiny.ldm_tensors(tiny.LDM_SUPERRES))
    tiny.write(folder / "consistency.safetensors", tiny.fill(tiny.consistency_shapes()))
    return folder


def build(nodes: str, **names: Path) -> Graph:
    """Returns the graph of these nodes; names in angle brackets stand for paths, and `last` is the output."""
    for name, path in names.items():
        nodes = nodes.replace(f"<{name}>", str(path))
    document = parse_document(f"latentgraph: 1\nnodes:\n{nodes}\noutputs: {{last: $last}}\n")
    return build_graph(document, default_registry())


def problem(nodes: str, **names: Path) -> str:
    with pytest.raises(InvalidWorkflow) as caught:
        build(nodes, **names)
    errors = [problem for problem in caught.value.problems if problem.severity == "error"]
    assert len(errors) == 1, str(caught.value)
    assert errors[0].place.mark is not None
    return errors[0].message


SAMPLE = """
  load: {type: LoadCheckpoint, file: <model>}
  other: {type: LoadCheckpoint, file: <other>}
  good: {type: TextEncode, clip: $load.clip, text: ""}
  text: {type: TextEncode, clip: $other.clip, text: a cat}
  source: {type: LoadImage, file: <files>/64x48.png}
  empty: {type: EmptyLatent, width: 64, height: 48}
"""

AUTOENCODERS = """
  decoder: {type: LoadTinyVAE, decoder: <files>/taesd_decoder.safetensors, family: sd1}
  tiny_vae:
    type: LoadTinyVAE
    decoder: <files>/taesd_decoder.safetensors
    encoder: <files>/taesd_encoder.safetensors
    family: sdxl
  tiny_xl: {type: VAEEncode, vae: $tiny_vae, image: $source.image}
  consistency: {type: LoadVAE, file: <files>/consistency.safetensors}
"""


def test_text_of_one_family_is_refused_for_the_model_of_another(tiny_sd1: Path, tiny_sdxl: Path, files: Path) -> None:
    nodes = SAMPLE + "  last: {type: KSampler, model: $load.model, positive: $text, negative: $good, latent: $empty}"
    message = problem(nodes, model=tiny_sd1, other=tiny_sdxl, files=files)
    assert "'positive'" in message
    assert "sdxl family (128 numbers a token)" in message
    assert "sd1 family, which takes 64" in message


def test_both_prompts_are_checked(tiny_sd1: Path, tiny_sdxl: Path, files: Path) -> None:
    nodes = SAMPLE + "  last: {type: KSampler, model: $load.model, positive: $good, negative: $text, latent: $empty}"
    assert "'negative'" in problem(nodes, model=tiny_sd1, other=tiny_sdxl, files=files)


def test_a_latent_of_another_scale_is_refused_by_the_model(tiny_sd1: Path, tiny_sdxl: Path, files: Path) -> None:
    nodes = SAMPLE + (
        "  encode: {type: VAEEncode, vae: $other.vae, image: $source.image}\n"
        "  last: {type: KSampler, model: $load.model, positive: $good, negative: $good, latent: $encode}"
    )
    message = problem(nodes, model=tiny_sd1, other=tiny_sdxl, files=files)
    assert "'latent' is a latent of the sdxl family with 0.13025 as its scale" in message
    assert "'model' of the sd1 family takes 0.18215" in message


def test_what_was_sampled_is_refused_by_the_vae_of_another_family(tiny_sd1: Path, tiny_sdxl: Path, files: Path) -> None:
    nodes = SAMPLE + (
        "  sample: {type: KSampler, model: $load.model, positive: $good, negative: $good, latent: $empty}\n"
        "  last: {type: VAEDecode, vae: $other.vae, latent: $sample}"
    )
    assert "0.18215" in problem(nodes, model=tiny_sd1, other=tiny_sdxl, files=files)


def test_a_latent_with_other_channels_is_refused(tiny_sd1: Path, files: Path) -> None:
    nodes = SAMPLE + (
        "  vae16: {type: LoadVAE, file: <files>/vae16.safetensors}\n"
        "  encode: {type: VAEEncode, vae: $vae16, image: $source.image}\n"
        "  last: {type: KSampler, model: $load.model, positive: $good, negative: $text, latent: $encode}"
    )
    message = problem(nodes, model=tiny_sd1, other=tiny_sd1, files=files)
    assert "a latent with 16 channels" in message
    assert "takes 4" in message


def test_families_that_share_their_latents_go_together(tiny_sd1: Path, tiny_sd2: Path, files: Path) -> None:
    nodes = SAMPLE + (
        "  encode: {type: VAEEncode, vae: $other.vae, image: $source.image}\n"
        "  last: {type: KSampler, model: $load.model, positive: $good, negative: $good, latent: $encode}"
    )
    assert build(nodes, model=tiny_sd1, other=tiny_sd2, files=files).nodes["last"].facts["latent"]["family"] == "sd1"


def test_a_checkpoint_without_text_encoder_is_an_error_only_where_its_clip_is_used(reference_tiny: Path) -> None:
    load = "  load: {type: LoadCheckpoint, file: <model>}\n"
    empty = "  empty: {type: EmptyLatent}\n"
    build(load + empty + "  last: {type: VAEDecode, vae: $load.vae, latent: $empty}", model=reference_tiny)
    message = problem(load + "  last: {type: TextEncode, clip: $load.clip, text: a cat}", model=reference_tiny)
    assert "'clip': load.clip has no value, because reference.safetensors has no text encoder" in message


@pytest.mark.parametrize(
    ("kind", "file"),
    [("LoadCheckpoint", "model.safetensors"), ("LoadVAE", "model.safetensors"), ("LoadImage", "notes.png")],
)
def test_a_file_of_another_kind_is_refused_by_name(kind: str, file: str, files: Path) -> None:
    nodes = f"  load: {{type: {kind}, file: <files>/{file}}}\n  last: {{type: SolidMask}}\n"
    assert file in problem(nodes, files=files)


MASKS = {
    "VAEEncode": "{type: VAEEncode, vae: $load.vae, image: $small.image, mask: $large.mask}",
    "InpaintConditioning": (
        "{type: InpaintConditioning, positive: $text, negative: $text, vae: $load.vae, "
        "image: $small.image, mask: $large.mask}"
    ),
    "CompositeMasked": "{type: CompositeMasked, destination: $large.image, source: $small.image, mask: $large.mask}",
    "stretched": (
        "{type: CompositeMasked, destination: $large.image, source: $small.image, mask: $small.mask, "
        "resize_source: true}"
    ),
}


@pytest.mark.parametrize("node", MASKS.values(), ids=MASKS)
def test_a_mask_of_another_size_than_its_picture_is_refused(node: str, tiny_sd1: Path, files: Path) -> None:
    nodes = (
        "  load: {type: LoadCheckpoint, file: <model>}\n"
        '  text: {type: TextEncode, clip: $load.clip, text: ""}\n'
        "  small: {type: LoadImage, file: <files>/64x48.png}\n"
        "  large: {type: LoadImage, file: <files>/128x128.png}\n"
        f"  masked: {node}\n"
        "  last: {type: SolidMask}"
    )
    message = problem(nodes, model=tiny_sd1, files=files)
    assert "'mask' is " in message
    assert "128x128" in message
    assert "64x48" in message


@pytest.mark.parametrize(("file", "fits"), [("64x48.png", True), ("8x6.png", True), ("32x32.png", False)])
def test_a_noise_mask_has_the_size_of_the_picture_or_of_the_latent(file: str, fits: bool, files: Path) -> None:
    nodes = (
        "  empty: {type: EmptyLatent, width: 64, height: 48}\n"
        f"  mask: {{type: LoadMask, file: <files>/{file}}}\n"
        "  last: {type: SetLatentMask, latent: $empty, mask: $mask}"
    )
    if fits:
        build(nodes, files=files)
    else:
        assert "'mask' is 32x32, but input 'latent' is a latent of a 64x48 picture" in problem(nodes, files=files)


def test_pictures_of_two_sizes_make_no_sheet(files: Path) -> None:
    nodes = (
        "  a: {type: LoadImage, file: <files>/64x48.png}\n"
        "  b: {type: LoadImage, file: <files>/32x32.png}\n"
        "  last: {type: GridImage, images: [$a.image, $b.image, $a.image]}"
    )
    assert "pictures of 64x48, 32x32" in problem(nodes, files=files)


@pytest.mark.parametrize("prefix", ["../cat", "/tmp/cat", "cats\\\\..\\\\..\\\\cat"])
def test_a_name_that_leads_out_of_the_output_folder_is_refused(prefix: str, files: Path) -> None:
    nodes = (
        "  a: {type: LoadImage, file: <files>/64x48.png}\n"
        f'  save: {{type: SaveImage, image: $a.image, prefix: "{prefix}"}}\n'
        "  last: {type: InvertMask, mask: $a.mask}"
    )
    assert "leads out of the output folder" in problem(nodes, files=files)


SINGLE = {
    "depths for a model that is shown none": (
        "{type: KSampler, model: $load.model, positive: $deep.positive, negative: $good, latent: $empty}\n"
        "  deep: {type: DepthConditioning, positive: $good, negative: $good, depth: $source.image}",
        "'positive' carries depths, which input 'model' (sd1) takes no channel for",
    ),
    "a prompt for a model of classes": (
        "{type: TextEncode, clip: $things.clip, text: a cat}\n"
        "  things: {type: LoadCheckpoint, file: <files>/things.safetensors}",
        "'clip' is told classes by number, of the ldm-class family, not prompts; use ClassConditioning",
    ),
    "a class that a model does not know": (
        "{type: ClassConditioning, clip: $things.clip, number: 11}\n"
        "  things: {type: LoadCheckpoint, file: <files>/things.safetensors}",
        "'number' is 11, but the model knows the classes 0 to 10",
    ),
    "a class for a model of prompts": (
        "{type: ClassConditioning, clip: $load.clip, number: 1}",
        "'clip' reads prompts, of the sd1 family; use TextEncode",
    ),
    "a prompt for the refiner by SDXL's encoders": (
        "{type: TextEncodeSDXLRefiner, clip: $other.clip, text: a cat}",
        "has clip_l and clip_g, of the sdxl family, not clip_g alone",
    ),
    "a picture for a model that is told of none": (
        "{type: KSampler, model: $load.model, positive: $shown, negative: $good, latent: $empty}\n"
        "  vision: {type: LoadClipVision, file: <files>/vision.safetensors}\n"
        "  look: {type: EncodeClipVision, clip_vision: $vision, image: $source.image}\n"
        "  shown: {type: UnclipConditioning, conditioning: $good, pictures: $look}",
        "'positive' tells what a picture shows by 32 numbers, but input 'model' (sd1) takes none",
    ),
    "a picture by the vision tower of another model": (
        "{type: KSampler, model: $unclip.model, positive: $shown, negative: $good, latent: $empty}\n"
        "  unclip: {type: LoadCheckpoint, file: <files>/unclip.safetensors}\n"
        "  vision: {type: LoadClipVision, file: <files>/vision.safetensors}\n"
        "  look: {type: EncodeClipVision, clip_vision: $vision, image: $source.image}\n"
        "  shown: {type: UnclipConditioning, conditioning: $good, pictures: $look}",
        "by 32 numbers, but input 'model' (sd2-unclip) takes 64; use the vision tower of the model's own checkpoint",
    ),
    "a picture to enlarge for a model that is shown none": (
        "{type: KSampler, model: $load.model, positive: $small.positive, negative: $good, latent: $small.latent}\n"
        "  small: {type: UpscaleConditioning, positive: $good, negative: $good, image: $source.image}",
        "'positive' carries a picture to enlarge, which input 'model' (sd1) takes no channels for; use Stable Diffusion's x4",
    ),
    "a picture to enlarge that a combined prompt carries": (
        "{type: KSampler, model: $load.model, positive: $both, negative: $good, latent: $empty}\n"
        "  small: {type: UpscaleConditioning, positive: $good, negative: $good, image: $source.image}\n"
        "  both: {type: ConditioningCombine, first: $good, second: $small.positive}",
        "'positive' carries a picture to enlarge, which input 'model' (sd1) takes no channels for",
    ),
    "noise in a picture to enlarge for a model that is not told of it": (
        "{type: KSampler, model: $superres.model, positive: $small.positive, negative: $nothing, latent: $small.latent}\n"
        "  superres: {type: LoadCheckpoint, file: <files>/ldm_superres.safetensors}\n"
        "  nothing: {type: EmptyConditioning, model: $superres.model}\n"
        "  small:\n"
        "    {type: UpscaleConditioning, positive: $nothing, negative: $nothing, image: $source.image, noise: 0.1}",
        "'positive' carries a picture with noise, which input 'model' (ldm-superres) is not told of",
    ),
    "classes for a model that is shown none": (
        "{type: KSampler, model: $superres.model, positive: $told.conditioning, negative: $nothing, latent: $told.latent}\n"
        "  superres: {type: LoadCheckpoint, file: <files>/ldm_superres.safetensors}\n"
        "  segments: {type: LoadCheckpoint, file: <files>/ldm_segments.safetensors}\n"
        "  nothing: {type: EmptyConditioning, model: $superres.model}\n"
        "  told: {type: SegmentConditioning, clip: $segments.clip, segments: $source.image}",
        "'positive' shows classes, which input 'model' (ldm-superres) takes no channels for; use latent diffusion's for",
    ),
    "classes by a model of prompts": (
        "{type: ConditioningZeroOut, conditioning: $told.conditioning}\n"
        "  told: {type: SegmentConditioning, clip: $load.clip, segments: $source.image}",
        "'clip' is not shown classes by a picture, of the sd1 family; use TextEncode",
    ),
    "a picture of classes without a whole latent cell": (
        "{type: VAEDecode, vae: $segments.vae, latent: $told.latent}\n"
        "  segments: {type: LoadCheckpoint, file: <files>/ldm_segments.safetensors}\n"
        "  small: {type: ScaleImage, image: $source.image, width: 3, height: 8}\n"
        "  told: {type: SegmentConditioning, clip: $segments.clip, segments: $small}",
        "'segments' is 3x8; its sides must be at least 4 pixels",
    ),
    "a prompt for a model of segments": (
        "{type: TextEncode, clip: $segments.clip, text: a cat}\n"
        "  segments: {type: LoadCheckpoint, file: <files>/ldm_segments.safetensors}",
        "'clip' is told classes by a picture, of the ldm-segments family, not prompts; use SegmentConditioning",
    ),
    "grey under the mask for a model that knows black": (
        "{type: KSampler, model: $inpaint.model, positive: $told.positive, negative: $nothing, latent: $told.latent}\n"
        "  inpaint: {type: LoadCheckpoint, file: <files>/ldm_inpaint.safetensors}\n"
        "  nothing: {type: EmptyConditioning, model: $inpaint.model}\n"
        "  told:\n"
        "    {type: InpaintConditioning, positive: $nothing, negative: $nothing, vae: $inpaint.vae,\n"
        "     image: $source.image, mask: $source.mask}",
        "'positive' carries a picture that is grey under its mask, but input 'model' (ldm-inpaint) was trained to see black "
        "there; give InpaintConditioning the fill 'black'",
    ),
    "thresholds the wrong way round": (
        "{type: Canny, image: $source.image, low: 0.5, high: 0.4}",
        "is 0.5, above input",
    ),
    "a picture to edit for a model that is shown none": (
        "{type: KSampler, model: $load.model, positive: $edit.positive, negative: $good, latent: $edit.latent}\n"
        "  edit: {type: InstructPixToPixConditioning, positive: $good, negative: $good, vae: $load.vae, image: $source.image}",
        "'positive' carries a picture to edit, which input 'model' (sd1) takes no channels for",
    ),
    "a picture to edit by the VAE of another family": (
        "{type: KSampler, model: $instruct.model, positive: $edit.positive, negative: $good, latent: $empty}\n"
        "  instruct: {type: LoadCheckpoint, file: <files>/instruct.safetensors}\n"
        "  edit: {type: InstructPixToPixConditioning, positive: $good, negative: $good, vae: $other.vae, image: $source.image}",
        "has 0.13025 as its scale, but input 'model' takes 0.18215",
    ),
    "text for a model that takes none": (
        "{type: KSampler, model: $faces.model, positive: $good, negative: $nothing, latent: $empty}\n"
        "  faces: {type: LoadCheckpoint, file: <files>/faces.safetensors}\n"
        "  nothing: {type: EmptyConditioning, model: $faces.model}",
        "'positive' is text, but input 'model' (ldm-unconditional) takes none; use EmptyConditioning",
    ),
    "a decoder that encodes": (
        "{type: VAEEncode, vae: $decoder, image: $source.image}",
        "'vae' is a decoder alone and can't encode; give LoadTinyVAE the encoder's file",
    ),
    "an encoder as decoder": (
        "{type: LoadTinyVAE, decoder: <files>/taesd_encoder.safetensors, family: sd1}",
        "expected the decoder of a tiny autoencoder",
    ),
    "a tiny autoencoder of another family": (
        "{type: KSampler, model: $load.model, positive: $good, negative: $good, latent: $tiny_xl}",
        "0.13025 as its scale, but input 'model' of the sd1 family takes 0.18215",
    ),
    "a tiny autoencoder whose family is not told": (
        "{type: LoadVAE, file: <files>/taesd_decoder.safetensors}",
        "found a tiny autoencoder (TAESD), expected a VAE. Load it with LoadTinyVAE",
    ),
    "noise in tiles": (
        "{type: VAEDecodeTiled, vae: $consistency, latent: $empty}",
        "'vae' draws noise for the whole picture and can't decode in tiles; use ConsistencyDecode",
    ),
    "a seed for an autoencoder without noise": (
        "{type: ConsistencyDecode, vae: $load.vae, latent: $empty}",
        "'vae' is an autoencoder that draws no noise; use VAEDecode",
    ),
    "a consistency decoder in a checkpoint": (
        "{type: VAEDecode, vae: $load.vae, latent: $empty}\n"
        "  save: {type: SaveCheckpoint, model: $load.model, vae: $consistency}",
        "'vae' is an autoencoder of a kind that no checkpoint holds",
    ),
    "a size in half cells": ("{type: EmptyLatent, width: 100}", "a multiple of 8"),
    "an empty range": ("{type: ConditioningRange, conditioning: $text, start: 0.5, end: 0.2}", "is 0.2, before"),
    "tiles that are all overlap": (
        "{type: VAEEncodeTiled, vae: $load.vae, image: $source.image, tile_size: 64, overlap: 32}",
        "less than half of the tile size 64",
    ),
    "prompts of two families": ("{type: ConditioningCombine, first: $good, second: $text}", "128 numbers a token"),
}


@pytest.mark.parametrize(("node", "words"), SINGLE.values(), ids=SINGLE)
def test_refused(node: str, words: str, tiny_sd1: Path, tiny_sdxl: Path, files: Path) -> None:
    assert words in problem(f"{SAMPLE}{AUTOENCODERS}  last: {node}", model=tiny_sd1, other=tiny_sdxl, files=files)


TRUE = {
    "odd picture": "{type: VAEEncode, vae: $load.vae, image: $odd.image}",
    "odd picture, tiled": "{type: VAEEncodeTiled, vae: $load.vae, image: $odd.image, tile_size: 64, overlap: 0}",
    "odd picture, inpainted": "{type: VAEEncode, vae: $load.vae, image: $odd.image, mask: $odd.mask}",
    "batch": "{type: EmptyLatent, width: 64, height: 16, batch_size: 3}",
    "repeated": "{type: RepeatLatent, latent: $empty, amount: 3}",
    "taken out": "{type: LatentFromBatch, latent: $empty, index: 1, length: 4}",
    "decoded": "{type: VAEDecode, vae: $load.vae, latent: $empty}",
    "decoded by a tiny autoencoder": "{type: VAEDecode, vae: $decoder, latent: $tiny_latent}",
    "decoded from noise": "{type: ConsistencyDecode, vae: $consistency, latent: $fine, seed: 3}",
    "larger latent": "{type: LatentUpscale, latent: $empty, width: 136, height: 80}",
    "larger latent, aspect kept": "{type: LatentUpscale, latent: $empty, width: 136, height: 0}",
    "latent by a factor": "{type: LatentUpscaleBy, latent: $empty, factor: 1.3}",
    "scaled": "{type: ScaleImage, image: $odd.image, width: 30, height: 31}",
    "scaled, aspect kept": "{type: ScaleImage, image: $odd.image, width: 0, height: 31}",
    "scaled by a factor": "{type: ScaleImageBy, image: $odd.image, factor: 0.7}",
    "scaled to megapixels": "{type: ScaleImageToMegapixels, image: $odd.image, megapixels: 0.01, multiple: 16}",
    "cropped mask": "{type: CropMask, mask: $odd.mask, x: 60, y: 90, width: 50, height: 50}",
    "edges": "{type: Canny, image: $odd.image}",
    "scaled mask": "{type: ScaleMask, mask: $odd.mask, width: 0, height: 31}",
    "mask of a picture": "{type: MaskFromImage, image: $odd.image}",
    "picture of a mask": "{type: ImageFromMask, mask: $odd.mask}",
    "solid mask": "{type: SolidMask, width: 5, height: 7}",
    "enlarged": "{type: RepeatLatent, latent: $large.latent}\n"
    "  large: {type: UpscaleConditioning, positive: $good, negative: $good, image: $odd.image, factor: 1.5}",
    "laid over": "{type: CompositeMasked, destination: $odd.image, source: $source.image, mask: $source.mask}",
}


@pytest.mark.parametrize("node", TRUE.values(), ids=TRUE)
def test_sizes_are_foretold_truly(node: str, tiny_sd1: Path, files: Path) -> None:
    more = "  fine: {type: VAEEncode, vae: $consistency, image: $source.image}\n"
    more += "  tiny_latent: {type: EmptyLatent, width: 64, height: 32, batch_size: 2}\n"
    nodes = f"{SAMPLE}{AUTOENCODERS}{more}  odd: {{type: LoadImage, file: <files>/67x45.png}}\n  last: {node}"
    graph = build(nodes, model=tiny_sd1, other=tiny_sd1, files=files)
    link = graph.outputs["last"]
    assert isinstance(link, Link)
    facts = graph.nodes[link.node].facts[link.port]
    truth = measured(run(graph)["last"])
    assert {"width", "height"} <= facts.keys()
    assert {key: facts[key] for key in truth if key in facts} == {key: truth[key] for key in truth if key in facts}


def test_what_a_model_of_finer_cells_makes_has_the_size_of_the_empty_latent(files: Path) -> None:
    nodes = (
        "  faces: {type: LoadCheckpoint, file: <files>/faces.safetensors}\n"
        "  nothing: {type: EmptyConditioning, model: $faces.model}\n"
        "  empty: {type: EmptyLatent, width: 64, height: 32, batch_size: 2}\n"
        "  sample:\n"
        "    {type: KSampler, model: $faces.model, positive: $nothing, negative: $nothing, latent: $empty, steps: 2, cfg: 1}\n"
        "  last: {type: VAEDecode, vae: $faces.vae, latent: $sample}"
    )
    graph = build(nodes, files=files)
    assert graph.nodes["last"].facts["image"] == measured(run(graph)["last"]) == {"width": 64, "height": 32, "batch": 2}


@pytest.mark.parametrize(
    ("node", "size"),
    [
        ("{type: LatentUpscale, latent: $encode, width: 104, height: 0}", (96, 64)),
        ("{type: LatentUpscaleBy, latent: $encode, factor: 1.3}", (80, 64)),
    ],
)
def test_sizes_of_flux2_latents_are_foretold_truly(
    node: str, size: tuple[int, int], files: Path, tiny_dits: ModuleType, tmp_path: Path
) -> None:
    save_file(tiny_dits.flux2_vae().state_dict(), tmp_path / "flux2.safetensors")
    nodes = (
        "  vae: {type: LoadVAE, file: <files>/flux2.safetensors}\n"
        "  odd: {type: LoadImage, file: <pictures>/67x50.png}\n"
        "  encode: {type: VAEEncode, vae: $vae, image: $odd.image}\n"
        f"  larger: {node}\n"
        "  last: {type: VAEDecode, vae: $vae, latent: $larger}"
    )
    graph = build(nodes, files=tmp_path, pictures=files)
    foretold = graph.nodes["last"].facts["image"]
    assert (foretold["width"], foretold["height"]) == size
    assert {**foretold, "batch": 1} == measured(run(graph)["last"])


def test_an_outpainted_picture_and_its_mask_are_foretold(files: Path) -> None:
    nodes = (
        "  odd: {type: LoadImage, file: <files>/67x45.png}\n"
        "  pad: {type: PadForOutpaint, image: $odd.image, left: 8, top: 16, right: 24}\n"
        "  last: {type: InvertMask, mask: $pad.mask}"
    )
    graph = build(nodes, files=files)
    assert graph.nodes["pad"].facts["image"] == {"width": 99, "height": 61}
    assert graph.nodes["last"].facts["mask"] == measured(run(graph)["last"])


def run(graph: Graph) -> dict[str, Any]:
    memory, fingerprints, cache = WeightMemory(precision="exact"), Fingerprints(), NoCache()
    plan = make_plan(graph, cache_keys(graph, fingerprints, "exact"), cache.tier)
    with Scheduler(
        cache, PlainCodec(TensorCodec()), fingerprints=fingerprints, resources={WeightMemory: memory}
    ) as runs:
        result = runs.run(plan)
    result.raise_failure()
    return dict(result.outputs)


def measured(value: Image | Mask | Latent) -> dict[str, int]:
    if isinstance(value, Latent):
        batch, _, h, w = value.samples.shape
        return {"width": value.downscale * w, "height": value.downscale * h, "batch": batch}
    tensor: torch.Tensor = value.pixels if isinstance(value, Image) else value.values
    batch, height, width = tensor.shape[:3]
    return {"width": width, "height": height, "batch": batch}
