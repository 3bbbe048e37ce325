"""Which text encoders files hold, which of them go together, and where their tokenizers are looked for."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from latentgraph.diffusion.checkpoints.describe_text import describe_text, find_encoders, identify
from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.checkpoints.opening import open_text
from latentgraph.diffusion.names import TextFamily
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.text.encoding import encode_prompt
from latentgraph.diffusion.text.vocabularies import VocabularyError


@pytest.fixture(scope="module")
def files(tiny_texts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_texts.write_encoders(tmp_path_factory.mktemp("encoders"))
    tiny_texts.write_bert(folder)
    return folder


def test_the_encoders_in_use_are_told_from_their_keys(tiny: ModuleType, tiny_texts: ModuleType) -> None:
    published = {
        "CLIP-L": {f"text_model.{key}": shape for key, shape in tiny.clip_shapes(768, 12).items()},
        "CLIP-H of OpenCLIP": tiny.open_clip_shapes(1024, 24, 1024),
        "CLIP-H, whose last layer was cut off": tiny.clip_shapes(1024, 23),
        "CLIP-G of OpenCLIP": tiny.open_clip_shapes(1280, 32, 1280),
        "T5": {key: tuple(tensor.shape) for key, tensor in tiny_texts.t5().state_dict().items()},
        "BERT": tiny_texts.bert_shapes(),
        "a VAE": tiny.vae_shapes(),
    }
    found = [identify(shapes) for shapes in published.values()]
    assert found == ["clip_l", "clip_h", "clip_h", "clip_g", "t5xxl", "bert", None]


FAMILIES: dict[tuple[str, ...], str] = {
    ("clip_l",): "sd1",
    ("clip_g",): "sdxl-refiner",
    ("clip_g", "clip_l"): "sdxl",
    ("t5xxl", "clip_l"): "flux",
    ("clip_l", "clip_g", "t5xxl"): "sd3",
    ("t5xxl",): "sd3",
    ("bert",): "ldm",
}


@pytest.mark.parametrize("names", FAMILIES)
def test_a_family_is_known_by_its_encoders(names: tuple[str, ...], files: Path) -> None:
    assert describe_text([files / f"{name}.safetensors" for name in names]).spec.family == FAMILIES[names]


def test_a_type_says_for_which_family_where_several_would_do(files: Path) -> None:
    pair = [files / "clip_l.safetensors", files / "t5xxl.safetensors"]
    assert describe_text(pair, "sd3").spec.family == "sd3"
    assert describe_text(pair, "flux").spec.context_width == 48
    assert describe_text([files / "clip_l.safetensors"], "sd3").spec.context_width == 4096


WRONG: dict[str, tuple[tuple[str, ...], TextFamily, str]] = {
    "T5 missing for FLUX": (
        ("clip_l",), "flux",
        "found clip_l alone, expected clip_l and t5xxl of FLUX.1. Name the file of t5xxl as well",
    ),
    "CLIP-G for FLUX": (("clip_g", "t5xxl"), "flux", "found clip_g, expected clip_l and t5xxl of FLUX.1"),
    "T5 for SDXL": (("clip_l", "t5xxl"), "sdxl", "found t5xxl, expected clip_l and clip_g of Stable Diffusion XL"),
    "one encoder twice": (("clip_l", "clip_l"), "auto", "found clip_l, as in clip_l.safetensors, expected another"),
    "T5 for SD1": (("t5xxl",), "stable_diffusion", "found t5xxl, expected clip_l of Stable Diffusion 1.x or clip_h"),
    "CLIP-L for latent diffusion": (("clip_l",), "ldm", "found clip_l, expected bert of latent diffusion"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_encoders_that_do_not_go_together_are_refused_with_what_is_missing(case: str, files: Path) -> None:
    names, kind, message = WRONG[case]
    with pytest.raises(HeaderError) as caught:
        describe_text([files / f"{name}.safetensors" for name in names], kind)
    assert message in str(caught.value)


def test_files_without_text_encoders_are_refused_with_what_they_are(reference_tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(HeaderError, match="found a checkpoint without text encoders"):
        find_encoders(reference_tiny)
    save_file({"vision_model.post_layernorm.weight": torch.zeros(4)}, tmp_path / "vision.safetensors")
    with pytest.raises(HeaderError, match=r"found a CLIP vision model .* Name a text encoder"):
        find_encoders(tmp_path / "vision.safetensors")


def test_a_checkpoint_lends_its_text_encoders(tiny_sdxl: Path) -> None:
    found = describe_text([tiny_sdxl])
    assert (found.spec.family, [source.prefix for source in found.sources]) == (
        "sdxl",
        ["conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."],
    )


def test_a_folder_of_diffusers_has_encoders_and_tokenizers_by_their_components(
    tiny_texts: ModuleType, tmp_path: Path
) -> None:
    tiny_texts.clip_l().text_model.save_pretrained(tmp_path / "text_encoder")
    tiny_texts.t5().save_pretrained(tmp_path / "text_encoder_2")
    (tmp_path / "tokenizer_2").mkdir()
    (tmp_path / "tokenizer_2" / "spiece.model").write_bytes(tiny_texts.SPIECE.read_bytes())
    index = {"text_encoder": ["transformers", "CLIPTextModel"], "text_encoder_2": ["transformers", "T5EncoderModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    clip = open_text([tmp_path], WeightMemory(precision="exact"))
    assert clip.spec.family == "flux"
    assert [(key, file.path.name) for key, file in clip.tokenizers] == [("t5xxl", "spiece.model")]
    (condition,) = encode_prompt(clip, "a cat").conditioning.entries
    assert condition.embedding.shape == (1, 256, 48)


def test_a_tokenizer_is_looked_for_by_the_files_name_then_beside_it_then_among_the_models(
    tiny_texts: ModuleType, tmp_path: Path
) -> None:
    folder = tiny_texts.write_encoders(tmp_path / "models" / "text_encoders", tokenizer=False)
    (encoder,) = find_encoders(folder / "t5xxl.safetensors")
    assert encoder.tokenizer() is None
    library = tmp_path / "models" / "tokenizers"
    (library / "t5").mkdir(parents=True)
    for place in (
        library / "t5.model",
        library / "t5" / "spiece.model",
        folder / "spiece.model",
        folder / "tokenizer.json",
        folder / "t5xxl.spiece.model",
    ):
        place.write_bytes(tiny_texts.SPIECE.read_bytes())
        assert encoder.tokenizer() == place


def test_without_a_tokenizer_the_error_says_which_to_get_and_where_to_put_it(
    tiny_texts: ModuleType, tmp_path: Path
) -> None:
    folder = tiny_texts.write_encoders(tmp_path, tokenizer=False)
    clip = open_text([folder / "t5xxl.safetensors"], WeightMemory(precision="exact"))
    with pytest.raises(VocabularyError, match=r"tokenizer of t5xxl is not there .*google/t5-v1_1-xxl.* as t5\.model"):
        encode_prompt(clip, "a cat")


def test_a_tokenizer_with_more_words_than_the_encoder_is_refused(tiny_texts: ModuleType, tmp_path: Path) -> None:
    save_file(tiny_texts.weights(tiny_texts.t5(vocab=20)), tmp_path / "t5.safetensors")
    clip = open_text(
        [tmp_path / "t5.safetensors"], WeightMemory(precision="exact"), tokenizers={"t5xxl": tiny_texts.SPIECE}
    )
    with pytest.raises(VocabularyError, match=r"gives the id 174, but t5xxl knows 20 words"):
        encode_prompt(clip, "a cat")
