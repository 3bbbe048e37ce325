from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from latentgraph.diffusion.checkpoints.recognise import recognise
from latentgraph.diffusion.families.text_sets import SD2_TEXT
from latentgraph.diffusion.families.text_specs import ClipTextSpec
from latentgraph.diffusion.layouts.autoencoder_keys import vae_origins
from latentgraph.diffusion.layouts.autoencoder_structure import read_vae
from latentgraph.diffusion.layouts.keymaps import KeyMapError, rename, unet_origins
from latentgraph.diffusion.layouts.structure import StructureError, read_unet, with_heads
from latentgraph.diffusion.layouts.text_keymaps import text_origins
from latentgraph.diffusion.layouts.text_structure import read_text_encoder
from latentgraph.diffusion.networks.autoencoders import build_vae
from latentgraph.diffusion.networks.building import build_unet
from latentgraph.diffusion.networks.text_building import build_text_encoder

DETECTION = json.loads((Path(__file__).parents[1] / "vectors" / "misc.json").read_text())["detection"]


@pytest.mark.parametrize("row", ["SD1.5 inpaint 9ch", "SD2.x 4ch", "SDXL base", "SSD-1B"])
def test_a_published_unet_is_built_with_every_tensor_in_its_place(row: str, tiny: ModuleType) -> None:
    config = DETECTION[row]["config"]
    shapes = tiny.unet_shapes(tiny.layout_of(config))
    family, spec = recognise(shapes)
    network = build_unet(with_heads(spec, head_count=family.head_count, head_width=family.head_width))
    wanted = {name: tuple(w.shape) for name, w in network.state_dict().items()}
    origins = unet_origins(spec, wanted, shapes)
    assert {name: shapes[origin.key] for name, origin in origins.items()} == wanted
    assert {w.device.type for w in network.state_dict().values()} == {"meta"}


def test_the_published_vae_is_built_with_every_tensor_in_its_place(tiny: ModuleType) -> None:
    shapes = tiny.vae_shapes(128, blocks=2)
    spec = read_vae(shapes)
    wanted = {name: tuple(w.shape) for name, w in build_vae(spec).state_dict().items()}
    origins = vae_origins(spec, "", wanted, shapes)
    assert len({origin.key for origin in origins.values()}) == len(wanted) == 248
    assert {name: shapes[origin.key][: len(wanted[name])] for name, origin in origins.items()} == wanted


@pytest.mark.parametrize(("width", "layers", "heads"), [(1024, 24, 16), (1280, 32, 20)])
def test_the_published_open_clip_models_are_built_with_every_tensor_in_its_place(
    width: int, layers: int, heads: int, tiny: ModuleType
) -> None:
    shapes = tiny.open_clip_shapes(width, layers, width)
    spec = read_text_encoder(shapes, SD2_TEXT.encoders[0])
    assert isinstance(spec, ClipTextSpec)
    assert (spec.heads, spec.intermediate, spec.projection_width) == (heads, 4 * width, width)
    origins = text_origins(spec, build_text_encoder(spec).state_dict(), shapes)
    assert {origin.third for origin in origins.values() if "in_proj" in origin.key} == {0, 1, 2}
    assert [origin.key for origin in origins.values() if origin.transposed] == ["text_projection"]


def test_a_tensor_keeps_what_follows_its_innermost_known_module() -> None:
    modules = {"down.0": "input.1", "down.0.conv": "input.1.op"}
    assert rename("down.0.conv.weight", modules) == "input.1.op.weight"
    assert rename("down.0.norm.bias", modules) == "input.1.norm.bias"
    assert rename("down.1.norm.bias", modules) == "down.1.norm.bias"


def test_a_file_must_hold_each_tensor_of_the_network_and_no_other(tiny: ModuleType) -> None:
    shapes = tiny.vae_shapes()
    spec = read_vae(shapes)
    wanted = list(build_vae(spec).state_dict())
    for key in list(shapes):
        fewer = shapes.keys() - {key}
        with pytest.raises(KeyMapError):
            vae_origins(spec, "", wanted, fewer)
    with pytest.raises(KeyMapError, match=r"1 unknown \(decoder\.mid\.extra\)"):
        vae_origins(spec, "", wanted, shapes.keys() | {"decoder.mid.extra"})


def test_what_diffusers_can_not_express_is_refused_in_words(tiny: ModuleType) -> None:
    spec = with_heads(read_unet(tiny.unet_shapes(tiny.SDXL)), head_count=None, head_width=64)
    with pytest.raises(StructureError, match="some of its blocks only"):
        build_unet(replace(spec, depths_out=((2, 0), (0, 0))))
    with pytest.raises(StructureError, match="depth 3 in the middle"):
        build_unet(replace(spec, depth_middle=3))
    with pytest.raises(StructureError, match=r"levels of \[48\] channels"):
        build_unet(replace(spec, widths=(64, 48)))


def test_building_changes_no_random_state(tiny: ModuleType) -> None:
    before = torch.random.get_rng_state()
    build_vae(read_vae(tiny.vae_shapes()))
    assert torch.equal(torch.random.get_rng_state(), before)
