"""Autoencoders of every kind, from files in their true layouts, against diffusers' own classes with the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ConsistencyDecoderVAE, VQModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.checkpoints.opening import open_tiny_vae, open_vae
from latentgraph.diffusion.families.autoencoders import ConsistencySpec, KLSpec, TinySpec, VQSpec
from latentgraph.diffusion.latents.autoencoder import decode, decode_tiled, encode
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.types import Image, Latent, Vae

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
ATTENDING_DOWN, ATTENDING_UP = "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D"


@pytest.fixture
def memory() -> WeightMemory:
    return WeightMemory(precision="exact")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(height: int = 32, width: int = 48, batch: int = 1) -> Image:
    return Image(noise(batch, height, width, 3).sigmoid())


def network_pixels(image: Image) -> Tensor:
    return image.pixels.movedim(-1, 1) * 2 - 1


def as_picture(y: Tensor) -> Tensor:
    return ((y + 1) / 2).clamp(0, 1).movedim(1, -1)


def filled(tiny: ModuleType, network: Any, gain: float = 1.0) -> Any:
    """A network of diffusers with made-up weights."""
    shapes = {name: tuple(w.shape) for name, w in network.state_dict().items()}
    network.load_state_dict(tiny.fill(shapes, gain=gain))
    return network.eval()


def saved(folder: Path, network: Any) -> Path:
    network.save_pretrained(folder)
    return folder


def renamed(state: Mapping[str, Tensor], pairs: Mapping[str, str]) -> dict[str, Tensor]:
    """LDM's tensors by diffusers' names, by plain replacement: apart from the maps that are tested."""
    tensors = {}
    for key, w in state.items():
        for old, new in pairs.items():
            key = key.replace(old, new)
        tensors[key] = w.squeeze() if ".to_" in key and w.ndim == 4 else w
    return tensors


LDM_NAMES = {
    "encoder.down.": "encoder.down_blocks.",
    "decoder.up.0.": "decoder.up_blocks.1.",  # two levels: 1 is the innermost, which comes first in diffusers
    "decoder.up.1.": "decoder.up_blocks.0.",
    ".block.": ".resnets.",
    ".attn.": ".attentions.",
    ".mid.block_1": ".mid_block.resnets.0",
    ".mid.block_2": ".mid_block.resnets.1",
    ".mid.attn_1": ".mid_block.attentions.0",
    ".nin_shortcut": ".conv_shortcut",
    ".downsample.": ".downsamplers.0.",
    ".upsample.": ".upsamplers.0.",
    ".norm_out": ".conv_norm_out",
    ".q.": ".to_q.",
    ".k.": ".to_k.",
    ".v.": ".to_v.",
    ".proj_out.": ".to_out.0.",
    ".norm.": ".group_norm.",
}


def test_a_vq_autoencoder_in_ldms_layout_is_diffusers_vqmodel(
    tiny: ModuleType, tmp_path: Path, memory: WeightMemory
) -> None:
    state = tiny.fill(tiny.vae_shapes(mult=(1, 2), latent=3, codes=20, attention=(1,)), gain=1.0)
    path = tmp_path / "vq.safetensors"
    save_file({f"first_stage_model.{key}": w for key, w in state.items()}, path)
    theirs = VQModel(
        block_out_channels=(32, 64),
        down_block_types=(DOWN, ATTENDING_DOWN),
        up_block_types=(ATTENDING_UP, UP),
        layers_per_block=1,
        latent_channels=3,
        num_vq_embeddings=20,
    ).eval()
    theirs.load_state_dict(renamed(state, LDM_NAMES))

    vae = open_vae(path, memory)

    assert isinstance(vae.spec, VQSpec)
    assert (vae.spec.downscale, vae.spec.codes, vae.spec.attention) == (2, 20, (False, True))
    with torch.inference_mode():
        z = theirs.encode(network_pixels(picture())).latents
        latent = encode(vae, picture())
        torch.testing.assert_close(latent.samples, z, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(decode(vae, latent).pixels, as_picture(theirs.decode(z).sample), atol=1e-5, rtol=0)
        assert len({tuple(code) for code in theirs.quantize(z)[0].movedim(1, -1).reshape(-1, 3).tolist()}) > 1


def test_a_vq_autoencoder_of_a_diffusers_folder_keeps_its_codebook_in_float32(tiny: ModuleType, tmp_path: Path) -> None:
    theirs = filled(tiny, VQModel(block_out_channels=(32,), num_vq_embeddings=8, mid_block_add_attention=False))
    memory = WeightMemory(precision="auto")
    vae = open_vae(saved(tmp_path / "vqvae", theirs), memory)
    with vae.weights.use() as network:
        assert network.quantize.embedding.weight.dtype == torch.float32
        assert torch.equal(network.quantize.embedding.weight, theirs.quantize.embedding.weight)
    z = 0.3 * noise(1, 3, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(
            decode(vae, Latent(z)).pixels, as_picture(theirs.decode(z).sample), atol=0.05, rtol=0
        )


def test_a_kl_autoencoder_may_attend_at_its_levels(tiny: ModuleType, tmp_path: Path, memory: WeightMemory) -> None:
    state = tiny.fill(tiny.vae_shapes(mult=(1, 2), attention=(1,)), gain=1.0)
    save_file(state, tmp_path / "kl.safetensors")
    theirs = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=(DOWN, ATTENDING_DOWN),
        up_block_types=(ATTENDING_UP, UP),
        layers_per_block=1,
    ).eval()
    theirs.load_state_dict(renamed(state, LDM_NAMES))
    vae = open_vae(tmp_path / "kl.safetensors", memory)
    assert isinstance(vae.spec, KLSpec)
    z = noise(1, 4, 8, 8)
    with torch.inference_mode():
        expected = theirs.encode(network_pixels(picture())).latent_dist.mean
        torch.testing.assert_close(encode(vae, picture()).samples, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            decode(vae, Latent(z)).pixels, as_picture(theirs.decode(z).sample), atol=1e-5, rtol=0
        )


@pytest.fixture
def taesd(tiny: ModuleType) -> AutoencoderTiny:
    widths = (16,) * 4
    network = AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths)
    return filled(tiny, network, gain=1.5)  # type: ignore[no-any-return]


def tiny_files(network: AutoencoderTiny, folder: Path) -> tuple[Path, Path]:
    """TAESD's own two files; its decoder begins with a clamp, which takes the number 0."""
    encoder = {key.removeprefix("layers."): w for key, w in network.encoder.state_dict().items()}
    decoder = {}
    for key, w in network.decoder.state_dict().items():
        number, rest = key.removeprefix("layers.").split(".", 1)
        decoder[f"{int(number) + 1}.{rest}"] = w
    save_file(encoder, folder / "taesd_encoder.safetensors")
    save_file(decoder, folder / "taesd_decoder.safetensors")
    return folder / "taesd_decoder.safetensors", folder / "taesd_encoder.safetensors"


def assert_is_tiny(vae: Vae, network: AutoencoderTiny, *, scale: float, shift: float = 0.0) -> None:
    """A tiny autoencoder works in model space; ours speaks VAE space."""
    z = noise(1, 4, 4, 6) / scale
    with torch.inference_mode():
        expected = as_picture(network.decode((z - shift) * scale).sample)
        torch.testing.assert_close(decode(vae, Latent(z)).pixels, expected, atol=1e-5, rtol=0)
        if vae.spec.encodes:
            expected = network.encode(network_pixels(picture())).latents / scale + shift
            torch.testing.assert_close(encode(vae, picture()).samples, expected, atol=1e-4, rtol=1e-4)


def test_tiny_autoencoders_load_from_each_of_their_layouts(
    taesd: AutoencoderTiny, tmp_path: Path, memory: WeightMemory
) -> None:
    decoder, encoder = tiny_files(taesd, tmp_path)
    folder = saved(tmp_path / "folder", taesd)
    halves = {"decoder": load_file(decoder), "encoder": load_file(encoder)}
    joined = {f"taesd_{half}.{key}": w for half, tensors in halves.items() for key, w in tensors.items()}
    save_file(joined, tmp_path / "joined.safetensors")
    for path, other in ((decoder, encoder), (folder, None), (tmp_path / "joined.safetensors", None)):
        vae = open_tiny_vae(path, other, memory, family="sdxl")
        assert isinstance(vae.spec, TinySpec)
        assert (vae.spec.decoder_blocks, vae.spec.encoder_blocks, vae.spec.downscale) == ((3, 3, 3, 1), (1, 3, 3, 3), 8)
        assert_is_tiny(vae, taesd, scale=0.13025)

    save_file(
        joined | {"vae_scale": torch.tensor(1.5305), "vae_shift": torch.tensor(0.0609)}, tmp_path / "told.safetensors"
    )
    assert_is_tiny(open_vae(tmp_path / "told.safetensors", memory), taesd, scale=1.5305, shift=0.0609)


def test_a_tiny_decoder_alone_decodes_and_says_what_encoding_takes(
    taesd: AutoencoderTiny, tmp_path: Path, memory: WeightMemory
) -> None:
    decoder, _ = tiny_files(taesd, tmp_path)
    vae = open_tiny_vae(decoder, None, memory, family="sd1")
    assert not vae.spec.encodes
    assert_is_tiny(vae, taesd, scale=0.18215)
    with pytest.raises(ValueError, match=r"taesd_decoder\.safetensors is a decoder alone .* load its encoder"):
        encode(vae, picture())


def test_wrong_files_for_a_tiny_autoencoder_are_refused_in_words(
    tiny: ModuleType, tiny_sd1: Path, taesd: AutoencoderTiny, tmp_path: Path, memory: WeightMemory
) -> None:
    decoder, encoder = tiny_files(taesd, tmp_path)
    cases = (
        (encoder, None, "sd1", "found its encoder alone, expected the decoder of a tiny autoencoder"),
        (decoder, decoder, "sd1", "found its decoder alone, expected the encoder of a tiny autoencoder"),
        (decoder, None, "flux", "of 4 latent channels, expected 16, as the latents of flux have. Name taef1"),
        (tiny_sd1, None, "sd1", "found a VAE alone .* expected the decoder of a tiny autoencoder"),
    )
    for first, second, family, message in cases:
        with pytest.raises(HeaderError, match=message):
            open_tiny_vae(first, second, memory, family=family)  # type: ignore[arg-type]
    with pytest.raises(
        HeaderError, match=r"found a tiny autoencoder \(TAESD\), expected a VAE\. Load it with LoadTinyVAE"
    ):
        open_vae(decoder, memory)
    pools = tiny.tiny_vae_shapes("decoder", first=1) | {"3.pool.0.weight": (64, 16, 1, 1)}
    with pytest.raises(HeaderError, match=r"its blocks pool, as those of FLUX\.2's \(taef2\) do"):
        open_tiny_vae(tiny.write_skeleton(tmp_path / "taef2.safetensors", pools), None, memory, family="flux")
    other = tmp_path / "other.safetensors"
    save_file(tiny.fill(tiny.tiny_vae_shapes("encoder", latent=16)), other)
    with pytest.raises(HeaderError, match="not halves of one autoencoder"):
        open_tiny_vae(decoder, other, memory, family="sd1")


def test_the_published_tiny_autoencoder_has_the_layout_of_the_tests(tiny: ModuleType) -> None:
    published = AutoencoderTiny()
    for half, module in (("encoder", published.encoder), ("decoder", published.decoder)):
        shapes = {key.removeprefix("layers."): tuple(w.shape) for key, w in module.state_dict().items()}
        assert tiny.tiny_vae_shapes(half, width=64) == shapes


@pytest.fixture(scope="module")
def consistency(tiny: ModuleType) -> ConsistencyDecoderVAE:
    return filled(tiny, tiny.consistency_decoder())  # type: ignore[no-any-return]


def test_the_consistency_decoder_is_diffusers_own_noise_and_all(
    consistency: ConsistencyDecoderVAE, tmp_path: Path, memory: WeightMemory
) -> None:
    vae = open_vae(saved(tmp_path / "consistency", consistency), memory)
    assert isinstance(vae.spec, ConsistencySpec)
    assert (vae.spec.downscale, vae.spec.decoder_widths, vae.spec.times) == (2, (32, 64), 1024)
    z = noise(2, 4, 8, 12)
    with torch.inference_mode():
        expected = consistency.encode(network_pixels(picture())).latent_dist.mean
        torch.testing.assert_close(encode(vae, picture()).samples, expected, atol=1e-5, rtol=1e-5)
        each = [
            consistency.decode(item, generator=torch.Generator().manual_seed(7 + k)).sample
            for k, item in enumerate(z.split(1))
        ]
        pixels = decode(vae, Latent(z), seed=7).pixels
        torch.testing.assert_close(pixels, as_picture(torch.cat(each)), atol=1e-5, rtol=0)
    assert not torch.equal(pixels, decode(vae, Latent(z), seed=8).pixels)
    second = Latent(z[1:], batch_index=(1,))
    assert torch.equal(decode(vae, second, seed=7).pixels, pixels[1:]), "an item keeps its noise"
    with pytest.raises(ValueError, match="can't decode in tiles"):
        decode_tiled(vae, Latent(z), tile_size=8, overlap=0)


def test_kinds_run_in_the_fast_precision_too(
    consistency: ConsistencyDecoderVAE, taesd: AutoencoderTiny, tmp_path: Path
) -> None:
    memory = WeightMemory(precision="auto")
    z = noise(1, 4, 8, 8)
    vae = open_vae(saved(tmp_path / "consistency", consistency), memory)
    exact = open_vae(tmp_path / "consistency", WeightMemory(precision="exact"))
    torch.testing.assert_close(decode(vae, Latent(z)).pixels, decode(exact, Latent(z)).pixels, atol=0.05, rtol=0)
    tiny_vae = open_tiny_vae(saved(tmp_path / "taesd", taesd), None, memory, family="sd1")
    assert decode(tiny_vae, Latent(z)).pixels.shape == (1, 64, 64, 3)
