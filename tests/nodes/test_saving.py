"""Saving networks, as nodes: what is written opens again, and holds the same numbers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from latentgraph.diffusion.types import Latent
from latentgraph.graph import Context, FolderResolver, InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.autoencoders import VAEDecode
from latentgraph.nodes.loading import LoadCheckpoint, LoadDiffusionModel, LoadVAE
from latentgraph.nodes.saving import SaveCheckpoint, SaveTextEncoders, SaveVAE
from latentgraph.nodes.text import TextEncode
from latentgraph.nodes.text_encoders import LoadTextEncoder

BOTH = "  one: {type: LoadCheckpoint, file: <one>}\n  other: {type: LoadCheckpoint, file: <other>}\n"


@pytest.fixture
def ctx(watched: Any, context: Context, tmp_path: Path) -> Any:
    return watched(resources=context.resources, output_dir=tmp_path, provenance={"latentgraph": "{}"})


def test_a_checkpoint_is_saved_and_is_one_again(sd1: Any, ctx: Any, context: Context, tmp_path: Path) -> None:
    SaveCheckpoint(model=sd1.model, clip=sd1.clip, vae=sd1.vae, prefix="mine").run(ctx)
    assert ctx.files == [tmp_path / "mine_00001_.safetensors"]
    assert ctx.steps[-1][0] == ctx.steps[-1][1]
    again = LoadCheckpoint(file=ctx.files[0]).run(context)
    assert again.model.spec == sd1.model.spec
    assert again.vae is not None


def test_a_network_saved_alone_is_opened_alone(sd1: Any, ctx: Any, context: Context) -> None:
    SaveCheckpoint(model=sd1.model).run(ctx)
    again = LoadDiffusionModel(file=ctx.files[0]).run(context)
    assert again.spec == sd1.model.spec
    with sd1.model.weights.use() as ours, again.weights.use() as theirs:
        assert all(torch.equal(w, theirs.state_dict()[name]) for name, w in ours.state_dict().items())


def test_an_autoencoder_is_saved_and_decodes_as_before(sd1: Any, ctx: Any, context: Context, tmp_path: Path) -> None:
    SaveVAE(vae=sd1.vae, prefix="vae/mine").run(ctx)
    assert ctx.files == [tmp_path / "vae" / "mine_00001_.safetensors"]
    assert ctx.steps[-1][0] == ctx.steps[-1][1]
    again = LoadVAE(file=ctx.files[0]).run(context)
    latent = Latent(torch.linspace(-2, 2, 256).reshape(1, 4, 8, 8))
    before, after = (VAEDecode(vae=vae, latent=latent).run(context).pixels for vae in (sd1.vae, again))
    assert torch.equal(before, after)


def test_a_text_encoder_is_saved_and_reads_as_before(sd1: Any, ctx: Any, context: Context, tmp_path: Path) -> None:
    SaveTextEncoders(clip=sd1.clip, prefix="mine").run(ctx)
    assert ctx.files == [tmp_path / "mine_clip_l_00001_.safetensors"]
    again = LoadTextEncoder(file=ctx.files[0], family="stable_diffusion").run(context)
    before, after = (TextEncode(clip=clip, text="a cat").run(context).entries[0] for clip in (sd1.clip, again))
    assert torch.equal(before.embedding, after.embedding)


def test_each_text_encoder_has_a_file_to_itself(tiny_sdxl: Path, ctx: Any, context: Context) -> None:
    clip = LoadCheckpoint(file=tiny_sdxl).run(context).clip
    assert clip is not None
    SaveTextEncoders(clip=clip, prefix="mine", format="float32").run(ctx)
    assert [path.name for path in ctx.files] == ["mine_clip_l_00001_.safetensors", "mine_clip_g_00001_.safetensors"]
    with clip.weights.use() as networks:
        for path, key in zip(ctx.files, ("clip_l", "clip_g"), strict=True):
            ours = {name.removeprefix("text_model."): w for name, w in networks[key].state_dict().items()}
            theirs = {name.removeprefix("text_model."): w for name, w in load_file(path).items()}
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(w.cpu(), theirs[name]) for name, w in ours.items())


@pytest.mark.parametrize(
    ("save", "said"),
    [
        (
            "SaveCheckpoint, model: $one.model, clip: $other.clip",
            "'clip' is of the sdxl family, but input 'model' is of",
        ),
        ("SaveCheckpoint, model: $one.model, prefix: ../mine", "leads out of the output folder"),
        ("SaveVAE, vae: $one.vae, prefix: /mine", "leads out of the output folder"),
        ("SaveTextEncoders, clip: $one.clip, prefix: a/../../mine", "leads out of the output folder"),
        (
            "SaveVAE, vae: $tiny",
            "input 'vae' is an autoencoder of a kind that no checkpoint holds; its own file will do.",
        ),
    ],
)
def test_what_can_not_be_saved_is_refused(
    save: str, said: str, tiny_sd1: Path, tiny_sdxl: Path, tiny: ModuleType, tmp_path: Path
) -> None:
    decoder = tiny.write(tmp_path / "decoder.safetensors", tiny.fill(tiny.tiny_vae_shapes("decoder")))
    nodes = BOTH.replace("<one>", str(tiny_sd1)).replace("<other>", str(tiny_sdxl))
    nodes += f"  tiny: {{type: LoadTinyVAE, decoder: {decoder}, family: sd1}}\n  save: {{type: {save}}}\n"
    with pytest.raises(InvalidWorkflow) as caught:
        build_graph(parse_document(f"latentgraph: 1\nnodes:\n{nodes}"), default_registry(), resolver=FolderResolver({}))
    (found,) = [each for each in caught.value.problems if each.severity == "error"]
    assert said in found.message
