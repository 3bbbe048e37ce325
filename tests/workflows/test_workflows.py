"""The workflows that people copy: each builds, runs, and does what its comment says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image as Pillow
from safetensors import safe_open
from safetensors.torch import save_file

import latentgraph.models
from latentgraph.diffusion.checkpoints.describe import describe
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.pictures.files import load_picture
from latentgraph.diffusion.pictures.masks import grow_mask
from latentgraph.diffusion.upscaling.reading import can_upscale
from latentgraph.graph import (
    Event,
    Fingerprints,
    FolderResolver,
    Graph,
    InvalidWorkflow,
    MemoryCache,
    NodeStarted,
    PlainCodec,
    RunResult,
    Scheduler,
    build_graph,
    cache_keys,
    load_document,
    make_plan,
)
from latentgraph.nodes import default_registry
from latentgraph.nodes.codec import TensorCodec

FOLDER = Path(__file__).parents[2] / "workflows"
WORKFLOWS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
EXAMPLES = FOLDER / "examples"
SMALL = {"steps": 2, "width": 64, "height": 64}
SIZES = {  # width and height of what each makes of SMALL
    "txt2img": (64, 64),
    "img2img": (64, 64),
    "inpaint": (128, 128),  # the picture's own
    "outpaint": (128, 128),  # half of it new
    "retouch": (128, 128),
    "hires_fix": (96, 96),
    "variations": (132, 132),  # two by two, with a gap of 4
    "prompt_grid": (200, 132),
    "regional": (64, 64),
    "lora": (64, 64),
    "controlnet": (64, 64),
    "flux": (64, 64),
    "flux2": (64, 64),
    "kontext": (64, 64),
    "fill": (128, 128),  # the picture's own
    "sd3": (64, 64),
    "instruct": (64, 64),
    "unclip": (64, 64),
    "classes": (64, 64),
    "enlarge": (128, 96),  # four times the picture's own
    "upscale": (256, 256),  # half of four times the picture's own
}
NEEDED = {
    "lora": "lora",
    "controlnet": "control_net",
    "flux": "network",
    "flux2": "network",
    "kontext": "network",
    "fill": "network",
    "sd3": "checkpoint",
    "instruct": "checkpoint",
    "unclip": "checkpoint",
    "classes": "checkpoint",
    "enlarge": "checkpoint",
    "upscale": "upscale_model",
}  # what has no default, as nothing of the kind is bundled
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(name == "upscale" and not can_upscale(), reason="needs the extra"))
    for name in WORKFLOWS
]


EMOJI = Path(latentgraph.models.__file__).parent / "emoji.safetensors"
Needed = Callable[[str, Path], dict[str, Any]]


def build(name: str, params: Mapping[str, Any] | None = None) -> Graph:
    bundled = {"checkpoint": {"emoji": EMOJI}}
    document = load_document(FOLDER / f"{name}.yaml")
    known = {key: value for key, value in (params or {}).items() if key in document.params}
    return build_graph(document, default_registry(), params=known, resolver=FolderResolver(bundled))


def network_shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the denoising network's tensors in a checkpoint, by its makers' names."""
    prefix = "model.diffusion_model."
    with safe_open(checkpoint, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - it is no mapping
        return {name.removeprefix(prefix): tuple(file.get_slice(name).get_shape()) for name in names}


class Runs:
    """Runs graphs with one cache, as a person does who changes a thing and runs again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        codec = PlainCodec(TensorCodec())
        self.cache, self.fingerprints = MemoryCache(codec, 1 << 28), Fingerprints()
        resources = {WeightMemory: WeightMemory(precision="exact")}
        self.scheduler = Scheduler(self.cache, codec, fingerprints=self.fingerprints, resources=resources)

    def run(self, graph: Graph) -> tuple[RunResult, list[str]]:
        """Returns the result, and the nodes that were computed in the order of their start."""
        started: list[str] = []

        def on_event(event: Event) -> None:
            if isinstance(event, NodeStarted):
                started.append(event.node)

        plan = make_plan(graph, cache_keys(graph, self.fingerprints, "exact"), self.cache.tier)
        result = self.scheduler.run(plan, output_dir=self.folder, provenance={"latentgraph": "so"}, on_event=on_event)
        result.raise_failure()
        return result, started


@pytest.fixture(scope="module")
def needed(
    tiny: ModuleType, tiny_dits: ModuleType, tiny_texts: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Needed:
    """Returns the parameters that a workflow needs beside its defaults: networks made for a checkpoint, or a whole family."""
    folder = tmp_path_factory.mktemp("networks")
    tiny_texts.write_encoders(folder)

    def control_net(checkpoint: Path) -> Path:
        unet = describe(checkpoint).model.network
        network = ControlNetModel(
            block_out_channels=unet.widths,
            layers_per_block=unet.res_blocks[0],
            cross_attention_dim=unet.context_width,
            attention_head_dim=unet.heads,
            use_linear_projection=unet.linear_projection,
            down_block_types=["CrossAttnDownBlock2D" if any(depths) else "DownBlock2D" for depths in unet.depths_in],
        )
        return tiny.write_diffusers(folder / checkpoint.stem, network)

    def params(name: str, checkpoint: Path) -> dict[str, Any]:
        if name == "lora":
            path = folder / f"{checkpoint.stem}_lora.safetensors"
            return {"lora": str(tiny.write(path, tiny.kohya_lora(network_shapes(checkpoint), "lora_unet_")))}
        if name == "controlnet":
            return {"control_net": str(control_net(checkpoint))}
        if name in ("flux", "kontext", "fill"):
            spec = tiny_dits.FILL if name == "fill" else tiny_dits.FLUX
            save_file(tiny_dits.original(spec, tiny_dits.weights(spec)), folder / f"{name}.safetensors")
            tiny_dits.vae().save_pretrained(folder / "vae")
            files = {"network": f"{name}.safetensors", "clip_l": "clip_l.safetensors", "t5xxl": "t5xxl.safetensors"}
            return {param: str(folder / file) for param, file in (files | {"vae": "vae"}).items()}
        if name == "flux2":
            spec = replace(tiny_dits.FLUX2, context_width=3 * tiny_texts.MISTRAL_WIDTH)
            save_file(tiny_dits.original(spec, tiny_dits.weights(spec)), folder / "flux2.safetensors")
            save_file(tiny_dits.flux2_vae().state_dict(), folder / "flux2_vae.safetensors")
            tiny_texts.write_mistral(folder)
            files = {"network": "flux2", "text_encoder": "mistral", "vae": "flux2_vae"}
            return {param: str(folder / f"{file}.safetensors") for param, file in files.items()}
        if name == "sd3":
            large = replace(tiny_dits.SD3, positions=64)  # for the 1024 pixels a side that the workflow asks for
            tensors = tiny_dits.checkpoint(large, vae_prefix="first_stage_model.")
            for key, encoder in (
                ("clip_l", tiny_texts.clip_l()),
                ("clip_g", tiny_texts.clip_g()),
                ("t5xxl", tiny_texts.t5()),
            ):
                tensors |= tiny_texts.weights(encoder, f"text_encoders.{key}.transformer.")
            save_file(tensors, folder / "sd3.safetensors")
            return {"checkpoint": str(folder / "sd3.safetensors")}
        if name == "instruct":
            return {"checkpoint": str(tiny.write_sd1(folder / "instruct.safetensors", in_channels=8))}
        if name == "unclip":
            return {"checkpoint": str(tiny.write(folder / "unclip.safetensors", tiny.unclip_tensors()))}
        if name == "enlarge":
            Pillow.new("RGB", (32, 24), (200, 40, 40)).save(folder / "small.png")
            path = tiny.write(folder / "enlarge.safetensors", tiny.x4_tensors())
            return {"checkpoint": str(path), "image": str(folder / "small.png")}
        if name == "classes":
            path = tiny.write(folder / "classes.safetensors", tiny.classes_tensors())
            return {"checkpoint": str(path), "class": 3, "no_class": 10}
        if name == "upscale":
            return {"upscale_model": str(tiny.write_upscaler(folder / "esrgan.safetensors")), "factor": 0.5}
        return {}

    return params


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("output"))
    with made.scheduler:
        yield made


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_builds_with_the_bundled_model_and_without_warnings(name: str, needed: Needed) -> None:
    assert build(name, needed(name, EMOJI)).warnings == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_runs_from_start_to_a_saved_picture(name: str, tiny_sd1: Path, runs: Runs, needed: Needed) -> None:
    result, _ = runs.run(build(name, {**SMALL, "checkpoint": str(tiny_sd1), **needed(name, tiny_sd1)}))
    pixels = result.outputs["image"].pixels
    assert (pixels.shape[2], pixels.shape[1]) == SIZES[name]
    (saved,) = [path for report in result.nodes.values() for path in report.files]
    assert saved.name.startswith(f"{name}_")
    with Pillow.open(saved) as picture:
        assert picture.size == SIZES[name]
        assert picture.info["latentgraph"] == "so"
    assert torch.allclose(load_picture(saved).image.pixels, pixels, atol=1 / 255)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_parameter_is_used_and_described(name: str) -> None:
    document = load_document(FOLDER / f"{name}.yaml")
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    for param in document.params.values():
        assert f"$params.{param.name}" in text
        assert param.description.endswith(".")


@pytest.mark.parametrize("name", ["inpaint", "retouch"])
def test_what_is_away_from_the_mask_stays_exactly_as_it_was(name: str, tiny_sd1: Path, runs: Runs) -> None:
    result, _ = runs.run(build(name, {**SMALL, "checkpoint": str(tiny_sd1)}))
    source, mask = load_picture(EXAMPLES / "face_masked.png")
    changed = (result.outputs["image"].pixels != source.pixels).any(dim=-1)
    away = grow_mask(mask, pixels=6, tapered_corners=False).values == 0
    assert 0 < mask.values.mean() < 0.5 < away.float().mean()
    assert not changed[away].any()
    assert changed[mask.values == 1].any()


def test_outpainting_keeps_the_old_picture_away_from_its_new_edge(tiny_sd1: Path, runs: Runs) -> None:
    result, _ = runs.run(build("outpaint", {**SMALL, "checkpoint": str(tiny_sd1)}))
    source = load_picture(EXAMPLES / "face_half.png").image
    assert torch.equal(result.outputs["image"].pixels[:, :, :48], source.pixels[:, :, :48])


def test_img2img_starts_from_its_picture(tiny_sd1: Path, runs: Runs) -> None:
    """At a denoise of 0 the picture only goes through the autoencoder, so the seed does not matter."""
    params = {**SMALL, "checkpoint": str(tiny_sd1), "denoise": 0.0}
    first, _ = runs.run(build("img2img", params))
    second, _ = runs.run(build("img2img", {**params, "seed": 99}))
    assert torch.equal(first.outputs["image"].pixels, second.outputs["image"].pixels)


def test_another_amount_of_detail_does_not_compose_anew(tiny_sd1: Path, runs: Runs) -> None:
    params = {**SMALL, "checkpoint": str(tiny_sd1), "seed": 3}
    runs.run(build("hires_fix", params))
    _, started = runs.run(build("hires_fix", {**params, "detail": 0.9}))
    assert set(started) == {"checkpoint", "refine", "decode", "save"}


def test_another_seed_paints_only_the_new_picture(tiny_sd1: Path, runs: Runs) -> None:
    params = {**SMALL, "checkpoint": str(tiny_sd1)}
    runs.run(build("variations", {**params, "seeds": [11, 12]}))
    _, started = runs.run(build("variations", {**params, "seeds": [11, 12, 13]}))
    assert {node for node in started if "[" in node} == {"sample[2]", "decode[2]"}


def test_the_copies_of_a_part_share_what_they_have_in_common(tiny_sd1: Path, runs: Runs) -> None:
    _, started = runs.run(build("prompt_grid", {**SMALL, "checkpoint": str(tiny_sd1), "seed": 5, "steps": 1}))
    assert sum(node.endswith("/sample") for node in started) == 6
    assert sum(node.endswith("/negative") for node in started) <= 1


@pytest.mark.parametrize(("name", "param"), NEEDED.items())
def test_a_network_that_is_not_bundled_has_to_be_named(name: str, param: str) -> None:
    with pytest.raises(InvalidWorkflow, match=param):
        build(name)


def test_a_lora_changes_the_picture_as_strongly_as_is_said(tiny_sd1: Path, runs: Runs, needed: Needed) -> None:
    params = {**SMALL, "checkpoint": str(tiny_sd1), **needed("lora", tiny_sd1)}
    without, weak, strong = (
        runs.run(build("lora", {**params, "strength": strength}))[0].outputs["image"].pixels
        for strength in (0.0, 0.1, 1.0)
    )
    plain = runs.run(build("txt2img", {**params, "seed": 17}))[0].outputs["image"].pixels
    assert torch.equal(without, plain)
    assert 0 < (weak - without).abs().mean() < (strong - without).abs().mean()


def test_a_control_network_keeps_a_picture_to_another(tiny_sd1: Path, runs: Runs, needed: Needed) -> None:
    params = {**SMALL, "checkpoint": str(tiny_sd1), **needed("controlnet", tiny_sd1)}
    free, steered, plain = (
        runs.run(build("controlnet", {**params, **each}))[0].outputs["image"].pixels
        for each in ({"strength": 0.0}, {"strength": 1.0}, {"edges": False})
    )
    assert not torch.allclose(free, steered, atol=1e-2)
    assert not torch.equal(plain, steered)


def test_an_instruction_and_its_picture_are_followed_as_strictly_as_is_said(runs: Runs, needed: Needed) -> None:
    params = {**SMALL, **needed("instruct", EMOJI)}
    first, other, nearer = (
        runs.run(build("instruct", {**params, **each}))[0].outputs["image"].pixels
        for each in ({}, {"prompt": "make it red"}, {"image_cfg": 3.0})
    )
    assert not torch.equal(first, other)
    assert not torch.equal(first, nearer)


def test_another_class_is_another_picture_and_shares_the_rest(runs: Runs, needed: Needed) -> None:
    params = {**SMALL, **needed("classes", EMOJI)}
    first, _ = runs.run(build("classes", params))
    other, started = runs.run(build("classes", {**params, "class": 4}))
    assert not torch.equal(first.outputs["image"].pixels, other.outputs["image"].pixels)
    assert "negative" not in started


def test_noise_in_a_picture_that_is_enlarged_lets_more_be_made_up(runs: Runs, needed: Needed) -> None:
    params = {**SMALL, **needed("enlarge", EMOJI)}
    first, noisier = (
        runs.run(build("enlarge", {**params, "noise": noise}))[0].outputs["image"].pixels for noise in (0.06, 0.5)
    )
    assert not torch.allclose(first, noisier, atol=1e-3)


def test_flux2_goes_by_a_picture_if_it_is_told_to(runs: Runs, needed: Needed) -> None:
    params = {**SMALL, **needed("flux2", EMOJI), "megapixels": 0.01}
    alone, _ = runs.run(build("flux2", params))
    shown, started = runs.run(build("flux2", {**params, "reference": True}))
    assert "encode" in started
    assert not torch.equal(alone.outputs["image"].pixels, shown.outputs["image"].pixels)
    _, started = runs.run(build("flux2", {**params, "seed": 8}))
    assert "encode" not in started
