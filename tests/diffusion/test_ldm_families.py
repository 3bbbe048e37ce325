"""Latent diffusion as first published: from files and folders in their true layouts, against diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    LDMPipeline,
    LDMTextToImagePipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from safetensors.torch import save_file
from torch import Tensor

from latentgraph.diffusion.checkpoints.describe import describe
from latentgraph.diffusion.checkpoints.export import save_checkpoint
from latentgraph.diffusion.families.plain_unets import PlainUNetSpec
from latentgraph.diffusion.latents.autoencoder import decode
from latentgraph.diffusion.latents.batches import empty_latent
from latentgraph.diffusion.layouts.kinds import kind_of
from latentgraph.diffusion.levels.space_spec import DiscreteLevels
from latentgraph.diffusion.model import Guider, Model
from latentgraph.diffusion.sampling.conditions import empty
from latentgraph.diffusion.sampling.guidance import ClassifierFree
from latentgraph.diffusion.sampling.options import (
    PerturbedAttentionGuidance,
    SamplingOptions,
    SkipLayerGuidance,
    TokenMerging,
)
from latentgraph.diffusion.sampling.run import sample, sample_guided
from latentgraph.diffusion.text.classes import encode_class
from latentgraph.diffusion.text.encoding import encode_prompt
from latentgraph.diffusion.types import (
    Condition,
    Conditioning,
    Latent,
    Noise,
    Sampler,
    Sigmas,
)

from .unets import BETAS, SEED, filled, kl, ldm_unet, noise, opened, plain_unet, vq, write_folder


@pytest.mark.filterwarnings("ignore")
def test_unconditional_latent_diffusion_makes_diffusers_picture(tiny: ModuleType, tmp_path: Path) -> None:
    ddim = DDIMScheduler(
        beta_start=0.0015, beta_end=0.0205, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    parts = {"unet": plain_unet(tiny), "vqvae": vq(tiny, scaling_factor=0.7), "scheduler": ddim}
    folder = write_folder(tmp_path / "ldm", "LDMPipeline", **parts)
    pipeline = LDMPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(SEED)
    expected = pipeline(batch_size=2, generator=generator, num_inference_steps=5, output_type="np").images

    checkpoint = opened(folder)
    spec = checkpoint.model.spec
    assert checkpoint.vae is not None
    assert (spec.family, spec.latent.scale, spec.latent.downscale) == ("ldm-unconditional", 0.7, 4)
    assert spec.levels == DiscreteLevels(beta_start=0.0015, beta_end=0.0205)
    sigmas = ((1 - ddim.alphas_cumprod) / ddim.alphas_cumprod).sqrt()[ddim.timesteps]
    start = noise(2, 3, 16, 16, seed=SEED) * (1 + sigmas[0] ** 2).sqrt() / spec.latent.scale  # DDIM's variance is one
    result = sample_guided(
        Guider(checkpoint.model, {"positive": empty(0)}, ClassifierFree(1.0)),
        Latent(start),
        noise=Noise(SEED, silent=True),
        sampler=Sampler("ddim"),
        sigmas=Sigmas(torch.cat([sigmas, torch.zeros(1)])),
    )
    pixels = decode(checkpoint.vae, result.latent).pixels
    assert pixels.shape == (2, 64, 64, 3)
    assert (pixels - torch.from_numpy(expected)).abs().median() < 1e-4  # a cell may fall to another code
    assert ((pixels - torch.from_numpy(expected)).abs() < 1e-3).float().mean() > 0.99


def test_an_empty_latent_has_the_cells_of_the_model_that_samples(tiny: ModuleType, tmp_path: Path) -> None:
    parts = {"unet": plain_unet(tiny), "vqvae": vq(tiny, scaling_factor=0.7), "scheduler": DDIMScheduler()}
    checkpoint = opened(write_folder(tmp_path / "ldm", "LDMPipeline", **parts))
    assert checkpoint.vae is not None
    nothing = empty(checkpoint.model.spec.context_width)
    latent = sample(
        checkpoint.model,
        nothing,
        nothing,
        empty_latent(width=64, height=32),
        seed=1,
        steps=2,
        cfg=1.0,
        sampler="ddim",
        scheduler="ddim_uniform",
    )
    assert latent.samples.shape == (1, 3, 8, 16)
    assert decode(checkpoint.vae, latent).pixels.shape == (1, 32, 64, 3)


def test_class_conditional_latent_diffusion_is_told_a_class_as_one_token(tiny: ModuleType, tmp_path: Path) -> None:
    tensors = {key: w.half().float() for key, w in tiny.classes_tensors().items()}
    save_file(tensors, tmp_path / "cin.safetensors")
    checkpoint = opened(tmp_path / "cin.safetensors")
    spec = checkpoint.model.spec
    assert checkpoint.clip is not None
    assert checkpoint.vae is not None
    assert (spec.family, spec.context_width, spec.network.heads) == ("ldm-class", 48, (1, 1))
    assert spec.levels == DiscreteLevels(beta_start=0.0015, beta_end=0.0195)
    assert (spec.latent.scale, spec.latent.downscale, checkpoint.vae.spec.downscale) == (1.0, 4, 4)

    seven, none = encode_class(checkpoint.clip, 7), encode_class(checkpoint.clip, 10)
    table = tensors["cond_stage_model.embedding.weight"]
    assert torch.equal(seven.entries[0].embedding, table[7].reshape(1, 1, 48))
    with pytest.raises(ValueError, match="there is no class 11; the network knows 0 to 10"):
        encode_class(checkpoint.clip, 11)
    with pytest.raises(ValueError, match="classes by number"):
        encode_prompt(checkpoint.clip, "a cat")

    ddim = DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    ddim.set_timesteps(4)
    sigmas = ((1 - ddim.alphas_cumprod) / ddim.alphas_cumprod).sqrt()[ddim.timesteps]
    x = noise(1, 3, 8, 8)
    result = sample_guided(
        Guider(checkpoint.model, {"positive": seven, "negative": none}, ClassifierFree(3.0)),
        Latent(x * (1 + sigmas[0] ** 2).sqrt()),
        noise=Noise(SEED, silent=True),
        sampler=Sampler("ddim"),
        sigmas=Sigmas(torch.cat([sigmas, torch.zeros(1)])),
    )
    with checkpoint.model.weights.use() as unet, torch.inference_mode():
        for t in ddim.timesteps:  # the paper's sampling, by diffusers' scheduler
            both = unet(torch.cat([x, x]), t, encoder_hidden_states=table[[10, 7]][:, None]).sample
            negative, positive = both.chunk(2)
            x = ddim.step(negative + 3.0 * (positive - negative), t, x).prev_sample
    torch.testing.assert_close(result.latent.samples, x, atol=1e-4, rtol=1e-3)


def bert(tiny: ModuleType) -> LDMBertModel:
    config = LDMBertConfig(
        vocab_size=60,
        max_position_embeddings=77,
        encoder_layers=2,
        encoder_ffn_dim=128,
        encoder_attention_heads=1,
        head_dim=64,
        d_model=32,
    )
    return filled(tiny, LDMBertModel(config))  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore")
def test_text_to_picture_of_latent_diffusion_makes_diffusers_picture(tiny: ModuleType, tmp_path: Path) -> None:
    ddim = DDIMScheduler(**BETAS, clip_sample=False, steps_offset=1)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    parts = {"unet": filled(tiny, unet), "vqvae": kl(tiny), "scheduler": ddim}
    text_encoder = bert(tiny)
    weights = {key: w.half().float() for key, w in text_encoder.state_dict().items()}
    text_encoder.load_state_dict(weights)
    folder = write_folder(tmp_path / "ldm", "LDMTextToImagePipeline", **parts, bert=text_encoder)

    checkpoint = opened(folder)
    spec = checkpoint.model.spec
    assert checkpoint.vae is not None
    assert checkpoint.description.clip is not None
    assert (spec.family, spec.context_width, spec.latent.scale) == ("ldm", 32, 0.18215)
    assert [encoder.key for encoder in checkpoint.description.clip.encoders] == ["bert"]

    tokenizer = Tokens({"": [2, 3], "a cat": [2, 4, 5, 3]})
    pipeline = LDMTextToImagePipeline(**parts, bert=text_encoder, tokenizer=tokenizer)  # type: ignore[arg-type]
    pipeline.set_progress_bar_config(disable=True)
    x = noise(1, 4, 8, 8)
    expected = pipeline(
        "a cat", height=64, width=64, num_inference_steps=4, guidance_scale=3.0, latents=x, output_type="np"
    ).images
    with torch.inference_mode():
        ids = [tokenizer([words]).input_ids for words in ("a cat", "")]
        positive, negative = (Conditioning((Condition(text_encoder(each)[0]),)) for each in ids)
    sigmas = ((1 - ddim.alphas_cumprod) / ddim.alphas_cumprod).sqrt()[ddim.timesteps]
    result = sample_guided(
        Guider(checkpoint.model, {"positive": positive, "negative": negative}, ClassifierFree(3.0)),
        Latent(x * (1 + sigmas[0] ** 2).sqrt() / spec.latent.scale),
        noise=Noise(SEED, silent=True),
        sampler=Sampler("ddim"),
        sigmas=Sigmas(torch.cat([sigmas, torch.zeros(1)])),
    )
    pixels = decode(checkpoint.vae, result.latent).pixels
    torch.testing.assert_close(pixels, torch.from_numpy(expected), atol=1e-4, rtol=0)


class Tokens:
    """A tokenizer that knows a few prompts."""

    def __init__(self, known: Mapping[str, list[int]]) -> None:
        self._known = known

    def __call__(self, prompts: str | list[str], **options: Any) -> Any:
        rows = [self._known[prompt] for prompt in ([prompts] if isinstance(prompts, str) else prompts)]
        return SimpleNamespace(input_ids=torch.tensor([row + [0] * (77 - len(row)) for row in rows]))


def test_a_checkpoint_of_ldms_first_text_model_is_told_by_its_text_encoder(tiny: ModuleType, tmp_path: Path) -> None:
    tensors = {key: w for key, w in tiny.sd1_tensors().items() if not key.startswith("cond_stage_model.")}
    tensors |= {f"cond_stage_model.transformer.{key}": w for key, w in ldm_bert(bert(tiny).state_dict()).items()}
    found = describe(tiny.write(tmp_path / "text2img.safetensors", tensors))
    assert found.clip is not None
    assert (found.family, [encoder.key for encoder in found.clip.encoders]) == ("ldm", ["bert"])
    assert found.model.network.heads == (8, 8)
    assert found.model.levels == DiscreteLevels()


def ldm_bert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' LDMBertModel by the names of LDM's TransformerWrapper."""
    names = {
        "model.embed_tokens": "token_emb",
        "model.embed_positions": "pos_emb.emb",
        "model.layer_norm": "norm",
        "to_logits": "to_logits",
    }
    inner = {
        "self_attn_layer_norm": (0, "0"),
        "self_attn.q_proj": (0, "1.to_q"),
        "self_attn.k_proj": (0, "1.to_k"),
        "self_attn.v_proj": (0, "1.to_v"),
        "self_attn.out_proj": (0, "1.to_out"),
        "final_layer_norm": (1, "0"),
        "fc1": (1, "1.net.0.0"),
        "fc2": (1, "1.net.2"),
    }
    tensors = {}
    for key, w in state.items():
        module, _, leaf = key.rpartition(".")
        if module in names:
            tensors[f"{names[module]}.{leaf}"] = w
        else:
            number, _, rest = module.removeprefix("model.layers.").partition(".")
            place, name = inner[rest]
            tensors[f"attn_layers.layers.{2 * int(number) + place}.{name}.{leaf}"] = w
    return tensors


LAYOUTS = {
    "as for faces": {},
    "as for churches": {
        "updown": True,
        "scale_shift": True,
        "in_channels": 4,
        "mult": (1, 2, 4),
        "attention": (0, 1),
        "head_count": 8,
    },
    "two blocks a level": {"blocks": 2, "mult": (1, 2, 2), "attention": (1, 2)},
}


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
def test_an_unconditional_checkpoint_of_ldm_is_built_with_every_tensor_in_its_place(
    options: dict[str, Any], tiny: ModuleType, tmp_path: Path
) -> None:
    layout = tiny.PlainLayout(**{"channels": 64, **options})
    state = tiny.fill(tiny.plain_unet_shapes(layout))
    vae = tiny.vae_shapes(mult=(1, 1, 1), latent=layout.in_channels, codes=16 if layout.in_channels == 3 else None)
    betas = torch.linspace(0.0015**0.5, 0.0155**0.5, 1000, dtype=torch.float64) ** 2
    path = tmp_path / "ldm.safetensors"
    tensors = {tiny.UNET + key: w for key, w in state.items()} | {
        tiny.VAE + key: w for key, w in tiny.fill(vae).items()
    }
    save_file(tensors | {"betas": betas.float(), "scale_factor": torch.tensor(0.22765929)}, path)

    checkpoint = opened(path)
    spec = checkpoint.model.spec
    assert isinstance(spec.network, PlainUNetSpec)
    assert spec.network.attention == tuple(level in layout.attention for level in range(len(layout.mult)))
    assert (spec.network.blocks, spec.network.scale_shift) == (layout.blocks, layout.scale_shift)
    assert spec.network.resampling == ("resnet" if layout.updown else "conv")
    assert spec.levels == DiscreteLevels(beta_start=0.0015, beta_end=0.0155)
    assert (spec.latent.scale, spec.latent.downscale, checkpoint.clip) == (0.227659, 4, None)
    with checkpoint.model.weights.use() as network:
        ours = {name: tuple(w.shape) for name, w in network.state_dict().items()}
        assert ours == dict(kind_of(spec.network).layout(spec.network))
        x, t = noise(1, layout.in_channels, 8, 8), torch.tensor([500.0])
        with torch.inference_mode():
            expected = ldm_unet(state, layout, x, t)
            torch.testing.assert_close(network(x, t).sample, expected, atol=1e-4, rtol=1e-4)

    written = save_checkpoint(
        tmp_path, prefix="again", model=checkpoint.model, vae=checkpoint.vae, clip=checkpoint.clip, format="float32"
    )
    again = opened(written)
    assert again.model.spec == spec
    with again.model.weights.use() as copy, checkpoint.model.weights.use() as network:
        for name, w in network.state_dict().items():
            assert torch.equal(copy.state_dict()[name], w), name


@pytest.fixture
def faces(tiny: ModuleType, tmp_path: Path) -> Model:
    """A model without text, whose network is a UNet that is told the time alone."""
    tiny.write(tmp_path / "faces.safetensors", tiny.ldm_tensors(tiny.PlainLayout()))
    return opened(tmp_path / "faces.safetensors").model


def unprompted(model: Model, **options: Any) -> Tensor:
    """Returns what a run of six steps gives with these options of the model."""
    asked = replace(model, options=SamplingOptions(**options))
    run: dict[str, Any] = {"steps": 6, "cfg": 1.0, "sampler": "euler", "scheduler": "normal"}
    return sample(asked, empty(0), empty(0), empty_latent(width=64, height=64), seed=1, **run).samples


def test_steps_of_a_network_without_text_are_taken_from_earlier_ones(faces: Model) -> None:
    whole, cached = unprompted(faces), unprompted(faces, quality=20.0)
    assert not torch.equal(whole, cached)
    torch.testing.assert_close(whole, cached, atol=0.1, rtol=0.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"corrections": (SkipLayerGuidance((0,)),)}, "skip-layer guidance leaves out blocks of a transformer"),
        (
            {"corrections": (PerturbedAttentionGuidance(),)},
            "perturbed-attention guidance changes how a UNet with text works",
        ),
        ({"changes": (TokenMerging(),)}, "change how a UNet with text works"),
    ],
    ids=["skip layers", "perturbed attention", "token merging"],
)
def test_a_network_without_text_has_no_options_of_other_kinds(faces: Model, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"{words}, and this network is a UNet without text"):
        unprompted(faces, **options)
