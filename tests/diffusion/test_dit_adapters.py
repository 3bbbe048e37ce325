"""Adapters on diffusion transformers, whose makers' names stand for several of diffusers' modules at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from latentgraph.diffusion.adapters.deltas import changed
from latentgraph.diffusion.adapters.files import fit, read_adapter
from latentgraph.diffusion.checkpoints.describe import describe
from latentgraph.diffusion.checkpoints.export import save_checkpoint
from latentgraph.diffusion.checkpoints.opening import open_checkpoint, open_network
from latentgraph.diffusion.layouts.kinds import kind_of
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.variants import AdapterMismatchError, adapt

Made = Callable[[str, Mapping[str, tuple[int, ...]]], dict[str, Tensor]]
STRENGTH = 0.7


@pytest.fixture(scope="module")
def models(tiny_dits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder, memory = tmp_path_factory.mktemp("models"), WeightMemory(precision="exact")
    models = {}
    for name in ("SD3", "SD3.5", "FLUX", "FLUX.2"):
        spec = tiny_dits.SPECS[name]
        save_file(tiny_dits.original(spec, tiny_dits.weights(spec)), folder / f"{name}.safetensors")
        models[name] = open_network(folder / f"{name}.safetensors", memory)
    return models


def draw(seed: int, *shape: int) -> Tensor:
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def product(rows: int, columns: int, seed: int, names: tuple[str, str]) -> dict[str, Tensor]:
    return {f".{names[0]}.weight": draw(seed, rows, 4), f".{names[1]}.weight": draw(seed + 1, 4, columns)}


KOHYA, PEFT = ("lora_up", "lora_down"), ("lora_B", "lora_A")
WAYS: dict[str, tuple[bool, Callable[[str], str], tuple[str, str]]] = {
    "kohya, the makers' names": (True, lambda module: "lora_unet_" + module.replace(".", "_"), KOHYA),
    "PEFT, the makers' names": (True, lambda module: f"diffusion_model.{module}", PEFT),
    "PEFT, the makers' bare names": (True, lambda module: module, PEFT),
    "PEFT, diffusers' names": (False, lambda module: f"transformer.{module}", PEFT),
    "kohya, diffusers' names": (False, lambda module: "lora_transformer_" + module.replace(".", "_"), KOHYA),
    "LyCORIS, diffusers' names": (False, lambda module: "lycoris_" + module.replace(".", "_"), KOHYA),
    "PEFT, a base model": (False, lambda module: f"base_model.model.{module}", PEFT),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["SD3", "SD3.5", "FLUX", "FLUX.2"])
def test_every_matrix_of_a_transformer_can_be_reached_by_all_its_names(
    name: str, way: str, models: dict[str, Model], tiny_dits: ModuleType, tmp_path: Path
) -> None:
    """The oracle changes the makers' own matrices, or diffusers', and gives both to the network anew."""
    spec, (makers, named, sides) = tiny_dits.SPECS[name], WAYS[way]
    weights = tiny_dits.weights(spec)
    file = tiny_dits.original(spec, weights) if makers else weights
    lora, expected = {}, dict(file)
    for seed, (key, w) in enumerate(sorted(file.items())):
        if w.ndim == 2 and key.endswith(".weight"):
            up, down = product(len(w), w.shape[1], seed, sides).values()
            module = named(key.removesuffix(".weight"))
            lora |= {f"{module}.{sides[0]}.weight": up, f"{module}.{sides[1]}.weight": down}
            expected[key] = w + STRENGTH * (up @ down)
    save_file(lora, tmp_path / "lora.safetensors")
    wanted = weights | (back(spec, expected) if makers else expected)
    fitted = fit(read_adapter(tmp_path / "lora.safetensors"), spec)
    assert (fitted.homeless, fitted.misfits, fitted.broken) == ((), (), ())
    assert {target.tensor for target, _ in fitted.placed} == {
        key for key, shape in kind_of(spec).layout(spec).items() if len(shape) == 2
    }
    found = tensors_of(adapt(models[name], tmp_path / "lora.safetensors", strength=STRENGTH).handle)
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], rtol=0, atol=1e-6, msg=key)


def test_a_lora_of_xlabs_changes_the_attention_of_both_kinds_of_blocks(
    models: dict[str, Model], tiny_dits: ModuleType, tmp_path: Path
) -> None:
    """Names of XLabs-AI/x-flux: `1` for the picture's stream, `2` for the text's; of linear1, all but the feed-forward."""
    spec = tiny_dits.FLUX
    weights = tiny_dits.weights(spec)
    expected, lora = tiny_dits.original(spec, weights), {}
    matrices = {
        f"double_blocks.{n}.{stream}_attn.{matrix}.weight": f"double_blocks.{n}.processor.{matrix}_lora{number}"
        for n in range(spec.double_blocks)
        for stream, number in (("img", 1), ("txt", 2))
        for matrix in ("qkv", "proj")
    }
    for n in range(spec.single_blocks):
        matrices[f"single_blocks.{n}.linear1.weight"] = f"single_blocks.{n}.processor.qkv_lora"
        matrices[f"single_blocks.{n}.linear2.weight"] = f"single_blocks.{n}.processor.proj_lora"
    for seed, (key, name) in enumerate(matrices.items()):
        rows = 3 * spec.width if "linear1" in key else len(expected[key])
        up, down = product(rows, expected[key].shape[1], seed, KOHYA).values()
        lora |= {f"{name}.up.weight": up, f"{name}.down.weight": down}
        expected[key] = expected[key].clone()
        expected[key][:rows] += STRENGTH * (up @ down)
    save_file(lora, tmp_path / "lora.safetensors")
    adapter = read_adapter(tmp_path / "lora.safetensors")
    assert (adapter.strays, fit(adapter, spec).homeless) == ((), ())
    assert adapter.title == "a LoRA for FLUX.1"
    wanted = back(spec, expected)
    found = tensors_of(adapt(models["FLUX"], tmp_path / "lora.safetensors", strength=STRENGTH).handle)
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], rtol=0, atol=1e-6, msg=key)


FORMS: dict[str, dict[str, Tensor]] = {
    "LoHa": {f".hada_w{n}_{side}": draw(n, *((192, 4) if side == "a" else (4, 64))) for n in (1, 2) for side in "ab"},
    "LoKr": {".lokr_w1": draw(1, 12, 8), ".lokr_w2": draw(2, 16, 8)},
    "difference": {".diff": draw(3, 192, 64), ".diff_b": draw(4, 192)},
    "DoRA of rows": product(192, 64, 5, KOHYA)
    | {".dora_scale": draw(7, 192, 1).abs() + 1, ".alpha": torch.tensor(2.0)},
    "PEFT's DoRA": product(192, 64, 5, PEFT) | {".lora_magnitude_vector.weight": draw(8, 192).abs() + 1},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_change_to_joined_matrices_is_divided_among_them(
    form: str, models: dict[str, Model], tiny_dits: ModuleType, tmp_path: Path
) -> None:
    spec, module = tiny_dits.FLUX, "double_blocks.1.txt_attn.qkv"
    save_file({f"diffusion_model.{module}{end}": w for end, w in FORMS[form].items()}, tmp_path / "a.safetensors")
    adapter = read_adapter(tmp_path / "a.safetensors")
    expected = tiny_dits.original(spec, tiny_dits.weights(spec))
    for change in adapter.changes:
        key = f"{module}.{change.form.leaf}"
        parts = {
            role: FORMS[form][name.removeprefix(f"diffusion_model.{module}")] for role, name in change.keys.items()
        }
        expected[key] = changed(expected[key], change.form.name, parts, STRENGTH)
    wanted = back(spec, expected)
    found = tensors_of(adapt(models["FLUX"], tmp_path / "a.safetensors", strength=STRENGTH).handle)
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], rtol=0, atol=1e-5, msg=key)


WHOLE: dict[str, dict[str, Tensor]] = {
    "OFT": {".oft_blocks": draw(1, 12, 16, 16)},
    "DoRA of columns": product(192, 64, 5, KOHYA) | {".dora_scale": draw(7, 1, 64)},
}


@pytest.mark.parametrize("form", WHOLE)
def test_a_change_that_needs_joined_matrices_whole_is_refused(
    form: str, models: dict[str, Model], tmp_path: Path
) -> None:
    keys = {f"diffusion_model.double_blocks.0.img_attn.qkv{end}": w for end, w in WHOLE[form].items()}
    save_file(keys, tmp_path / "a.safetensors")
    with pytest.raises(AdapterMismatchError, match="changes matrices together that this network has one by one"):
        adapt(models["FLUX"], tmp_path / "a.safetensors")


def test_an_adapter_for_flux_is_refused_by_sd3(models: dict[str, Model], tmp_path: Path) -> None:
    keys = product(192, 64, 1, KOHYA)
    save_file(
        {f"lora_unet_double_blocks_0_img_attn_qkv{end}": w for end, w in keys.items()}, tmp_path / "a.safetensors"
    )
    with pytest.raises(
        AdapterMismatchError, match=r"a LoRA for FLUX\.1 or FLUX\.2, but the network .* is of the sd3 family"
    ):
        adapt(models["SD3"], tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["SD3.5", "FLUX"])
def test_a_saved_checkpoint_is_in_the_makers_layout_and_the_same_again(
    name: str, tiny_dits: ModuleType, tmp_path: Path
) -> None:
    spec = tiny_dits.SPECS[name]
    prefix = {"SD3.5": "first_stage_model.", "FLUX": "vae."}[name]
    file = tiny_dits.checkpoint(spec, vae_prefix=prefix)
    save_file(file, tmp_path / "given.safetensors")
    memory = WeightMemory(precision="exact")
    opened = open_checkpoint(tmp_path / "given.safetensors", memory)
    path = save_checkpoint(tmp_path, prefix="saved", model=opened.model, vae=opened.vae, format="float32")
    again = open_checkpoint(path, memory)
    assert describe(path).model == opened.model.spec
    assert {key: tuple(w.shape) for key, w in file.items()} == shapes_in(path)
    first, second = tensors_of(opened.model), tensors_of(again.model)
    assert all(torch.equal(first[key], second[key]) for key in first)


def back(spec: Any, file: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of a file in the makers' layout by diffusers' names; see `test_dits` for what this rests on."""
    names = {"pos_embed.pos_embed"} if "pos_embed" in file else set()
    origins = kind_of(spec).origins(spec, [*kind_of(spec).layout(spec), *names], file)
    return {
        name: torch.cat([file[origin.key][start:stop] for start, stop in origin.rows or ((0, len(file[origin.key])),)])
        for name, origin in origins.items()
    }


def tensors_of(model: Model) -> dict[str, Tensor]:
    with model.weights.use() as network:
        return {key: w.clone() for key, w in network.state_dict().items()}


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
