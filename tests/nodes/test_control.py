"""Nodes that steer by a picture, and the pairings that they refuse before anything runs."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image as Pillow

from latentgraph.diffusion.types import Control, ControlNet, Image, Latent
from latentgraph.graph import Context, Graph, InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.codec import TensorCodec
from latentgraph.nodes.conditionings import ConditioningArea
from latentgraph.nodes.control import (
    ApplyControlNet,
    ApplyControlNetToBoth,
    LoadControlNet,
    SetUnionControlNetType,
    UnionKind,
)
from latentgraph.nodes.sampling import KSampler
from latentgraph.nodes.text import TextEncode


@pytest.fixture(scope="module")
def files(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ControlNets of three families, a union network, and a picture."""
    from diffusers import ControlNetUnionModel, T2IAdapter

    folder = tmp_path_factory.mktemp("files")
    for name, layout in (("sd1", tiny.SD1), ("sd2", tiny.SD2), ("sdxl", tiny.SDXL)):
        tiny.write_control_net(folder / f"{name}.safetensors", layout)
    union = ControlNetUnionModel(
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=64 + 6 * 256,
        num_control_type=6,
        num_trans_channel=64,
        num_proj_channel=64,
    )
    tiny.write_diffusers(folder / "union", union)
    tiny.write_diffusers(folder / "adapter", T2IAdapter(3, [32, 64], 2, 8, "full_adapter"))
    Pillow.new("RGB", (64, 48), (200, 40, 40)).save(folder / "picture.png")
    return folder


@pytest.fixture(scope="module")
def net(files: Path, context: Context) -> ControlNet:
    return LoadControlNet(file=files / "sd1.safetensors").run(context)


@pytest.fixture(scope="module")
def hint() -> Image:
    return Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)))


def encode(sd1: Any, text: str, context: Context) -> Any:
    return TextEncode(clip=sd1.clip, text=text).run(context)


def sampled(sd1: Any, context: Context, **prompts: Any) -> torch.Tensor:
    node = KSampler(model=sd1.model, latent=Latent(torch.zeros(1, 4, 8, 8)), steps=2, **prompts)
    return node.run(context).samples


def test_a_picture_steers_what_is_painted(sd1: Any, context: Context, net: ControlNet, hint: Image) -> None:
    prompts = {"positive": encode(sd1, "a cat", context), "negative": encode(sd1, "", context)}
    steered = ApplyControlNet(control_net=net, image=hint, **prompts).run(context)
    plain = sampled(sd1, context, **prompts)
    found = sampled(sd1, context, positive=steered.positive, negative=steered.negative)
    assert not torch.allclose(found, plain, atol=1e-2)
    older = ApplyControlNetToBoth(conditioning=prompts["positive"], control_net=net, image=hint).run(context)
    assert torch.equal(sampled(sd1, context, positive=older, negative=prompts["negative"]), found)


def test_a_copy_from_a_cache_still_shares_its_control(sd1: Any, context: Context, net: ControlNet, hint: Image) -> None:
    """Positive and negative are kept apart, and must share a pass as before."""
    prompts = {"positive": encode(sd1, "a cat", context), "negative": encode(sd1, "", context)}
    steered = ApplyControlNet(control_net=net, image=hint, **prompts).run(context)
    codec = TensorCodec()
    copies = [codec.copy(each) for each in steered]
    first, second = (copy.entries[0].controls for copy in copies)
    assert first == second
    assert isinstance(first[0], Control)
    assert codec.nbytes(steered.positive) >= hint.pixels.nbytes
    assert codec.pack(steered.positive) is None


def test_later_nodes_keep_the_control(sd1: Any, context: Context, net: ControlNet, hint: Image) -> None:
    text = encode(sd1, "a cat", context)
    steered = ApplyControlNet(positive=text, negative=text, control_net=net, image=hint).run(context)
    limited = ConditioningArea(conditioning=steered.positive, width=64, height=64).run(context)
    assert limited.entries[0].controls == steered.positive.entries[0].controls


def test_a_union_network_is_told_by_name(files: Path, context: Context) -> None:
    union = LoadControlNet(file=files / "union").run(context)
    kinds: list[UnionKind] = ["auto", "openpose", "segment"]
    found = [SetUnionControlNetType(control_net=union, kind=kind).run(context).kinds for kind in kinds]
    assert found == [(), (0,), (5,)]


NODES = """
  load: {type: LoadCheckpoint, file: <model>}
  other: {type: LoadCheckpoint, file: <other>}
  text: {type: TextEncode, clip: $load.clip, text: a cat}
  picture: {type: LoadImage, file: <files>/picture.png}
  net: {type: LoadControlNet, file: <net>}
  steer: {type: ApplyControlNet, positive: $text, negative: $text, control_net: $net, image: $picture.image}
  empty: {type: EmptyLatent, width: 64, height: 64}
"""
SAMPLE = (
    "  last: {type: KSampler, model: $load.model, positive: $steer.positive, negative: $steer.negative, latent: $empty}"
)


def build(nodes: str, **names: Path) -> Graph:
    for name, path in names.items():
        nodes = nodes.replace(f"<{name}>", str(path))
    return build_graph(
        parse_document(f"latentgraph: 1\nnodes:\n{nodes}\noutputs: {{last: $last}}\n"), default_registry()
    )


def problem(nodes: str, **names: Path) -> str:
    with pytest.raises(InvalidWorkflow) as caught:
        build(nodes, **names)
    errors = [problem for problem in caught.value.problems if problem.severity == "error"]
    assert len(errors) == 1, str(caught.value)
    assert errors[0].place.mark is not None
    return errors[0].message


@pytest.mark.parametrize("net", ["sd1", "adapter"])
def test_a_control_network_of_the_models_family_is_welcome(net: str, files: Path, tiny_sd1: Path) -> None:
    path = files / (net if net == "adapter" else f"{net}.safetensors")
    graph = build(NODES + SAMPLE, model=tiny_sd1, other=tiny_sd1, files=files, net=path)
    assert graph.nodes["net"].facts["control_net"]["family"] == "sd1"


def test_text_of_another_width_is_refused_where_it_is_steered(files: Path, tiny_sd1: Path) -> None:
    message = problem(NODES + SAMPLE, model=tiny_sd1, other=tiny_sd1, files=files, net=files / "sdxl.safetensors")
    assert "'control_net' is a ControlNet for Stable Diffusion XL" in message
    assert "attends to text of 128 numbers a token" in message
    assert "'positive' is text encoded for the sd1 family (64)" in message


@pytest.mark.parametrize("checkpoint", ["tiny_sd1", "tiny_sd2", "tiny_sdxl"])
@pytest.mark.parametrize("net", ["sd1.safetensors", "sd2.safetensors", "sdxl.safetensors", "union", "adapter"])
def test_every_wrong_pairing_is_one_error_of_the_document(
    checkpoint: str, net: str, files: Path, request: pytest.FixtureRequest
) -> None:
    family = checkpoint.removeprefix("tiny_")
    names = {"model": request.getfixturevalue(checkpoint), "files": files, "net": files / net}
    ours = {"union": "sdxl", "adapter": "sd1"}.get(net, net.removesuffix(".safetensors"))
    if ours == family:
        build(NODES + SAMPLE, other=names["model"], **names)
        return
    assert f"{family} family" in problem(NODES + SAMPLE, other=names["model"], **names)


@pytest.mark.parametrize(
    "way",
    [
        "{type: ConditioningCombine, first: $text, second: $steer.positive}",
        "{type: ConditioningCombine, first: $steer.positive, second: $text}",
        "{type: ConditioningConcat, conditioning: $steer.positive, following: $text}",
        "{type: ConditioningArea, conditioning: $steer.positive}",
    ],
)
def test_what_steers_is_known_wherever_the_text_goes(way: str, files: Path, tiny_sd1: Path) -> None:
    nodes = NODES + (
        f"  way: {way}\n  last: {{type: KSampler, model: $load.model, positive: $way, negative: $text, latent: $empty}}"
    )
    message = problem(nodes, model=tiny_sd1, other=tiny_sd1, files=files, net=files / "sd2.safetensors")
    assert "'positive' is steered by what is a ControlNet for Stable Diffusion 2.x" in message
    assert "use one that was made for models of the sd1 family" in message


SINGLE = {
    "a kind for a plain network": (
        "{type: SetUnionControlNetType, control_net: $net, kind: depth}",
        "sd1.safetensors",
        "takes one kind of picture only",
    ),
    "a kind that a network does not know": (
        "{type: SetUnionControlNetType, control_net: $net, kind: repaint}",
        "union",
        "and not repaint",
    ),
    "an empty range": (
        "{type: ApplyControlNet, positive: $text, negative: $text, control_net: $net, image: $picture.image, "
        "start: 0.6, end: 0.5}",
        "sd1.safetensors",
        "would never act",
    ),
}


@pytest.mark.parametrize(("node", "net", "words"), SINGLE.values(), ids=SINGLE)
def test_refused(node: str, net: str, words: str, files: Path, tiny_sd1: Path, tiny_sdxl: Path) -> None:
    model = tiny_sdxl if net == "union" else tiny_sd1
    assert words in problem(
        f"{NODES}  wrong: {node}\n  last: {{type: SolidMask}}", model=model, other=model, files=files, net=files / net
    )


@pytest.fixture(scope="module")
def flux(tiny: ModuleType, tiny_dits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A FLUX.1 checkpoint without text encoders, and a ControlNet for it."""
    from diffusers import FluxControlNetModel
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("flux")
    save_file(tiny_dits.checkpoint(tiny_dits.SPECS["FLUX"], vae_prefix="vae."), folder / "flux.safetensors")
    network = FluxControlNetModel(
        num_layers=1, num_single_layers=0, attention_head_dim=32, num_attention_heads=2, joint_attention_dim=48,
        pooled_projection_dim=24, axes_dims_rope=[4, 14, 14],
    )  # fmt: skip
    return {"model": folder / "flux.safetensors", "net": tiny.write_diffusers(folder / "net", network)}


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
def test_a_network_that_sees_latents_needs_the_autoencoder_of_its_model(
    flux: dict[str, Path], files: Path, tiny_sd1: Path
) -> None:
    nodes = (
        "  load: {type: LoadCheckpoint, file: <model>}\n"
        "  other: {type: LoadCheckpoint, file: <other>}\n"
        "  picture: {type: LoadImage, file: <files>/picture.png}\n"
        "  text: {type: EmptyConditioning, model: $load.model}\n"
        "  net: {type: LoadControlNet, file: <net>}\n"
        "  steer: {type: ApplyControlNet, positive: $text, negative: $text, control_net: $net, image: $picture.image<vae>}\n"
        "  last: {type: SolidMask}"
    )
    names = {"files": files, "other": tiny_sd1, **flux}
    build(nodes.replace("<vae>", ", vae: $load.vae"), **names)
    assert "link the model's VAE to input 'vae'" in problem(nodes.replace("<vae>", ""), **names)
    assert "takes 16" in problem(nodes.replace("<vae>", ", vae: $other.vae"), **names)


def test_a_checkpoint_is_no_control_network(files: Path, tiny_sd1: Path) -> None:
    message = problem(NODES + SAMPLE, model=tiny_sd1, other=tiny_sd1, files=files, net=tiny_sd1)
    assert "found a checkpoint, expected a control network" in message
