"""Opening checkpoints and loading their networks, compared with diffusers' own conversion of the same tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.checkpoints.opening import open_checkpoint, open_vae
from latentgraph.diffusion.networks.attention import ExactUNetAttention, ExactVaeAttention
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.precision import resolve

REFERENCE = json.loads((Path(__file__).parents[1] / "vectors" / "end_to_end_tiny.json").read_text())

ONE_BLOCK = {"layers_per_block": 1, "norm_num_groups": 32}
OUTER = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
INNER = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
UNETS: dict[str, dict[str, Any]] = {
    "tiny_sd1": {"block_out_channels": (32, 64), "cross_attention_dim": 64, "attention_head_dim": 8, **OUTER},
    "tiny_sd1_inpaint": {
        "block_out_channels": (32, 64),
        "cross_attention_dim": 64,
        "attention_head_dim": 8,
        "in_channels": 9,
        **OUTER,
    },
    "tiny_sd2": {
        "block_out_channels": (64, 128),
        "cross_attention_dim": 64,
        "attention_head_dim": (1, 2),
        "use_linear_projection": True,
        **OUTER,
    },
    "tiny_sdxl": {
        "block_out_channels": (64, 128),
        "cross_attention_dim": 128,
        "attention_head_dim": (1, 2),
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 64 + 6 * 256,
        **INNER,
    },
}


@pytest.fixture(scope="module")
def memory() -> WeightMemory:
    return WeightMemory(precision="exact", budget_bytes=1 << 30)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(w, expected[key]) for key, w in found.items())


def floats(path: Path) -> dict[str, Tensor]:
    return {key: w.float() for key, w in load_file(path).items()}


@pytest.mark.parametrize("name", UNETS)
def test_a_loaded_unet_is_diffusers_own_with_the_same_weights(
    name: str, memory: WeightMemory, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(name)
    oracle = UNet2DConditionModel(**UNETS[name], **ONE_BLOCK)
    oracle.load_state_dict(convert_ldm_unet_checkpoint(floats(path), dict(oracle.config)))
    oracle.set_attn_processor(ExactUNetAttention())
    added = {"text_embeds": draw(2, 64), "time_ids": draw(2, 6)} if name == "tiny_sdxl" else None
    x, context = draw(2, oracle.config.in_channels, 8, 6), draw(2, 5, oracle.config.cross_attention_dim)
    checkpoint = open_checkpoint(path, memory)
    with checkpoint.model.weights.use() as network, torch.inference_mode():
        assert checkpoint.model.spec.network.context_width == context.shape[-1]
        expected = oracle(x, torch.tensor([10.0, 500.0]), context, added_cond_kwargs=added).sample
        assert torch.equal(network(x, torch.tensor([10.0, 500.0]), context, added_cond_kwargs=added).sample, expected)
        assert not network.training
        assert not any(w.requires_grad for w in network.parameters())


def test_a_loaded_vae_is_diffusers_own_with_the_same_weights(tiny_sd1: Path, memory: WeightMemory) -> None:
    oracle = AutoencoderKL(
        block_out_channels=(32, 64, 128, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
    )
    oracle.load_state_dict(convert_ldm_vae_checkpoint(floats(tiny_sd1), dict(oracle.config)))
    oracle.set_attn_processor(ExactVaeAttention())
    vae = open_checkpoint(tiny_sd1, memory).vae
    assert vae is not None
    with vae.weights.use() as network, torch.inference_mode():
        assert torch.equal(network.decode(draw(1, 4, 4, 4)).sample, oracle.decode(draw(1, 4, 4, 4)).sample)
        picture = draw(1, 3, 32, 16)
        assert torch.equal(network.encode(picture).latent_dist.mode(), oracle.encode(picture).latent_dist.mode())


def test_loaded_text_encoders_are_transformers_own_with_the_same_weights(
    tiny_sdxl: Path, tiny: ModuleType, memory: WeightMemory
) -> None:
    weights = floats(tiny_sdxl)
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1, "attn_implementation": "eager"}
    ids = {"bos_token_id": 49406, "eos_token_id": 49407}
    first = CLIPTextModel(
        CLIPTextConfig(num_hidden_layers=2, hidden_act="quick_gelu", pad_token_id=49407, **sizes, **ids)
    )
    own = {key.removeprefix(tiny.SDXL_TEXT_L): w for key, w in weights.items() if key.startswith(tiny.SDXL_TEXT_L)}
    named = any(key.startswith("text_model.") for key in first.state_dict())  # by the version of transformers
    first.load_state_dict({f"text_model.{key}" if named else key: w for key, w in own.items()})
    second = CLIPTextModelWithProjection(
        CLIPTextConfig(num_hidden_layers=3, hidden_act="gelu", projection_dim=64, pad_token_id=0, **sizes, **ids)
    )
    second.load_state_dict(convert_open_clip_checkpoint(second, weights, prefix=tiny.SDXL_TEXT_G))
    tokens = torch.tensor([[49406, 320, 1125, 49407, 0, 0]])
    clip = open_checkpoint(tiny_sdxl, memory).clip
    assert clip is not None
    with clip.weights.use() as networks, torch.inference_mode():
        assert list(networks) == ["clip_l", "clip_g"]
        assert torch.equal(networks["clip_l"](tokens).last_hidden_state, first(tokens).last_hidden_state)
        assert torch.equal(networks["clip_g"](tokens).text_embeds, second(tokens).text_embeds)


def test_the_reference_vae_encodes_as_the_reference_does(reference_tiny: Path, memory: WeightMemory) -> None:
    checkpoint = open_checkpoint(reference_tiny, memory)
    assert checkpoint.clip is None
    assert checkpoint.vae is not None
    y, x, k = torch.meshgrid(torch.arange(64), torch.arange(64), torch.arange(3), indexing="ij")
    picture = (((7 * y + 13 * x + 29 * k) % 64) / 63)[None].permute(0, 3, 1, 2)
    with checkpoint.vae.weights.use() as network, torch.inference_mode():
        latent = network.encode(2 * picture - 1).latent_dist.mode()
    expected = torch.tensor(REFERENCE["VAEEncode img(64,64)"]["first8"])
    torch.testing.assert_close(latent.flatten()[:8], expected, rtol=0, atol=2e-6)


def test_a_folder_gives_the_weights_that_diffusers_wrote(tiny_folder: Path, memory: WeightMemory) -> None:
    checkpoint = open_checkpoint(tiny_folder, memory)
    assert checkpoint.clip is not None
    assert checkpoint.vae is not None
    for weights, oracle in (
        (checkpoint.model.weights, UNet2DConditionModel.from_pretrained(tiny_folder / "unet")),
        (checkpoint.vae.weights, AutoencoderKL.from_pretrained(tiny_folder / "vae")),
    ):
        with weights.use() as network:
            assert_same(network.state_dict(), oracle.state_dict())
    with checkpoint.clip.weights.use() as networks:
        assert networks["clip_l"].config.num_attention_heads == 2


def test_exact_precision_rounds_text_encoders_to_half_and_nothing_else(tiny: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "full.safetensors"
    tensors = tiny.sd1_tensors()
    save_file({key: w.contiguous() for key, w in tensors.items()}, path)
    checkpoint = open_checkpoint(path, WeightMemory(precision="exact", budget_bytes=1 << 30))
    assert checkpoint.clip is not None
    with checkpoint.model.weights.use() as network:
        assert torch.equal(network.conv_in.weight, tensors[f"{tiny.UNET}input_blocks.0.0.weight"])
    with checkpoint.clip.weights.use() as networks:
        stored = tensors[f"{tiny.SD1_TEXT}encoder.layers.0.mlp.fc1.weight"]
        loaded = next(w for key, w in networks["clip_l"].named_parameters() if key.endswith("layers.0.mlp.fc1.weight"))
        assert not torch.equal(loaded, stored)
        assert torch.equal(loaded, stored.half().float())


def test_auto_precision_follows_the_policy_for_each_network(tiny_sd1: Path) -> None:
    policy = replace(resolve("auto", "cpu"), unet=torch.bfloat16, vae=torch.float16, text=torch.float32)
    memory = WeightMemory(precision="auto", budget_bytes=1 << 30)
    memory.policy = policy
    checkpoint = open_checkpoint(tiny_sd1, memory)
    assert checkpoint.clip is not None
    assert checkpoint.vae is not None
    with (
        checkpoint.model.weights.use() as unet,
        checkpoint.vae.weights.use() as vae,
        checkpoint.clip.weights.use() as text,
    ):
        assert {w.dtype for w in unet.parameters()} == {torch.bfloat16}
        assert {w.dtype for w in vae.parameters()} == {torch.float16}
        assert {w.dtype for w in text["clip_l"].parameters()} == {torch.float32}
        assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_budget_counts_what_a_network_takes(tiny_sd1: Path) -> None:
    memory = WeightMemory(precision="exact", budget_bytes=1 << 30)
    with open_checkpoint(tiny_sd1, memory).model.weights.use() as network:
        assert memory.resident_bytes == sum(w.numel() * w.element_size() for w in network.parameters())


def test_checkpoints_opened_twice_share_their_weights(tiny_sd1: Path, memory: WeightMemory) -> None:
    once, again = open_checkpoint(tiny_sd1, memory), open_checkpoint(str(tiny_sd1), memory)
    assert once.model.weights == again.model.weights
    assert once.vae is not None
    assert once.model.weights != once.vae.weights
    with once.model.weights.use() as network, again.model.weights.use() as twin:
        assert network is twin


def test_opening_reads_no_weights(tiny: ModuleType, tmp_path: Path) -> None:
    shapes = {tiny.UNET + key: shape for key, shape in tiny.unet_shapes(tiny.SD1).items()}
    path = tiny.write_skeleton(tmp_path / "m.safetensors", shapes)
    memory = WeightMemory(budget_bytes=1 << 30)
    checkpoint = open_checkpoint(path, memory)
    assert memory.resident_bytes == 0
    assert checkpoint.vae is None


def test_the_vae_of_a_checkpoint_and_a_vae_alone_hold_the_same(
    tiny: ModuleType, tiny_sd1: Path, tmp_path: Path, memory: WeightMemory
) -> None:
    alone = tiny.write(tmp_path / "vae.safetensors", tiny.fill(tiny.vae_shapes()))
    with open_vae(alone, memory).weights.use() as one, open_vae(tiny_sd1, memory).weights.use() as other:
        assert torch.equal(one.decode(draw(1, 4, 2, 2)).sample, other.decode(draw(1, 4, 2, 2)).sample)


@pytest.mark.parametrize("old_names", [False, True])
def test_a_vae_in_diffusers_layout_loads_under_new_and_old_names(
    old_names: bool, tiny_folder: Path, tmp_path: Path, memory: WeightMemory
) -> None:
    weights = load_file(tiny_folder / "vae" / "diffusion_pytorch_model.safetensors")
    renamed = dict(weights)
    if old_names:
        olds = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for new, old in olds.items():
            renamed = {key.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): w for key, w in renamed.items()}
    path = tmp_path / "vae.safetensors"
    save_file(renamed, path)
    with open_vae(path, memory).weights.use() as network:
        assert_same(network.state_dict(), weights)


def test_missing_and_unknown_tensors_are_named(tiny: ModuleType, tmp_path: Path, memory: WeightMemory) -> None:
    tensors = tiny.sd1_tensors()
    del tensors[f"{tiny.UNET}out.0.bias"]
    tensors[f"{tiny.UNET}input_blocks.9.extra.weight"] = torch.zeros(1)
    path = tiny.write(tmp_path / "m.safetensors", tensors)
    with pytest.raises(
        HeaderError, match=r"1 missing \(out\.0\.bias\) and 1 unknown \(input_blocks\.9\.extra\.weight\)"
    ):
        open_checkpoint(path, memory)


def test_tensors_that_no_network_takes_are_passed_over(tiny: ModuleType, tmp_path: Path, memory: WeightMemory) -> None:
    tensors = tiny.sd1_tensors()
    tensors |= {
        f"{tiny.SD1_TEXT}embeddings.position_ids": torch.arange(77)[None],
        f"{tiny.VAE}loss.discriminator.main.0.weight": torch.zeros(3),
        "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(3),
        "alphas_cumprod": torch.zeros(1000),
    }
    checkpoint = open_checkpoint(tiny.write(tmp_path / "m.safetensors", tensors), memory)
    assert checkpoint.clip is not None
    assert checkpoint.vae is not None
    with checkpoint.model.weights.use(), checkpoint.clip.weights.use() as networks, checkpoint.vae.weights.use():
        positions = dict(networks["clip_l"].named_buffers())
        assert [buffer.tolist() for buffer in positions.values()] == [[list(range(77))]]


def test_a_tensor_of_the_wrong_shape_is_named(tiny: ModuleType, tmp_path: Path, memory: WeightMemory) -> None:
    tensors = tiny.sd1_tensors()
    key = f"{tiny.UNET}middle_block.0.in_layers.2.bias"
    tensors[key] = torch.zeros(65)
    path = tiny.write(tmp_path / "m.safetensors", tensors)
    with pytest.raises(HeaderError, match=r"middle_block\.0\.in_layers\.2\.bias with the shape \[65\]"):
        open_checkpoint(path, memory)


def test_a_file_that_changed_since_it_was_opened_is_refused(
    tiny: ModuleType, tmp_path: Path, memory: WeightMemory
) -> None:
    path = tiny.write_sd1(tmp_path / "m.safetensors")
    checkpoint = open_checkpoint(path, memory)
    os.utime(path, ns=(0, 0))
    with pytest.raises(HeaderError, match="a changed file"), checkpoint.model.weights.use():
        pass
    assert open_checkpoint(path, memory).model.weights != checkpoint.model.weights


def test_text_weights_without_the_inner_prefix_load_too(tiny: ModuleType, tmp_path: Path, memory: WeightMemory) -> None:
    tensors = {key.replace("transformer.text_model.", "transformer."): w for key, w in tiny.sd1_tensors().items()}
    clip = open_checkpoint(tiny.write(tmp_path / "m.safetensors", tensors), memory).clip
    assert clip is not None
    with clip.weights.use() as networks:
        assert list(networks) == ["clip_l"]
