from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentgraph.diffusion.checkpoints.describe import describe, describe_network
from latentgraph.diffusion.checkpoints.describe_vae import describe_vae
from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.families.stable_diffusion import SD_LATENT

DETECTION = json.loads((Path(__file__).parents[1] / "vectors" / "misc.json").read_text())["detection"]
SUPPORTED = {
    "SD15": "sd1",
    "SD15_instructpix2pix": "sd1",
    "SD20": "sd2",
    "SDXL": "sdxl",
    "SDXL_instructpix2pix": "sdxl",
    "SDXLRefiner": "sdxl-refiner",
    "SD21UnclipH": "sd2-unclip",
    "SD21UnclipL": "sd2-unclip",
    "SSD1B": "sdxl",  # an SDXL with fewer blocks
}


def skeleton(tiny: ModuleType, path: Path, row: str) -> Path:
    shapes = tiny.unet_shapes(tiny.layout_of(DETECTION[row]["config"]))
    return tiny.write_skeleton(path / "model.safetensors", {tiny.UNET + key: shape for key, shape in shapes.items()})


@pytest.mark.parametrize("row", [row for row, found in DETECTION.items() if found["class"] in SUPPORTED])
def test_a_published_model_is_described_at_its_true_size(row: str, tiny: ModuleType, tmp_path: Path) -> None:
    expected, config = DETECTION[row], DETECTION[row]["config"]
    found = describe(skeleton(tiny, tmp_path, row))
    unet = found.model.network
    assert found.family == SUPPORTED[expected["class"]]
    assert found.model.latent.scale == expected["latent_scale"]
    assert found.model.takes_extra == expected["inpaint"]
    assert unet.in_channels == config["in_channels"]
    assert unet.widths == tuple(mult * config["model_channels"] for mult in config["channel_mult"])
    assert unet.res_blocks == tuple(config["num_res_blocks"])
    assert [depth for level in unet.depths_in for depth in level] == config["transformer_depth"]
    assert [depth for level in unet.depths_out for depth in level] == config["transformer_depth_output"][::-1]
    assert unet.depth_middle == max(0, config["transformer_depth_middle"])
    assert unet.context_width == config["context_dim"]
    assert unet.vector_width == config["adm_in_channels"]
    assert found.model.prediction == "eps"
    assert (found.clip, found.vae) == (None, None)


def test_the_layouts_of_these_tests_have_as_many_keys_as_the_published_models(tiny: ModuleType) -> None:
    counted = {row: len(tiny.unet_shapes(tiny.layout_of(found["config"]))) for row, found in DETECTION.items()}
    assert counted == {row: found["n_unet_keys"] for row, found in DETECTION.items()}


def test_heads_are_eight_in_sd1_and_sixty_four_wide_elsewhere(tiny: ModuleType, tmp_path: Path) -> None:
    assert describe(skeleton(tiny, tmp_path, "SD1.5")).model.network.heads == (8, 8, 8, 8)
    assert describe(skeleton(tiny, tmp_path, "SD2.x 4ch")).model.network.heads == (5, 10, 20, 20)
    assert describe(skeleton(tiny, tmp_path, "SDXL base")).model.network.heads == (5, 10, 20)


def test_the_text_encoders_and_vae_of_sd15_are_described_at_their_true_size(tiny: ModuleType, tmp_path: Path) -> None:
    unet = tiny.unet_shapes(tiny.layout_of(DETECTION["SD1.5"]["config"]))
    parts = {tiny.UNET: unet, tiny.VAE: tiny.vae_shapes(128, blocks=2), tiny.SD1_TEXT: tiny.clip_shapes(768, 12)}
    shapes = {prefix + key: shape for prefix, part in parts.items() for key, shape in part.items()}
    found = describe(tiny.write_skeleton(tmp_path / "sd15.safetensors", shapes))
    assert found.clip is not None
    assert found.vae is not None
    (encoder,) = found.clip.encoders
    assert (encoder.key, encoder.width, encoder.layers, encoder.heads, encoder.intermediate) == (
        "clip_l",
        768,
        12,
        12,
        3072,
    )
    assert (encoder.activation, encoder.pad_id, encoder.pooled) == ("quick_gelu", 49407, "state")
    assert (found.vae.widths, found.vae.encoder_blocks, found.vae.downscale) == ((128, 256, 512, 512), 2, 8)


def test_sdxl_joins_two_text_encoders_and_pools_the_second(tiny_sdxl: Path) -> None:
    clip = describe(tiny_sdxl).clip
    assert clip is not None
    assert [encoder.key for encoder in clip.encoders] == ["clip_l", "clip_g"]
    assert [encoder.default_layer for encoder in clip.encoders] == [-2, -2]
    assert not any(encoder.final_norm_on_hidden for encoder in clip.encoders)
    assert (clip.context_width, clip.pooled_width) == (128, 64)


def test_an_inpainting_network_says_so(tiny_sd1_inpaint: Path) -> None:
    found = describe(tiny_sd1_inpaint)
    assert found.model.inpaint
    assert found.title == "Stable Diffusion 1.x, inpainting"


def test_sd2_predicts_v_if_the_last_norm_spreads_widely(tiny_sd2: Path, tiny_sd2_v: Path) -> None:
    eps, v = describe(tiny_sd2).model, describe(tiny_sd2_v).model
    assert (eps.prediction, eps.resolution) == ("eps", 512)
    assert (v.prediction, v.resolution) == ("v", 768)


def test_an_inpainting_sd2_predicts_eps_however_its_norm_spreads(tiny: ModuleType, tmp_path: Path) -> None:
    path = tiny.write_sd2(tmp_path / "inpaint.safetensors", in_channels=9, v=True)
    assert describe(path).model.prediction == "eps"


def test_marking_keys_make_an_sdxl_predict_v_down_to_pure_noise(tiny: ModuleType, tmp_path: Path) -> None:
    model = describe(tiny.write_sdxl(tmp_path / "v.safetensors", v=True)).model
    assert (model.prediction, model.zero_terminal_snr) == ("v", True)


def test_metadata_names_prediction_and_resolution(tiny: ModuleType, tmp_path: Path) -> None:
    metadata = {"modelspec.prediction_type": "v", "modelspec.resolution": "128x128"}
    path = tiny.write(tmp_path / "m.safetensors", tiny.sd1_tensors(), metadata)
    model = describe(path).model
    assert (model.prediction, model.resolution) == ("v", 128)


@pytest.mark.parametrize("rows", [4, 5])
def test_metadata_states_preview_colours(tiny: ModuleType, tmp_path: Path, rows: int) -> None:
    stated = [[0.5, 0.25, i] for i in range(rows)]
    path = tiny.write(tmp_path / "m.safetensors", tiny.sd1_tensors(), {"latentgraph.colours": json.dumps(stated)})
    assert describe(path).model.latent.colours == tuple((0.5, 0.25, float(i)) for i in range(rows))


@pytest.mark.parametrize("stated", ["[[1, 2], [3, 4]]", "[[0, 0, 0]]", "7", "[", "[" * 9999, '[["a", 0, 0]]'])
def test_colours_that_are_none_are_ignored(tiny: ModuleType, tmp_path: Path, stated: str) -> None:
    path = tiny.write(tmp_path / "m.safetensors", tiny.sd1_tensors(), {"latentgraph.colours": stated})
    assert describe(path).model.latent.colours == SD_LATENT.colours


def test_an_unknown_prediction_is_an_error_that_names_it(tiny: ModuleType, tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "m.safetensors", tiny.sd1_tensors(), {"modelspec.prediction_type": "score"})
    with pytest.raises(HeaderError, match="'score'"):
        describe(path)


def test_levels_may_have_any_width_that_groups_divide(tiny: ModuleType, tmp_path: Path) -> None:
    layout = tiny.UNetLayout(128, (1, 2, 2.5), (1,) * 3, (0, 1, 1), (0, 0, 1, 1, 1, 1), 1, context=192, linear=False)
    shapes = {key: tuple(int(side) for side in shape) for key, shape in tiny.unet_shapes(layout).items()}
    found = describe(tiny.write_skeleton(tmp_path / "odd.safetensors", shapes))
    assert found.model.network.widths == (128, 256, 320)
    assert found.family == "sd1"


def test_a_bare_network_is_a_checkpoint_without_clip_and_vae(tiny: ModuleType, tmp_path: Path) -> None:
    found = describe(tiny.write(tmp_path / "unet.safetensors", tiny.fill(tiny.unet_shapes(tiny.SD1))))
    assert (found.family, found.clip, found.vae) == ("sd1", None, None)


def test_a_diffusers_folder_is_described_like_a_file(tiny_folder: Path) -> None:
    found = describe(tiny_folder)
    assert found.family == "sd1"
    assert found.model.network.heads == (4, 4)  # as its config says
    assert found.clip is not None
    assert found.clip.encoders[0].heads == 2  # as its config says
    assert found.vae is not None
    assert found.vae.downscale == 2


def test_an_sd2_folder_reads_its_last_text_layer_because_diffusers_cut_off_the_one_behind(
    tiny: ModuleType, tiny_sd2: Path, tmp_path: Path
) -> None:
    file, folder = describe(tiny_sd2).clip, describe(tiny.write_folder(tmp_path / "folder", sd2=True)).clip
    assert file is not None
    assert folder is not None
    assert [(encoder.key, encoder.default_layer) for encoder in file.encoders] == [("clip_h", -2)]
    assert [(encoder.key, encoder.default_layer) for encoder in folder.encoders] == [("clip_h", -1)]
    assert folder.encoders[0].activation == "quick_gelu"  # as its config says


@pytest.mark.parametrize("flaw", [{"num_attention_heads": 7}, {"num_attention_heads": "2"}, {"hidden_act": "relu"}])
def test_a_text_encoder_whose_config_makes_no_sense_is_refused(
    flaw: dict[str, object], tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(tiny_folder, folder)
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | flaw))
    with pytest.raises(HeaderError, match=str(next(iter(flaw.values())))):
        describe(folder)


def test_the_scheduler_of_a_folder_names_the_prediction(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(tiny_folder, folder)
    config = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    model = describe(folder).model
    assert (model.prediction, model.zero_terminal_snr) == ("v", True)


def test_a_folder_prefers_the_half_precision_variant_and_reads_shards(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(tiny_folder, folder)
    unet, vae = folder / "unet", folder / "vae"
    weights = load_file(vae / "diffusion_pytorch_model.safetensors")
    save_file({key: w.half() for key, w in weights.items()}, vae / "diffusion_pytorch_model.fp16.safetensors")
    weights = load_file(unet / "diffusion_pytorch_model.safetensors")
    half = len(weights) // 2
    shards = {"one.safetensors": list(weights)[:half], "two.safetensors": list(weights)[half:]}
    for name, keys in shards.items():
        save_file({key: weights[key] for key in keys}, unet / name)
    weight_map = {key: name for name, keys in shards.items() for key in keys}
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    found = describe(folder)
    assert [file.path.name for file in found.model_part.files] == ["one.safetensors", "two.safetensors"]
    assert [file.path.name for file in found.vae_parts[0].files] == ["diffusion_pytorch_model.fp16.safetensors"]


@pytest.mark.parametrize("shard", ["../../secret.safetensors", "missing.safetensors", "/etc/passwd"])
def test_a_shard_is_a_file_beside_its_index(shard: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(tiny_folder, folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": shard}}))
    with pytest.raises(HeaderError, match="the shard"):
        describe(folder)


def test_a_folder_with_pickles_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}))
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(HeaderError, match="only as a pickle"):
        describe(tmp_path)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeaderError, match=r"without model_index\.json"):
        describe(tmp_path)


STRANGERS = {
    "a LoRA": ("a LoRA (3 lora keys", ["lora_unet_down.lora_up.weight", "lora_unet_down.lora_down.weight", "x.lora_up.weight"]),
    "a LoRA by PEFT": ("a LoRA", ["unet.down_blocks.0.attentions.0.to_q.lora_A.weight"]),
    "a LoRA for FLUX": ("a LoRA", ["diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight"]),
    "a ControlNet": ("a ControlNet", ["control_model.zero_convs.0.0.weight", "control_model.input_blocks.0.0.weight"]),
    "a bare ControlNet": ("a ControlNet", ["zero_convs.0.0.weight", "input_blocks.0.0.weight"]),
    "a ControlNet by diffusers": (
        "a ControlNet",
        ["controlnet_cond_embedding.conv_in.weight", "conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"],
    ),
    "a VAE": ("a VAE alone", ["decoder.conv_in.weight", "encoder.conv_in.weight"]),
    "a text encoder": ("a text encoder alone", ["text_model.embeddings.token_embedding.weight"]),
    "a T5": ("a text encoder alone", ["encoder.block.0.layer.0.SelfAttention.q.weight"]),
    "an upscaler": ("an upscale model", ["model.1.sub.0.RDB1.conv1.0.weight", "model.0.weight"]),
    "an embedding": ("a textual inversion embedding", ["emb_params"]),
    "a broken SD3": ("'x_embedder.proj.weight' is missing", ["joint_blocks.0.context_block.attn.qkv.weight"]),
    "Chroma": ("a network of Chroma, which is not supported (1 tensor", ["distilled_guidance_layer.in_proj.weight"]),
    "Qwen-Image": ("a network of Qwen-Image", ["transformer_blocks.0.img_mod.1.weight", "img_in.weight"]),
    "a ControlNet-LLLite": ("a ControlNet-LLLite", ["lllite_unet_input_blocks_4_1.down.0.weight"]),
    "something else": ("keys below some.weird (2), other (1)", ["some.weird.key", "some.weird.thing", "other"]),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGERS)
def test_a_file_that_is_no_checkpoint_is_told_by_its_keys(name: str, tmp_path: Path) -> None:
    found, keys = STRANGERS[name]
    path = tmp_path / "file.safetensors"
    save_file({key: torch.zeros(1) for key in keys}, path)
    with pytest.raises(HeaderError) as caught:
        describe(path)
    assert found in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_unknown_unet_is_compared_with_the_nearest_family(tiny: ModuleType, tmp_path: Path) -> None:
    layout = tiny.UNetLayout(**{**vars(tiny.SD1), "in_channels": 12})
    path = tiny.write_skeleton(tmp_path / "m.safetensors", tiny.unet_shapes(layout))
    with pytest.raises(HeaderError, match=r"like that of Stable Diffusion 1\.x.*12 input channels"):
        describe(path)


def test_a_network_of_a_family_that_can_not_be_run_is_named(tiny: ModuleType, tmp_path: Path) -> None:
    layout = tiny.UNetLayout(**{**vars(tiny.UNCLIP), "in_channels": 8})
    shapes = {**tiny.unet_shapes(layout), "input_blocks.1.0.time_stack.in_layers.0.weight": (64,)}
    path = tiny.write_skeleton(tmp_path / "svd.safetensors", shapes)
    with pytest.raises(HeaderError, match=r"a network of Stable Video Diffusion, .*Known: .*Stable Diffusion XL"):
        describe(path)


def test_a_network_with_more_than_that_of_a_family_is_named_where_it_is_known(tiny: ModuleType, tmp_path: Path) -> None:
    shapes = {**tiny.unet_shapes(tiny.SDXL), "encoder_hid_proj.weight": (128, 256)}
    path = tiny.write_skeleton(tmp_path / "kolors.safetensors", shapes)
    with pytest.raises(HeaderError, match="a network of Kolors, which is not supported"):
        describe(path)


@pytest.mark.parametrize(("key", "found"), [("norm.weight", "no known layout"), ("head.modulation", "of Wan")])
def test_a_folder_with_an_unknown_network_is_refused(key: str, found: str, tmp_path: Path) -> None:
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.parent.mkdir()
    save_file({key: torch.zeros(1)}, weights)
    (tmp_path / "model_index.json").write_text('{"transformer": ["diffusers", "Transformer"]}')
    with pytest.raises(HeaderError, match=found):
        describe(tmp_path)
    with pytest.raises(HeaderError, match=found):
        describe_network(weights.parent)


def test_a_vae_is_described_with_or_without_its_prefix(tiny: ModuleType, tiny_sd1: Path, tmp_path: Path) -> None:
    alone = tiny.write(tmp_path / "vae.safetensors", tiny.fill(tiny.vae_shapes()))
    assert describe_vae(alone).spec == describe_vae(tiny_sd1).spec
    assert describe_vae(alone).spec.widths == (32, 64, 128, 128)


@pytest.mark.parametrize("key", ["decoder.mid.attn_1.q.weight", "encoder.down.1.block.0.nin_shortcut.weight"])
def test_a_vae_that_lacks_a_tensor_is_refused_by_its_header(key: str, tiny: ModuleType, tmp_path: Path) -> None:
    shapes = tiny.vae_shapes()
    del shapes[key]
    path = tiny.write_skeleton(tmp_path / "vae.safetensors", shapes)
    with pytest.raises(HeaderError, match=rf"1 missing \({re.escape(key)}\)"):
        describe_vae(path)
    checkpoint = {
        **{tiny.UNET + k: s for k, s in tiny.unet_shapes(tiny.SD1).items()},
        **{tiny.VAE + k: s for k, s in shapes.items()},
    }
    with pytest.raises(HeaderError, match="1 missing"):
        describe(tiny.write_skeleton(tmp_path / "checkpoint.safetensors", checkpoint))


def test_a_file_without_a_vae_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file({"x.lora_up.weight": torch.zeros(1)}, path)
    with pytest.raises(HeaderError, match=r"a LoRA.*expected a VAE"):
        describe_vae(path)


def test_a_checkpoint_that_lacks_a_block_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    shapes = tiny.unet_shapes(tiny.SD1)
    del shapes["out.2.weight"]
    path = tiny.write_skeleton(tmp_path / "m.safetensors", shapes)
    with pytest.raises(HeaderError, match=r"'out\.2\.weight' is missing"):
        describe(path)
