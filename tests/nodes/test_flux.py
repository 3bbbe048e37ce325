"""Nodes for FLUX and its kin: networks with a file to themselves, guidance, and pictures to go by."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from safetensors.torch import save_file

from latentgraph.diffusion.types import Condition, Conditioning, Image, Latent, Mask
from latentgraph.graph import Context, Known, LatentGraphError
from latentgraph.nodes.autoencoders import VAEDecode, VAEEncode
from latentgraph.nodes.carried import check_text
from latentgraph.nodes.facts import model_facts
from latentgraph.nodes.flux import FluxGuidance, ReferenceLatent, ScaleImageForKontext
from latentgraph.nodes.latents import EmptyLatent, SetLatentMask
from latentgraph.nodes.loading import LoadCheckpoint, LoadDiffusionModel
from latentgraph.nodes.sampling import KSampler
from latentgraph.nodes.schedules import Flux2Scheduler
from latentgraph.nodes.text import TextEncode

TEXT = Conditioning((Condition(torch.zeros(1, 3, 4)), Condition(torch.ones(1, 3, 4))))


@pytest.fixture
def flux(tiny_dits: ModuleType, tmp_path: Path) -> Path:
    """A transformer in a file of its own."""
    save_file(tiny_dits.original(tiny_dits.FLUX, tiny_dits.weights(tiny_dits.FLUX)), tmp_path / "flux.safetensors")
    return tmp_path / "flux.safetensors"


def test_a_network_is_loaded_from_a_file_of_its_own(flux: Path, tiny_dits: ModuleType, context: Context) -> None:
    assert LoadDiffusionModel(file=flux).run(context).spec.network == tiny_dits.FLUX


def test_a_network_is_loaded_from_the_folder_that_diffusers_wrote(
    tiny_dits: ModuleType, tmp_path: Path, context: Context
) -> None:
    tiny_dits.network(tiny_dits.SD35).save_pretrained(tmp_path / "transformer")
    model = LoadDiffusionModel(file=tmp_path / "transformer").run(context)
    assert (model.spec.family, model.spec.network) == ("sd3", tiny_dits.SD35)


def test_a_network_is_loaded_from_a_checkpoint(tiny_sd1: Path, context: Context) -> None:
    assert LoadDiffusionModel(file=tiny_sd1).run(context).spec.family == "sd1"


@pytest.fixture(scope="module")
def folder(tiny_dits: ModuleType, tiny_texts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole pipeline of FLUX as diffusers writes it, in two shards where it is large; its slow tokenizers left out."""
    path = tmp_path_factory.mktemp("pipeline")
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        network = {
            "transformer": lambda: tiny_dits.network(tiny_dits.FLUX),
            "vae": tiny_dits.vae,
            "text_encoder": tiny_texts.clip_l,
            "text_encoder_2": tiny_texts.t5,
        }[name]()
        network.save_pretrained(path / name, max_shard_size="400KB")
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.save_pretrained(path / "scheduler")
    (path / "tokenizer_2").mkdir()
    (path / "tokenizer_2" / "spiece.model").write_bytes(tiny_texts.SPIECE.read_bytes())
    names = ("transformer", "vae", "text_encoder", "text_encoder_2", "scheduler")
    (path / "model_index.json").write_text(json.dumps({name: ["diffusers", "a class"] for name in names}))
    return path


def test_a_folder_of_diffusers_paints_from_text_and_into_a_picture(folder: Path, context: Context) -> None:
    assert (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    model, clip, vae = LoadCheckpoint(file=folder).run(context)
    assert clip is not None
    assert vae is not None
    text = TextEncode(clip=clip, text="a cat on a mat").run(context)
    options: dict[str, Any] = {"steps": 2, "cfg": 1.0, "scheduler": "simple", "seed": 3}
    empty = EmptyLatent(width=64, height=48).run(context)
    painted = KSampler(model=model, positive=text, negative=text, latent=empty, **options).run(context)
    assert painted.samples.shape == (1, 16, 6, 8)
    picture = VAEDecode(vae=vae, latent=painted).run(context)
    assert picture.pixels.shape == (1, 48, 64, 3)
    source = VAEEncode(vae=vae, image=picture).run(context)
    half = torch.zeros(1, 48, 64)
    half[..., 32:] = 1.0
    masked = SetLatentMask(latent=source, mask=Mask(half)).run(context)
    again = KSampler(model=model, positive=text, negative=text, latent=masked, denoise=0.5, **options).run(context)
    torch.testing.assert_close(again.samples[..., :4], source.samples[..., :4], rtol=0, atol=1e-5)
    assert not torch.allclose(again.samples[..., 4:], source.samples[..., 4:], rtol=0, atol=1e-2)


def test_a_folder_without_weights_is_no_network(tmp_path: Path, context: Context) -> None:
    with pytest.raises(ValueError, match="a folder without weights"):
        LoadDiffusionModel(file=tmp_path).run(context)


def test_guidance_is_set_on_every_entry() -> None:
    result = FluxGuidance(conditioning=TEXT, guidance=2.0).run(Context())
    assert [entry.guidance for entry in result.entries] == [2.0, 2.0]
    assert TEXT.entries[0].guidance == 3.5


def test_references_add_up() -> None:
    first, second = Latent(torch.zeros(1, 16, 4, 4)), Latent(torch.ones(1, 16, 2, 2))
    result = ReferenceLatent(conditioning=TEXT, latent=first).run(Context())
    result = ReferenceLatent(conditioning=result, latent=second).run(Context())
    assert all(entry.references == (first.samples, second.samples) for entry in result.entries)
    assert ReferenceLatent(conditioning=TEXT).run(Context()) is TEXT


def test_pictures_get_the_size_of_kontext_that_is_nearest_in_aspect() -> None:
    for (width, height), wanted in {(100, 100): (1024, 1024), (60, 100): (800, 1328), (300, 100): (1568, 672)}.items():
        scaled = ScaleImageForKontext(image=Image(torch.rand(1, height, width, 3))).run(Context())
        assert scaled.pixels.shape == (1, wanted[1], wanted[0], 3)


@pytest.mark.parametrize(("steps", "width", "height"), [(4, 512, 512), (20, 1024, 768), (50, 2048, 2048)])
def test_the_levels_of_flux2_are_those_of_diffusers(steps: int, width: int, height: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    mu = compute_empirical_mu(width * height // 256, steps)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist(), mu=mu)
    found = Flux2Scheduler(steps=steps, width=width, height=height).run(Context()).values
    torch.testing.assert_close(found, scheduler.sigmas, rtol=0, atol=1e-6)


def problems(model: dict[str, object], text: dict[str, object]) -> list[str]:
    noted: list[str] = []
    known = Known(
        {}, {"model": [model], "positive": [text]}, {}, lambda name, message: noted.append(f"{name} {message}")
    )
    check_text(known, "positive")
    return noted


def test_text_of_equal_width_is_told_apart_by_its_sum(flux: Path, context: Context) -> None:
    """FLUX's and SD3's texts are both T5's; what sums them up is not."""
    model = dict(model_facts(LoadDiffusionModel(file=flux).run(context).spec))
    (message,) = problems(model, {"family": "sd3", "text_width": 48, "pooled_width": 40})
    assert (
        "the sd3 family (40 numbers for all of it), but input 'model' is of the flux family, which takes 24" in message
    )
    assert not problems(model, {"family": "flux", "text_width": 48, "pooled_width": 24})


def test_a_reference_must_be_a_latent_of_the_models_family(flux: Path, context: Context) -> None:
    model = dict(model_facts(LoadDiffusionModel(file=flux).run(context).spec))
    (message,) = problems(model, {"references": (16, 4)})
    assert "a latent with 4 channels, but input 'model' is of the flux family, which takes 16" in message
    assert not problems(model, {"references": (16, None)})


def test_a_file_that_is_no_network_is_a_problem_of_the_document(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_text("no model")
    known = Known({}, {}, {"file": tmp_path / "x.safetensors"}, lambda name, message: None)
    with pytest.raises(LatentGraphError):
        LoadDiffusionModel.infer(known)
