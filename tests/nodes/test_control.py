"""Nodes that steer by a picture, and the pairings that they refuse before anything runs."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import torch
from PIL import Image as Pillow

from latentgraph.diffusion.control.specs import AUTO
from latentgraph.diffusion.control.transformer_specs import FLUX_UNION_KINDS
from latentgraph.diffusion.control.unet_specs import UNION_KINDS
from latentgraph.diffusion.types import Control, ControlNet, Image, Latent, Mask
from latentgraph.graph import Context, Graph, InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.codec import TensorCodec
from latentgraph.nodes.conditionings import ConditioningArea
from latentgraph.nodes.control import (
    ApplyControlNet,
    ApplyControlNetToBoth,
    ApplyInpaintControlNet,
    LoadControlNet,
    SetUnionControlNetType,
    UnionKind,
)
from latentgraph.nodes.loading import LoadCheckpoint
from latentgraph.nodes.sampling import KSampler
from latentgraph.nodes.text import TextEncode
from latentgraph.nodes.unprompted import EmptyConditioning


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


def test_the_kinds_on_offer_are_those_that_some_union_network_knows() -> None:
    assert set(get_args(UnionKind)) == {AUTO, *UNION_KINDS, *FLUX_UNION_KINDS}


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
def transformers(tiny: ModuleType, tiny_dits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of SD3 and FLUX.1 without text encoders, and ControlNets for them."""
    from diffusers import FluxControlNetModel, SD3ControlNetModel
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("transformers")
    for name, prefix in (("SD3", "first_stage_model."), ("FLUX", "vae.")):
        save_file(tiny_dits.checkpoint(tiny_dits.SPECS[name], vae_prefix=prefix), folder / f"{name}.safetensors")
    config: dict[str, Any] = {
        "num_layers": 1, "num_single_layers": 0, "attention_head_dim": 32, "num_attention_heads": 2,
        "joint_attention_dim": 48, "pooled_projection_dim": 24, "axes_dims_rope": [4, 14, 14],
    }  # fmt: skip
    inpainting = FluxControlNetModel(**config)
    inpainting.controlnet_x_embedder = torch.nn.Linear(68, 64)
    large: dict[str, Any] = {
        "num_layers": 1, "attention_head_dim": 64, "num_attention_heads": 2, "joint_attention_dim": None,
        "pooled_projection_dim": 40, "pos_embed_type": None, "use_pos_embed": False,
    }  # fmt: skip
    networks = {
        "latents": FluxControlNetModel(**config),
        "inpainting": inpainting,
        "XLabs": FluxControlNetModel(**config, conditioning_embedding_channels=16, patch_size=2),
        "large": SD3ControlNetModel(**large),
    }
    nets = {name: tiny.write_diffusers(folder / name, network) for name, network in networks.items()}
    return {"SD3": folder / "SD3.safetensors", "FLUX": folder / "FLUX.safetensors", **nets}


STEERED_LATENTS = """
  load: {type: LoadCheckpoint, file: <model>}
  other: {type: LoadCheckpoint, file: <other>}
  picture: {type: LoadImage, file: <files>/picture.png}
  text: {type: EmptyConditioning, model: $load.model}
  net: {type: LoadControlNet, file: <net>}
  steer: {type: <apply>, positive: $text, negative: $text, control_net: $net, image: $picture.image}
  empty: {type: EmptyLatent, width: 64, height: 64}
"""
LATENTS_CASES = {
    "as it should be": ("latents", "ApplyControlNet, vae: $load.vae", ""),
    "pixels need no VAE": ("XLabs", "ApplyControlNet", ""),
    "a part to repaint": ("inpainting", "ApplyInpaintControlNet, vae: $load.vae, mask: $picture.mask", ""),
    "no VAE": ("latents", "ApplyControlNet", "link the model's VAE to input 'vae' of ApplyControlNet"),
    "another VAE": ("latents", "ApplyControlNet, vae: $other.vae", "takes 16"),
    "no mask": ("inpainting", "ApplyControlNet, vae: $load.vae", "use ApplyInpaintControlNet, which takes a mask"),
    "a mask for nothing": (
        "latents",
        "ApplyInpaintControlNet, vae: $load.vae, mask: $picture.mask",
        "is a ControlNet for FLUX.1, which is not shown which part to repaint; use ApplyControlNet",
    ),
    "another VAE, and a mask": (
        "inpainting",
        "ApplyInpaintControlNet, vae: $other.vae, mask: $picture.mask",
        "takes 16",
    ),
    "an empty range": (
        "inpainting",
        "ApplyInpaintControlNet, vae: $load.vae, mask: $picture.mask, start: 0.5, end: 0.2",
        "would never act",
    ),
    "another size": (
        "large",
        "ApplyControlNet, vae: $load.vae",
        "is steered by what is a ControlNet for Stable Diffusion 3",
    ),
}


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
@pytest.mark.parametrize(("net", "apply", "words"), LATENTS_CASES.values(), ids=LATENTS_CASES)
def test_networks_for_transformers_are_shown_what_they_were_made_for(
    net: str, apply: str, words: str, transformers: dict[str, Path], files: Path, tiny_sd1: Path
) -> None:
    model = transformers["SD3" if net == "large" else "FLUX"]
    names = {"files": files, "other": tiny_sd1, "model": model, "net": transformers[net]}
    nodes = STEERED_LATENTS.replace("<apply>", apply) + SAMPLE
    if words:
        assert words in problem(nodes, **names)
    else:
        build(nodes, **names)


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
def test_a_network_that_repaints_sees_nothing_under_the_mask(
    transformers: dict[str, Path], hint: Image, context: Context
) -> None:
    loaded = LoadCheckpoint(file=transformers["FLUX"]).run(context)
    text = EmptyConditioning(model=loaded.model).run(context)
    net = LoadControlNet(file=transformers["inpainting"]).run(context)
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48] = 1.0
    steered = ApplyInpaintControlNet(
        positive=text, negative=text, control_net=net, vae=loaded.vae, image=hint, mask=Mask(mask)
    ).run(context)
    (control,) = steered.positive.entries[0].controls
    assert torch.equal(control.hint, hint.pixels * (1 - mask).unsqueeze(-1))
    assert control.kept is not None
    assert torch.equal(control.kept, 1 - mask)
    assert TensorCodec().nbytes(steered.positive) >= hint.pixels.nbytes + mask.nbytes


def test_a_checkpoint_is_no_control_network(files: Path, tiny_sd1: Path) -> None:
    message = problem(NODES + SAMPLE, model=tiny_sd1, other=tiny_sd1, files=files, net=tiny_sd1)
    assert "found a checkpoint, expected a control network" in message
