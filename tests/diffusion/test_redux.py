"""Redux: pictures as text for FLUX.1, as diffusers' own encoder says them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentgraph.diffusion.checkpoints.describe import describe
from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.image_prompts.redux import open_style, say_with_pictures
from latentgraph.diffusion.image_prompts.redux_reading import describe_style
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.types import ClipVisionOutput, Condition, Conditioning
from latentgraph.graph import InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry

PICTURE, TEXT = 32, 48


@pytest.fixture(scope="module")
def style(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shapes = {"redux_up.weight": (3 * TEXT, PICTURE), "redux_up.bias": (3 * TEXT,)}
    shapes |= {"redux_down.weight": (TEXT, 3 * TEXT), "redux_down.bias": (TEXT,)}
    path = tmp_path_factory.mktemp("style_models") / "redux.safetensors"
    save_file(tiny.fill(shapes), path)
    return path


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seen(states: Tensor) -> ClipVisionOutput:
    return ClipVisionOutput(states, states, states)


def test_pictures_are_said_behind_the_text(style: Path) -> None:
    text, states = draw(1, 5, TEXT), draw(2, 7, PICTURE, seed=1)
    prompt = Conditioning((Condition(text, draw(1, 3)), Condition(text * 2)))
    said = say_with_pictures(prompt, open_style(style, WeightMemory(precision="exact")), seen(states), strength=0.5)
    theirs = ReduxImageEncoder(PICTURE, TEXT)
    theirs.load_state_dict(load_file(style))
    with torch.inference_mode():
        expected = 0.5 * theirs(states).image_embeds.reshape(1, 14, TEXT)
    for entry, words in zip(said.entries, (text, text * 2), strict=True):
        torch.testing.assert_close(entry.embedding, torch.cat([words, expected], dim=1))
    assert said.entries[0].pooled is prompt.entries[0].pooled


def test_other_widths_are_refused(style: Path) -> None:
    model = open_style(style, WeightMemory())
    prompt = Conditioning((Condition(draw(1, 5, TEXT)),))
    with pytest.raises(ValueError, match="reads tokens of 32 numbers, but the pictures' have 16"):
        say_with_pictures(prompt, model, seen(draw(1, 7, 16)))
    with pytest.raises(ValueError, match="48 numbers a token, but the text has 64"):
        say_with_pictures(Conditioning((Condition(draw(1, 5, 64)),)), model, seen(draw(1, 7, PICTURE)))


def test_other_files_are_refused_by_name(tiny_sd1: Path, tiny: ModuleType, style: Path, tmp_path: Path) -> None:
    broken = load_file(style) | {"redux_up.weight": torch.zeros(5, PICTURE)}
    save_file(broken, tmp_path / "broken.safetensors")
    for path, words in (
        (tiny_sd1, "found a checkpoint"),
        (tiny.write(tmp_path / "lora.safetensors", tiny.sd1_lora()), "found a LoRA"),
        (tmp_path / "broken.safetensors", "has 5 rows, not 3 times the 48"),
    ):
        with pytest.raises(HeaderError, match=words):
            describe_style(path)


def test_wrong_pairings_are_errors_of_the_document(
    style: Path, tiny: ModuleType, tiny_sd1: Path, tmp_path: Path
) -> None:
    from PIL import Image as Pillow
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=28, patch_size=14,
        projection_dim=16,
    )  # fmt: skip
    tower = tiny.write_diffusers(tmp_path / "tower", CLIPVisionModelWithProjection(config))
    Pillow.new("RGB", (32, 32)).save(tmp_path / "picture.png")
    nodes = (
        f"  load: {{type: LoadCheckpoint, file: {tiny_sd1}}}\n"
        "  text: {type: TextEncode, clip: $load.clip, text: a cat}\n"
        f"  tower: {{type: LoadClipVision, file: {tower}}}\n"
        f"  picture: {{type: LoadImage, file: {tmp_path}/picture.png}}\n"
        "  seen: {type: EncodeClipVision, clip_vision: $tower, image: $picture.image}\n"
        f"  style: {{type: LoadStyleModel, file: {style}}}\n"
        "  last: {type: ApplyStyleModel, conditioning: $text, style_model: $style, clip_vision_output: $seen}"
    )
    document = parse_document(f"latentgraph: 1\nnodes:\n{nodes}\noutputs: {{last: $last}}\n")
    with pytest.raises(InvalidWorkflow) as caught:
        build_graph(document, default_registry())
    assert len(caught.value.problems) == 2
    assert "'clip_vision_output' gives CLIP's tokens of 64 numbers" in str(caught.value)
    assert "'style_model' speaks of 48 numbers a token, but input 'conditioning' is text of 64" in str(caught.value)


def test_a_style_model_is_refused_as_a_checkpoint_by_what_loads_it(style: Path) -> None:
    with pytest.raises(HeaderError, match="with LoadStyleModel"):
        describe(style)
