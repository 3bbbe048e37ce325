"""Loading gives handles, whose weights are read later."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from latentgraph.diffusion.names import PrecisionChoice
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.graph import Context, InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.autoencoders import VAEDecode
from latentgraph.nodes.latents import EmptyLatent
from latentgraph.nodes.loading import LoadCheckpoint, LoadDiffusionModel, LoadTinyVAE, LoadVAE
from latentgraph.nodes.sampling import KSampler
from latentgraph.nodes.text import TextEncode
from latentgraph.nodes.text_encoders import LoadTextEncoder


def test_a_checkpoint_has_three_parts_and_reads_no_weight(tiny_sd1: Path) -> None:
    memory = WeightMemory(precision="exact")
    loaded = LoadCheckpoint(file=tiny_sd1).run(Context(resources={WeightMemory: memory}))
    assert loaded.clip is not None
    assert loaded.vae is not None
    assert (loaded.model.spec.family, loaded.clip.spec.family) == ("sd1", "sd1")
    assert memory.resident_bytes == 0


def test_what_a_checkpoint_lacks_is_none(reference_tiny: Path, context: Context) -> None:
    assert LoadCheckpoint(file=reference_tiny).run(context).clip is None


def test_the_vae_of_a_checkpoint_can_be_loaded_alone(tiny_sd1: Path, sd1: Any, context: Context) -> None:
    assert LoadVAE(file=tiny_sd1).run(context).spec == sd1.vae.spec


@pytest.mark.parametrize("precision", ["default", "fp32", "bf16"])
def test_a_loader_may_choose_the_formats_of_what_it_loads(
    precision: PrecisionChoice, tiny: ModuleType, tiny_sd1: Path, tmp_path: Path, context: Context
) -> None:
    decoder = tiny.write(tmp_path / "taesd_decoder.safetensors", tiny.fill(tiny.tiny_vae_shapes("decoder")))
    loaded = LoadCheckpoint(file=tiny_sd1, precision=precision).run(context)
    vae = LoadVAE(file=tiny_sd1, precision=precision).run(context)
    model = LoadDiffusionModel(file=tiny_sd1, precision=precision).run(context)
    text = LoadTextEncoder(file=tiny_sd1, precision=precision).run(context)
    expected = "exact" if precision == "default" else precision
    small = LoadTinyVAE(decoder=decoder, family="sd1", precision=precision).run(context)
    handles = (loaded.model, loaded.clip, loaded.vae, vae, model, text, small)
    assert [handle.weights.policy.precision for handle in handles if handle is not None] == [expected] * 7


def test_one_graph_may_sample_in_bfloat16_and_decode_in_float32(tiny_sd1: Path, context: Context) -> None:
    loaded = LoadCheckpoint(file=tiny_sd1, precision="bf16").run(context)
    vae = LoadVAE(file=tiny_sd1, precision="fp32").run(context)
    text = TextEncode(clip=loaded.clip, text="a tree").run(context)
    latent = EmptyLatent(width=64, height=64).run(context)
    sampled = KSampler(model=loaded.model, positive=text, negative=text, latent=latent, steps=1).run(context)
    assert VAEDecode(vae=vae, latent=sampled).run(context).pixels.isfinite().all()
    with loaded.model.weights.use() as network, vae.weights.use() as decoder:
        assert (network.dtype, decoder.dtype) == (torch.bfloat16, torch.float32)


def test_a_precision_that_there_is_not_is_an_error_before_anything_is_loaded(tiny_sd1: Path) -> None:
    tree = {"latentgraph": 1, "nodes": {"load": {"type": "LoadVAE", "file": str(tiny_sd1), "precision": "fp16"}}}
    document = parse_document(json.dumps(tree))
    with pytest.raises(InvalidWorkflow, match='expected one of "default", "auto", "exact", "fp32", "bf16"'):
        build_graph(document, default_registry())
