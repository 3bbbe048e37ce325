"""What adapter files are found to be, and how they fit networks, compared with diffusers' own conversion of their names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from safetensors.torch import save_file
from torch import Tensor

from latentgraph.diffusion.adapters.files import Fit, fit, read_adapter, refusal
from latentgraph.diffusion.checkpoints.describe import describe
from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.families.specs import UNetSpec
from latentgraph.diffusion.families.text_joins import ClipSpec

Write = Callable[[Mapping[str, tuple[int, ...]]], Path]


@pytest.fixture
def written(tmp_path: Path) -> Write:
    """Writes an adapter of zeros from keys and shapes."""

    def write(shapes: Mapping[str, tuple[int, ...]]) -> Path:
        path = tmp_path / f"adapter{len(list(tmp_path.iterdir()))}.safetensors"
        save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, path)
        return path

    return write


def unet(path: Path) -> UNetSpec:
    return describe(path).model.network


def text(path: Path) -> ClipSpec:
    clip = describe(path).clip
    assert clip is not None
    return clip


def targets(fitted: Fit) -> dict[str, str]:
    return {f"{target.network}.{target.tensor}": change.form.name for target, change in fitted.placed}


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_kohyas_names_mean_what_diffusers_takes_them_for(
    family: str, tiny: ModuleType, written: Write, request: pytest.FixtureRequest
) -> None:
    """diffusers turns them into the names of its own early files, which are another way to name the same modules."""
    checkpoint = request.getfixturevalue(f"tiny_{family}")
    lora = tiny.sd1_lora() if family == "sd1" else tiny.sdxl_lora()
    ours = read_adapter(written(shapes_of(lora)))
    state = dict(lora)
    config = SimpleNamespace(layers_per_block=1)
    state = _maybe_map_sgm_blocks_to_diffusers(state, config)
    converted, _ = _convert_non_diffusers_lora_to_diffusers(state)
    theirs = read_adapter(written(shapes_of(converted)))
    for spec in (unet(checkpoint), text(checkpoint)):
        fitted = fit(ours, spec)
        assert (fitted.homeless, fitted.misfits) == ((), ())
        found = targets(fitted)
        if family == "sd1":  # diffusers takes an upsampler behind a block without attention for the attention
            found.pop("unet.up_blocks.0.upsamplers.0.conv.weight", None)
        assert targets(fit(theirs, spec)) == found


def test_every_matrix_and_convolution_of_a_network_can_be_reached(
    tiny: ModuleType, tiny_sdxl: Path, written: Write
) -> None:
    adapter = read_adapter(written(shapes_of(tiny.sdxl_lora())))
    reached = targets(fit(adapter, unet(tiny_sdxl)))
    assert len(reached) == sum(len(shape) in (2, 4) for shape in tiny.unet_shapes(tiny.SDXL).values())
    assert "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k.weight" in reached
    assert "unet.add_embedding.linear_1.weight" in reached


NAMES = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0": "kohya",
    "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_out_0": "kohya, by LDM's names",
    "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0": "LDM's own names",
    "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0": "LyCORIS",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": "diffusers",
    "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": "PEFT",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": "bare",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out": "diffusers' processors",
}


@pytest.mark.parametrize("name", NAMES, ids=NAMES.values())
@pytest.mark.parametrize("endings", [(".lora_up.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_A.weight"),
                                     ("_lora.up.weight", "_lora.down.weight"), (".lora_B", ".lora_A"),
                                     (".lora.up.weight", ".lora.down.weight"),
                                     (".lora_B.default.weight", ".lora_A.default.weight")])  # fmt: skip
def test_a_module_is_known_by_all_its_names(
    name: str, endings: tuple[str, str], tiny_sd1: Path, written: Write
) -> None:
    adapter = read_adapter(written({f"{name}{endings[0]}": (32, 4), f"{name}{endings[1]}": (4, 32)}))
    fitted = fit(adapter, unet(tiny_sd1))
    assert targets(fitted) == {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.weight": "lora"}
    assert fit(adapter, text(tiny_sd1)).placed == ()


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "clip_l"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", "clip_l"),
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1", "clip_l"),
        ("text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1", "clip_l"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", "clip_g"),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", "clip_g"),
        ("text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1", "clip_g"),
    ],
)
def test_each_of_sdxls_text_encoders_has_its_names(name: str, encoder: str, tiny_sdxl: Path, written: Write) -> None:
    adapter = read_adapter(written({f"{name}.lora_up.weight": (256, 4), f"{name}.lora_down.weight": (4, 64)}))
    assert targets(fit(adapter, text(tiny_sdxl))) == {f"{encoder}.encoder.layers.0.mlp.fc1.weight": "lora"}


FORMS = {
    "lora": {"lora_up.weight": (64, 4), "lora_down.weight": (4, 64), "alpha": ()},
    "loha": {"hada_w1_a": (64, 4), "hada_w1_b": (4, 64), "hada_w2_a": (64, 4), "hada_w2_b": (4, 64)},
    "lokr": {"lokr_w1": (8, 8), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 8), "alpha": ()},
    "glora": {"a1.weight": (64, 4), "a2.weight": (4, 64), "b1.weight": (64, 4), "b2.weight": (4, 64)},
    "oft": {"oft_blocks": (4, 16, 16), "alpha": ()},
    "add": {"diff": (64, 64)},
    "set": {"set_weight": (64, 64)},
}
MODULE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize("form", FORMS)
def test_a_change_is_told_by_the_ends_of_its_keys(form: str, tiny_sd1: Path, written: Write) -> None:
    adapter = read_adapter(written({f"{MODULE}.{ending}": shape for ending, shape in FORMS[form].items()}))
    assert list(targets(fit(adapter, unet(tiny_sd1))).values()) == [form]
    assert adapter.strays == ()


def test_a_module_may_have_a_product_and_another_bias(tiny_sd1: Path, written: Write) -> None:
    module = "lora_unet_mid_block_resnets_0_conv1"
    adapter = read_adapter(
        written(
            {
                f"{module}.lora_up.weight": (64, 4, 1, 1),
                f"{module}.lora_down.weight": (4, 64, 3, 3),
                f"{module}.diff_b": (64,),
                "lora_unet_mid_block_resnets_0_norm1.w_norm": (64,),
                "lora_unet_mid_block_resnets_0_norm1.b_norm": (64,),
            }
        )
    )
    name = "unet.mid_block.resnets.0."
    assert targets(fit(adapter, unet(tiny_sd1))) == {
        f"{name}conv1.weight": "lora",
        f"{name}conv1.bias": "add",
        f"{name}norm1.weight": "add",
        f"{name}norm1.bias": "add",
    }


def test_an_adapter_for_a_narrower_text_is_refused_with_both_sizes(
    tiny: ModuleType, tiny_sd1: Path, tiny_sdxl: Path, written: Write
) -> None:
    adapter = read_adapter(written(shapes_of(tiny.sdxl_lora())))
    said = fit(adapter, unet(tiny_sd1)).mismatch
    assert said == "lora_unet_input_blocks_1_0_emb_layers_1 is for 64 x 256, and the network has 32 x 128"
    assert fit(adapter, unet(tiny_sdxl)).mismatch is None


BROKEN = {
    "two ranks": ({"lora_up.weight": (64, 4), "lora_down.weight": (8, 64)}, "its factors have the ranks 4 and 8"),
    "too many rows": ({"lora_up.weight": (32, 4), "lora_down.weight": (4, 64)}, "is for 32 x 64, and the network has 64 x 64"),
    "no dimensions": ({"lora_up.weight": (), "lora_down.weight": ()}, "tensors of the shapes [], []"),
    "an alpha for each row": (
        {"lora_up.weight": (64, 4), "lora_down.weight": (4, 64), "alpha": (64,)}, "an alpha of 64 numbers",
    ),
    "magnitudes of another size": (
        {"lora_up.weight": (64, 4), "lora_down.weight": (4, 64), "dora_scale": (32, 1)}, "32 magnitudes",
    ),
    "two products": (
        {"hada_w1_a": (64, 4), "hada_w1_b": (4, 64), "hada_w2_a": (32, 4), "hada_w2_b": (4, 64)},
        "its two products are of 64 x 64 and 32 x 64",
    ),
    "another shape": (
        {"lora_up.weight": (64, 4), "lora_down.weight": (4, 64), "reshape_weight": (2,)}, "gives its weight another shape",
    ),
    "blocks that are not square": ({"oft_blocks": (4, 16, 8)}, "rotations of the shape [4, 16, 8]"),
    "factors that can't pair": ({"oft_blocks": (4, 4, 16, 16)}, "4 factors can't pair 64 rows"),
    "a difference of another size": ({"diff": (64, 32)}, "is for 64 x 32, and the network has 64 x 64"),
    "columns that change": (
        {"a1.weight": (32, 4), "a2.weight": (4, 64), "b1.weight": (64, 4), "b2.weight": (4, 64)},
        "it turns 32 columns into 64",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "said"), BROKEN.values(), ids=BROKEN)
def test_a_change_that_makes_no_weight_of_the_size_is_a_misfit(
    tensors: dict[str, tuple[int, ...]], said: str, tiny_sd1: Path, written: Write
) -> None:
    adapter = read_adapter(written({f"{MODULE}.{ending}": shape for ending, shape in tensors.items()}))
    fitted = fit(adapter, unet(tiny_sd1))
    (found,) = (*fitted.misfits, *fitted.broken)
    assert found.startswith(MODULE)
    assert said in found
    assert found in str(refusal(adapter, fitted, what="the network", family="sd1"))


def test_an_inpainting_networks_first_convolution_is_left_out(
    tiny: ModuleType, tiny_sd1_inpaint: Path, written: Write
) -> None:
    fitted = fit(read_adapter(written(shapes_of(tiny.sd1_lora()))), unet(tiny_sd1_inpaint))
    assert fitted.mismatch is None
    assert fitted.homeless == ("lora_unet_input_blocks_0_0",)


def test_modules_that_the_network_lacks_are_counted(tiny: ModuleType, tiny_sd1: Path, written: Write) -> None:
    lora = tiny.kohya_lora(tiny.attention_of(tiny.unet_shapes(tiny.SD1)), "lora_unet_")
    more = {f"lora_unet_other_{n}.{end}.weight": (4, 4) for n in range(2) for end in ("lora_up", "lora_down")}
    adapter = read_adapter(written(shapes_of(lora) | more))
    fitted = fit(adapter, unet(tiny_sd1))
    assert fitted.homeless == ("lora_unet_other_0", "lora_unet_other_1")
    assert fitted.mismatch is None
    assert refusal(adapter, fitted, what="the network", family="sd1") is None


def test_an_adapter_of_which_no_module_is_there_is_refused(tiny_sd1: Path, written: Write) -> None:
    flux = "lora_unet_double_blocks_0_img_attn_qkv"
    adapter = read_adapter(written({f"{flux}.lora_up.weight": (192, 4), f"{flux}.lora_down.weight": (4, 64)}))
    assert adapter.title == "a LoRA for FLUX.1 or FLUX.2"
    assert refusal(adapter, fit(adapter, unet(tiny_sd1)), what="the network", family="sd1") == (
        f"is a LoRA for FLUX.1 or FLUX.2, but the network is of the sd1 family: its modules, such as {flux}, are not in the "
        "network; use an adapter for a network of the sd1 family"
    )


def proj(width: int, *, linear: bool) -> dict[str, tuple[int, ...]]:
    name, ones = "lora_unet_mid_block_attentions_0_proj_in", () if linear else (1, 1)
    return {f"{name}.lora_up.weight": (width, 4, *ones), f"{name}.lora_down.weight": (4, width, *ones)}


def attends(context: int, block: str = "mid_block_attentions_0_transformer_blocks_0") -> dict[str, tuple[int, ...]]:
    name = f"lora_unet_{block}_attn2_to_k"
    return {f"{name}.lora_up.weight": (1280, 4), f"{name}.lora_down.weight": (4, context)}


def clip(*encoders: str, width: int = 768) -> dict[str, tuple[int, ...]]:
    names = [f"lora_{encoder}_text_model_encoder_layers_0_self_attn_q_proj" for encoder in encoders]
    return {f"{n}.lora_up.weight": (width, 4) for n in names} | {f"{n}.lora_down.weight": (4, width) for n in names}


def pair(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.lora_B.weight": (rows, 4), f"{name}.lora_A.weight": (4, columns)}


OF_FAMILY = {
    "FLUX.1 by its feed-forwards, diffusers' names": (
        pair("transformer.transformer_blocks.0.ff.net.2", 64, 256)
        | pair("transformer.single_transformer_blocks.0.attn.to_q", 64, 64),
        ("flux",),
    ),
    "FLUX.1 by a matrix of 3 and 4 widths": (pair("diffusion_model.single_blocks.0.linear1", 448, 64), ("flux",)),
    "FLUX.2 by a matrix of 3 and 6 widths": (pair("diffusion_model.single_blocks.0.linear1", 576, 64), ("flux2",)),
    "FLUX.2 by what it joins, diffusers' names": (
        pair("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", 576, 64),
        ("flux2",),
    ),
    "FLUX, of which attention tells no more": (
        pair("diffusion_model.double_blocks.0.img_attn.proj", 64, 64),
        ("flux", "flux2"),
    ),
    "SD3 by diffusers' names, whose to_out.0 is no UNet's": (
        pair("transformer.transformer_blocks.0.attn.to_out.0", 64, 64),
        ("sd3",),
    ),
    "a convolution for proj_in": (proj(1280, linear=False), ("sd1",)),
    "text of 768": (attends(768), ("sd1",)),
    "text of 1024": (attends(1024), ("sd2",)),
    "text of 2048": (attends(2048), ("sdxl",)),
    "text of an odd width": (attends(100), ("sd1", "sd2", "sdxl")),
    "deep transformers": (attends(100, "mid_block_attentions_0_transformer_blocks_1"), ("sdxl",)),
    "attention at the innermost level": (attends(100, "up_blocks_0_attentions_0_transformer_blocks_0"), ("sdxl",)),
    "attention at the outermost level": (attends(100, "input_blocks_1_1_transformer_blocks_0"), ("sd1", "sd2")),
    "one text encoder of SD1's or SDXL's": (clip("te1"), ("sd1", "sdxl", "flux", "sd3")),
    "a text encoder of SD2's": (clip("te", width=1024), ("sd2",)),
    "two text encoders and a UNet": (clip("te1", "te2") | attends(100), ("sdxl",)),
}


@pytest.mark.parametrize(("shapes", "families"), OF_FAMILY.values(), ids=OF_FAMILY)
def test_the_family_is_told_by_modules_and_widths(
    shapes: dict[str, tuple[int, ...]], families: tuple[str, ...], written: Write
) -> None:
    assert read_adapter(written(shapes)).families == families


def test_a_control_lora_of_flux_is_refused_with_what_to_use_instead(written: Write) -> None:
    shapes = pair("img_in", 64, 128) | {"single_blocks.0.norm.key_norm.scale": (32,), "img_in.lora_B.bias": (64,)}
    with pytest.raises(HeaderError, match=r"a control LoRA of FLUX\.1.*load flux1-canny-dev or flux1-depth-dev itself"):
        read_adapter(written(shapes))


def test_tiny_adapters_of_whole_networks_are_told_apart(tiny: ModuleType, written: Write) -> None:
    assert read_adapter(written(shapes_of(tiny.sd1_lora()))).title == "a LoRA for Stable Diffusion 1.x"
    assert read_adapter(written(shapes_of(tiny.sdxl_lora()))).title == "a LoRA for Stable Diffusion XL"
    sd2 = tiny.kohya_lora(tiny.unet_shapes(tiny.SD2), "lora_unet_")
    assert read_adapter(written(shapes_of(sd2))).title == "a LoRA for Stable Diffusion 2.x"


def test_a_checkpoint_is_no_adapter(tiny_sd1: Path) -> None:
    with pytest.raises(HeaderError, match=r"found a checkpoint \(\d+ tensors, such as .*Load it with LoadCheckpoint\."):
        read_adapter(tiny_sd1)


STRANGERS = {
    "a ControlNet": (
        {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)},
        "found a ControlNet .* Name an adapter",
    ),
    "a VAE": ({"decoder.conv_in.weight": (4, 4, 3, 3)}, "found a VAE alone .* Load it with LoadVAE"),
    "an embedding": ({"emb_params": (2, 768)}, "found a textual inversion embedding .* as embedding:name"),
    "half of a LoRA": ({f"{MODULE}.lora_up.weight": (64, 4)}, f"found half of a LoRA .{MODULE}.lora_up.weight."),
    "a LoRA of which a half is missing": (
        {
            f"{MODULE}.lora_up.weight": (64, 4),
            f"{MODULE}.lora_down.weight": (4, 64),
            f"{MODULE}2.lora_up.weight": (64, 4),
        },
        f"found a LoRA that lacks the counterparts of some tensors .1, such as {MODULE}2.lora_up.weight., .* Get it again.",
    ),
    "anything else": ({"lexer.weight": (4, 4)}, "a file of unknown kind, with keys below lexer.weight"),
    "nothing": ({}, "a file without tensors"),
}


@pytest.mark.parametrize(("shapes", "said"), STRANGERS.values(), ids=STRANGERS)
def test_a_file_that_is_no_adapter_is_told_what_it_is(
    shapes: dict[str, tuple[int, ...]], said: str, written: Write
) -> None:
    with pytest.raises(HeaderError, match=said):
        read_adapter(written(shapes))


def test_reading_adapters_loads_no_torch() -> None:
    code = "import sys, latentgraph.diffusion.adapters.files; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False False"


def test_a_network_of_another_depth_has_other_places(tiny_sdxl: Path, written: Write) -> None:
    spec = unet(tiny_sdxl)
    shallow = replace(spec, depths_in=((0,), (1,)), depths_out=((1, 1), (0, 0)), depth_middle=1)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_1_attn1_to_q"
    adapter = read_adapter(written({f"{name}.lora_up.weight": (128, 4), f"{name}.lora_down.weight": (4, 128)}))
    assert fit(adapter, spec).placed
    assert fit(adapter, shallow).homeless == (name,)
