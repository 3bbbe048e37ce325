"""Adapters as nodes: what they give, what they refuse before a run, and that a run with one draws something else."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.graph import (
    Context,
    Fingerprints,
    FolderResolver,
    Graph,
    InvalidWorkflow,
    MemoryCache,
    PlainCodec,
    Scheduler,
    build_graph,
    cache_keys,
    make_plan,
    parse_document,
)
from latentgraph.nodes import default_registry
from latentgraph.nodes.adapters import LoadLora, LoadLoraModelOnly
from latentgraph.nodes.codec import TensorCodec


@pytest.fixture(scope="module")
def loras(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    tiny.write(folder / "sd1.safetensors", tiny.sd1_lora())
    tiny.write(folder / "sdxl.safetensors", tiny.sdxl_lora())
    attention = tiny.kohya_lora(tiny.attention_of(tiny.unet_shapes(tiny.SD1)), "lora_unet_")
    tiny.write(folder / "attention.safetensors", attention)
    return folder


GRAPH = """
latentgraph: 1
nodes:
  load: {{type: LoadCheckpoint, file: {checkpoint}}}
{nodes}
  text: {{type: TextEncode, clip: {clip}, text: a cat}}
  empty: {{type: EmptyLatent, width: 64, height: 64}}
  sample: {{type: KSampler, model: {model}, positive: $text, negative: $text, latent: $empty, steps: 1, cfg: 1}}
outputs: {{latent: $sample}}
"""
STACK = """
  first: {type: LoadLora, model: $load.model, clip: $load.clip, file: sd1, model_strength: 0.5}
  second: {type: LoadLoraModelOnly, model: $first.model, file: attention}
"""


def build(
    loras: Path, checkpoint: Path, nodes: str = "", model: str = "$load.model", clip: str = "$load.clip"
) -> Graph:
    text = GRAPH.format(checkpoint=checkpoint, nodes=nodes, model=model, clip=clip)
    resolver = FolderResolver(folders={"lora": (loras,)}, suffixes={"lora": (".safetensors",)})
    return build_graph(parse_document(text), default_registry(), resolver=resolver)


def problem(*arguments: Any, **given: Any) -> str:
    with pytest.raises(InvalidWorkflow) as caught:
        build(*arguments, **given)
    (found,) = caught.value.problems
    assert found.place.mark is not None
    return found.message


def test_an_adapter_patches_network_and_text_encoder(sd1: Any, loras: Path, context: Context) -> None:
    given = {"model": sd1.model, "clip": sd1.clip, "file": loras / "sd1.safetensors"}
    patched = LoadLora(**given, model_strength=0.5, clip_strength=0.25).run(context)
    assert [patch.strength for patch in patched.model.weights.source.steps] == [0.5]
    assert [patch.strength for patch in patched.clip.weights.source.steps] == [0.25]
    assert patched.model.spec == sd1.model.spec


def test_an_adapter_without_a_place_for_some_modules_is_a_warning(
    sd1: Any, tiny: ModuleType, watched: Any, tmp_path: Path
) -> None:
    tensors = tiny.sd1_lora() | tiny.kohya_lora({"elsewhere.weight": (4, 4)}, "lora_unet_")
    file = tiny.write(tmp_path / "more.safetensors", tensors)
    ctx = watched(resources={WeightMemory: sd1.model.weights.memory})
    LoadLoraModelOnly(model=sd1.model, file=file).run(ctx)
    assert ctx.warnings == [
        "1 module of more.safetensors had no place in the network and stayed unused, such as lora_unet_elsewhere"
    ]


def test_embeddings_that_a_lora_carries_along_are_a_warning(
    sd1: Any, tiny: ModuleType, watched: Any, tmp_path: Path
) -> None:
    bundled = {"bundle_emb.token.string_to_param.*": torch.ones(2, 64), "bundle_emb.other.clip_l": torch.ones(2, 64)}
    file = tiny.write(tmp_path / "more.safetensors", tiny.sd1_lora() | bundled)
    ctx = watched(resources={WeightMemory: sd1.model.weights.memory})
    LoadLoraModelOnly(model=sd1.model, file=file).run(ctx)
    (warning,) = ctx.warnings
    assert "the embeddings in more.safetensors are not used (" in warning
    assert {"token", "other"} <= set(warning.replace("(", " ").replace(")", " ").replace(",", " ").split())


def test_what_is_known_of_a_model_is_known_of_the_patched_one(loras: Path, tiny_sd1: Path) -> None:
    graph = build(loras, tiny_sd1, STACK, model="$second", clip="$first.clip")
    assert graph.nodes["second"].facts["model"] == graph.nodes["load"].facts["model"]
    assert graph.nodes["first"].facts["clip"] == graph.nodes["load"].facts["clip"]


def test_an_adapter_of_another_family_is_refused(loras: Path, tiny_sd1: Path, tiny_sdxl: Path) -> None:
    nodes = "  lora: {type: LoadLora, model: $load.model, clip: $load.clip, file: sdxl}"
    message = problem(loras, tiny_sd1, nodes, model="$lora.model", clip="$lora.clip")
    assert "input 'file' is a LoRA for Stable Diffusion XL, but input 'model' is of the sd1 family" in message
    nodes = nodes.replace("sdxl", "sd1")
    message = problem(loras, tiny_sdxl, nodes, model="$lora.model", clip="$lora.clip")
    assert "input 'file' is a LoRA for Stable Diffusion 1.x, but input 'model' is of the sdxl family" in message


def test_a_part_with_no_strength_need_not_fit(loras: Path, tiny_sd1: Path, tiny_sdxl: Path) -> None:
    nodes = (
        "  other: {type: LoadCheckpoint, file: " + str(tiny_sdxl) + "}\n"
        "  lora: {type: LoadLora, model: $other.model, clip: $load.clip, file: sd1, model_strength: 0}"
    )
    build(loras, tiny_sd1, nodes, clip="$lora.clip")
    assert "'model'" in problem(loras, tiny_sd1, nodes.replace(", model_strength: 0", ""), clip="$lora.clip")


def test_adapters_change_keys_and_latents_and_share_the_checkpoint(loras: Path, tiny_sd1: Path) -> None:
    memory, cache, codec = (
        WeightMemory(precision="exact"),
        MemoryCache(PlainCodec(TensorCodec()), 1 << 24),
        TensorCodec(),
    )
    fingerprints = Fingerprints()
    latents: list[torch.Tensor] = []
    with Scheduler(cache, PlainCodec(codec), fingerprints=fingerprints, resources={WeightMemory: memory}) as scheduler:
        for graph in (
            build(loras, tiny_sd1),
            build(loras, tiny_sd1, STACK, model="$second", clip="$first.clip"),
            build(loras, tiny_sd1, STACK.replace("0.5", "0.25"), model="$second", clip="$first.clip"),
            build(loras, tiny_sd1, STACK, model="$second", clip="$load.clip"),
        ):
            plan = make_plan(graph, cache_keys(graph, fingerprints, "exact"), cache.tier)
            result = scheduler.run(plan)
            result.raise_failure()
            latents.append(result.outputs["latent"].samples)
    for i, one in enumerate(latents):
        assert not any(torch.equal(one, other) for other in latents[:i])
    titles = [source.title for source in memory._residents]
    assert titles.count("the UNet of sd1.safetensors") == 1
    assert sum("attention.safetensors" in title for title in titles) == 2  # the same stack is one copy
