"""The diffusion transformers: recognised, named and called, against diffusers' own classes and key maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import save_file
from torch import Tensor

from latentgraph.diffusion.checkpoints.describe import describe
from latentgraph.diffusion.checkpoints.export import stacked
from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.control.residuals import Residuals
from latentgraph.diffusion.families.dit_specs import Flux2Spec, FluxSpec, MMDiTSpec
from latentgraph.diffusion.families.specs import DenoiserSpec
from latentgraph.diffusion.layouts.kinds import kind_of
from latentgraph.diffusion.levels.space_spec import FlowLevels, FluxLevels
from latentgraph.diffusion.networks.building import build_denoiser
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.sampling.calls import call_of
from latentgraph.diffusion.sampling.network_inputs import NetworkInputs

KINDS = ("SD3", "SD3.5", "FLUX", "schnell", "fill", "FLUX.2")
SD3_MEDIUM = MMDiTSpec(
    in_channels=16,
    out_channels=16,
    width=1536,
    depth=24,
    heads=24,
    context_width=4096,
    pooled_width=2048,
    positions=192,
)
FLUX_DEV = FluxSpec(
    in_channels=16,
    out_channels=16,
    width=3072,
    heads=24,
    double_blocks=19,
    single_blocks=38,
    context_width=4096,
    pooled_width=768,
    guidance=True,
    axes=(16, 56, 56),
)
FLUX2_DEV = Flux2Spec(
    in_channels=128,
    out_channels=128,
    width=6144,
    heads=48,
    double_blocks=8,
    single_blocks=48,
    context_width=15360,
    mlp_width=18432,
    time_width=256,
    guidance=True,
    axes=(32, 32, 32, 32),
)
TRUE_SIZES: Mapping[str, DenoiserSpec] = {
    "SD3 medium": SD3_MEDIUM,
    "SD3.5 medium": replace(SD3_MEDIUM, positions=384, query_norm=True, dual_attention=tuple(range(13))),
    "SD3.5 large": replace(SD3_MEDIUM, width=2432, depth=38, heads=38, query_norm=True),
    "FLUX.1 dev": FLUX_DEV,
    "FLUX.1 schnell": replace(FLUX_DEV, guidance=False),
    "FLUX.2 dev": FLUX2_DEV,
}
CONVERTERS: Mapping[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "SD3 medium": single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
    "SD3.5 medium": single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
    "FLUX.1 dev": single_file_utils.convert_flux_transformer_checkpoint_to_diffusers,
    "FLUX.1 schnell": single_file_utils.convert_flux_transformer_checkpoint_to_diffusers,
    "FLUX.2 dev": single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers,
}


def shapes_of(spec: DenoiserSpec) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a network's tensors as diffusers names them."""
    table = {"pos_embed.pos_embed": (1, spec.positions**2, spec.width)} if isinstance(spec, MMDiTSpec) else {}
    return table | dict(kind_of(spec).layout(spec))


@pytest.mark.parametrize("name", KINDS)
def test_the_parameters_of_a_transformer_are_those_of_diffusers(name: str, tiny_dits: ModuleType) -> None:
    spec = tiny_dits.SPECS[name]
    parameters = {key: tuple(w.shape) for key, w in build_denoiser(spec).named_parameters()}
    assert kind_of(spec).layout(spec) == parameters


@pytest.mark.parametrize("name", CONVERTERS)
def test_the_key_maps_are_those_of_diffusers_both_ways(name: str) -> None:
    """On tensors with all their rows and one column, since diffusers' map knows FLUX's true width alone."""
    spec = TRUE_SIZES[name]
    spec = replace(spec, **({"depth": 3, "dual_attention": spec.dual_attention[:2]} if isinstance(spec, MMDiTSpec)
                            else {"double_blocks": 2, "single_blocks": 2}))  # fmt: skip
    draws = torch.Generator().manual_seed(0)
    wanted = {key: torch.randn(shape[0], generator=draws) for key, shape in shapes_of(spec).items()}
    file = {}
    for each in kind_of(spec).destinations(spec, wanted):
        file[each.key] = stacked([wanted[part] for part in each.names], each)
    given = dict(file)
    converted = CONVERTERS[name](given)
    assert not (given if name != "FLUX.2 dev" else {})  # it took every tensor of the file
    assert converted.keys() == wanted.keys()
    origins = kind_of(spec).origins(spec, wanted, file)
    for key, tensor in converted.items():
        rows = origins[key].rows or ((0, len(file[origins[key].key])),)
        picked = torch.cat([file[origins[key].key][start:stop] for start, stop in rows])
        assert torch.equal(tensor, wanted[key]), key
        assert torch.equal(tensor, picked), key


@pytest.mark.parametrize("name", TRUE_SIZES)
@pytest.mark.parametrize("layout", ["bare", "checkpoint", "diffusers"])
def test_a_transformer_is_told_by_its_shapes(
    name: str, layout: str, tiny: ModuleType, tiny_dits: ModuleType, tmp_path: Path
) -> None:
    spec = TRUE_SIZES[name]
    shapes = shapes_of(spec) if layout == "diffusers" else tiny_dits.published_shapes(spec)
    prefix = "model.diffusion_model." if layout == "checkpoint" else ""
    path = tiny.write_skeleton(tmp_path / "a.safetensors", {prefix + key: shape for key, shape in shapes.items()})
    found = describe(path)
    assert found.model.network == spec
    assert found.model.prediction == "flow"
    assert found.model.latent.channels == spec.out_channels
    told = {
        "SD3 medium": FlowLevels(3.0, 1000.0),
        "FLUX.1 schnell": FlowLevels(1.0, 1.0),
        "FLUX.2 dev": FluxLevels(2.02),
    }
    usual = {"sd3": FlowLevels(3.0, 1000.0), "flux": FluxLevels(1.15)}
    assert found.family == {"SD3": "sd3", "FLUX.1": "flux", "FLUX.2": "flux2"}[name.split()[0].replace("SD3.5", "SD3")]
    assert found.model.levels == told.get(name, usual.get(found.family))


def test_a_folder_of_diffusers_may_state_axes_and_shift(tiny_dits: ModuleType, tmp_path: Path) -> None:
    path = write_folder(tmp_path / "flux", tiny_dits, replace(tiny_dits.FLUX, axes=(8, 12, 12)))
    assert describe(path).model.network.axes == (8, 12, 12)
    path = write_folder(tmp_path / "sd3", tiny_dits, tiny_dits.SD3, shift=5.0)
    assert describe(path).model.levels == FlowLevels(5.0, 1000.0)


def test_axes_that_make_up_no_head_are_refused(tiny_dits: ModuleType, tmp_path: Path) -> None:
    path = write_folder(tmp_path / "flux", tiny_dits, tiny_dits.FLUX)
    config = path / "transformer" / "config.json"
    config.write_text(config.read_text().replace("14,", "20,", 1))
    with pytest.raises(HeaderError, match="do not make up a head of 32"):
        describe(path)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("layout", ["bare", "checkpoint", "folder"])
def test_a_transformer_has_the_weights_of_its_file(
    name: str, layout: str, tiny_dits: ModuleType, tmp_path: Path
) -> None:
    spec = tiny_dits.SPECS[name]
    weights = tiny_dits.weights(spec)
    if layout == "folder":
        path = write_folder(tmp_path / "folder", tiny_dits, spec)
    else:
        path = tmp_path / "file.safetensors"
        save_file(tiny_dits.original(spec, weights, tiny_dits.NETWORK if layout == "checkpoint" else ""), path)
    model = open_checkpoint(path, WeightMemory(precision="exact")).model
    with model.weights.use() as network:
        loaded = network.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)


@pytest.mark.parametrize("name", ["FLUX", "FLUX.2"])
def test_the_gains_of_norms_may_be_called_weights(name: str, tiny_dits: ModuleType, tmp_path: Path) -> None:
    spec = tiny_dits.SPECS[name]
    weights = tiny_dits.weights(spec)
    tensors = tiny_dits.original(spec, weights)
    renamed = {key.replace("_norm.scale", "_norm.weight"): w for key, w in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, tmp_path / "file.safetensors")
    model = open_checkpoint(tmp_path / "file.safetensors", WeightMemory(precision="exact")).model
    assert model.spec.network == spec
    with model.weights.use() as network:
        assert all(torch.equal(w, weights[key]) for key, w in network.state_dict().items())


def test_a_transformer_of_unknown_channels_is_compared_with_the_nearest(
    tiny: ModuleType, tiny_dits: ModuleType, tmp_path: Path
) -> None:
    shapes = tiny_dits.published_shapes(tiny_dits.FLUX) | {"img_in.weight": (64, 80)}
    with pytest.raises(HeaderError, match=r"a transformer like that of FLUX\.1.*, but with 20 input channels"):
        describe(tiny.write_skeleton(tmp_path / "flux.safetensors", shapes))


def test_a_tensor_too_many_is_refused(tiny_dits: ModuleType, tmp_path: Path) -> None:
    tensors = tiny_dits.original(tiny_dits.FLUX, tiny_dits.weights(tiny_dits.FLUX)) | {
        "double_blocks.7.x": torch.ones(2)
    }
    save_file(tensors, tmp_path / "flux.safetensors")
    with pytest.raises(HeaderError, match=r"1 unknown \(double_blocks\.7\.x\)"):
        open_checkpoint(tmp_path / "flux.safetensors", WeightMemory())


@pytest.mark.parametrize(("h", "w"), [(8, 6), (7, 5)])
@pytest.mark.parametrize("name", KINDS)
def test_a_call_is_that_of_diffusers(name: str, h: int, w: int, tiny_dits: ModuleType) -> None:
    spec = tiny_dits.SPECS[name]
    network = tiny_dits.network(spec)
    x, timestep, inputs = some_inputs(spec, h, w)
    found = call_of(spec.kind, network)(x, timestep, inputs)
    assert found.shape == (2, spec.out_channels, h, w)
    whole = x if inputs.concat is None else torch.cat([x, inputs.concat], dim=1)
    even = spec.kind == "flux2" or not (h % 2 or w % 2)
    if not even:
        whole = torch.nn.functional.pad(whole, (0, 1, 0, 1), mode="circular")
    torch.testing.assert_close(found, plainly(network, spec, whole, timestep, inputs)[..., :h, :w], rtol=0, atol=0)
    assert found.std() > 0.1


@pytest.mark.parametrize("name", ["FLUX", "schnell", "FLUX.2"])
def test_time_and_guidance_are_not_rounded_to_the_format_of_the_network(name: str, tiny_dits: ModuleType) -> None:
    spec = tiny_dits.SPECS[name]
    x, timestep, inputs = some_inputs(spec, 8, 6)
    exact = call_of(spec.kind, tiny_dits.network(spec))(x, timestep, inputs)
    found = call_of(spec.kind, tiny_dits.network(spec).to(torch.bfloat16))(x, timestep, inputs).float()
    assert (found - exact).square().mean().sqrt() < 0.01 * exact.square().mean().sqrt(), "rounded, it would be 2 to 6 %"


@pytest.mark.parametrize("name", ["SD3", "FLUX", "FLUX.2"])
def test_threads_that_share_a_network_do_not_mix_what_they_tell_it(name: str, tiny_dits: ModuleType) -> None:
    spec = tiny_dits.SPECS[name]
    network = tiny_dits.network(spec)
    x, timestep, inputs = some_inputs(spec, 8, 6)

    def steer(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Residuals | None:
        return Residuals(end=(timestep.view(-1, 1, 1),)) if spec.kind == "mmdit" else None

    def called(timestep: Tensor) -> Tensor:
        with torch.no_grad():
            return call_of(spec.kind, network, steer)(x, timestep, inputs)

    times = (timestep, timestep / 2)
    alone = [called(each) for each in times]
    both = Barrier(2, timeout=10)

    def meet(*_: Any) -> None:
        both.wait()

    network.context_embedder.register_forward_hook(meet)
    with ThreadPoolExecutor(2) as pool:
        torch.testing.assert_close(list(pool.map(called, times)), alone)


@pytest.mark.parametrize("name", ["FLUX", "FLUX.2"])
def test_a_reference_follows_the_picture_and_changes_it(name: str, tiny_dits: ModuleType) -> None:
    spec = tiny_dits.SPECS[name]
    network = tiny_dits.network(spec)
    x, timestep, inputs = some_inputs(spec, 8, 6)
    told = replace(inputs, references=(normal(9, 2, spec.out_channels, 4, 10),))
    found = call_of(spec.kind, network)(x, timestep, told)
    torch.testing.assert_close(found, plainly(network, spec, x, timestep, told), rtol=0, atol=0)
    assert not torch.allclose(found, call_of(spec.kind, network)(x, timestep, inputs))


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_inputs(spec: DenoiserSpec, h: int, w: int) -> tuple[Tensor, Tensor, NetworkInputs]:
    extra = spec.in_channels - spec.out_channels
    inputs = NetworkInputs(
        context=normal(2, 2, 7, spec.context_width),
        pooled=None if spec.pooled_width is None else normal(3, 2, spec.pooled_width),
        concat=normal(4, 2, extra, h, w) if extra else None,
        guidance=torch.tensor([3.5, 2.0]) if spec.guidance else None,
    )
    time = torch.tensor([0.75, 0.3])
    return normal(1, 2, spec.out_channels, h, w), 1000 * time if spec.kind == "mmdit" else time, inputs


def plainly(network: Any, spec: DenoiserSpec, x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
    """What diffusers' network makes of the same, packed as its pipelines pack: at most one picture to go by."""
    given = {"encoder_hidden_states": inputs.context, "timestep": timestep, "return_dict": False}
    if spec.kind == "mmdit":
        result: Tensor = network(hidden_states=x, pooled_projections=inputs.pooled, **given)[0]
        return result
    h, w = x.shape[-2:]
    if spec.kind == "flux2":
        parts = (x, *inputs.references)
        tokens = torch.cat([part.flatten(2).transpose(1, 2) for part in parts], dim=1)
        ids = torch.cat([flux2_ids(10 * n, *part.shape[-2:]) for n, part in enumerate(parts)])
        text = torch.cartesian_prod(torch.arange(1), torch.arange(1), torch.arange(1), torch.arange(7))
        out = network(hidden_states=tokens, img_ids=ids, txt_ids=text, guidance=inputs.guidance, **given)[0]
        return out[:, : h * w].transpose(1, 2).reshape(x.shape)
    shown = [flux_ids(r.shape[-2] // 2, r.shape[-1] // 2, first=1.0) for r in inputs.references]
    out = network(
        hidden_states=torch.cat([packed(part) for part in (x, *inputs.references)], dim=1),
        pooled_projections=inputs.pooled, img_ids=torch.cat([flux_ids(h // 2, w // 2), *shown]),
        txt_ids=torch.zeros(7, 3), guidance=inputs.guidance, **given,
    )[0]  # fmt: skip
    return unpacked(out[:, : h * w // 4], h // 2, w // 2)


def packed(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpacked(tokens: Tensor, rows: int, columns: int) -> Tensor:
    b, _, c = tokens.shape
    x = tokens.view(b, rows, columns, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, c // 4, 2 * rows, 2 * columns)


def flux_ids(rows: int, columns: int, first: float = 0.0) -> Tensor:
    ids = torch.zeros(rows, columns, 3)
    ids[..., 0] = first
    ids[..., 1] += torch.arange(rows)[:, None]
    ids[..., 2] += torch.arange(columns)[None]
    return ids.reshape(-1, 3)


def flux2_ids(first: int, rows: int, columns: int) -> Tensor:
    return torch.cartesian_prod(torch.tensor([first]), torch.arange(rows), torch.arange(columns), torch.arange(1))


def write_folder(path: Path, tiny_dits: ModuleType, spec: DenoiserSpec, shift: float | None = None) -> Path:
    """Writes a diffusers folder with nothing but a transformer and a scheduler, by diffusers' own hands."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    path.mkdir()
    (path / "model_index.json").write_text('{"transformer": ["diffusers", "x"], "scheduler": ["diffusers", "y"]}')
    tiny_dits.network(spec).save_pretrained(path / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=shift or 3.0).save_pretrained(path / "scheduler")
    return path
