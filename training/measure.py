"""Measures an exported checkpoint: autoencoder PSNR, caption retrieval, and a contact sheet, all from fixed seeds.

Weights are read from the exported file, so what is measured is what is shipped. Sampling is DPM-Solver++(2M) from
diffusers on SD1's schedule with classifier-free guidance.

    python -m training.measure --work WORK --model models/emoji.safetensors --sheet sheet.png
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from PIL import Image, ImageDraw, ImageFont
from safetensors import safe_open
from torch.nn import functional as F
from transformers import CLIPTextModel

from .augmentation import BACKGROUNDS, COLOURS, PLAIN, compose, dominant_hues, recolour
from .dataset import STYLES, PictureSet, load_pictures
from .diffusion import BETAS
from .layout import with_places
from .loop import log
from .presets import AUTOENCODERS, DIFFUSIONS, LATENT_SCALE, preset_named
from .text import VOCABULARY, build_text_encoder, tokenize

SEEN = (
    "red apple", "cat face", "dog face", "pizza", "rocket", "sunflower", "octopus", "guitar", "red heart",
    "smiling face with sunglasses", "robot", "strawberry", "house", "tropical fish", "snowman", "ghost",
    "avocado, 3d", "flat penguin", "noto owl", "butterfly on a blue background",
)  # fmt: skip
UNSEEN = (
    "a green pizza on a purple background", "blue strawberry, 3d", "a pink octopus on a yellow background",
    "purple avocado on a teal background", "flat red penguin on a sky blue background", "a gray sunflower on black",
    "a robot with sunglasses", "a cat in a rocket", "a smiling face on an apple", "a fish with a crown",
    "a ghost playing guitar", "a blue dragon with a party hat",
)  # fmt: skip
FEATURE_SIDE = 16  # pixels; retrieval compares pictures at this size
RETRIEVED = 5


@dataclass(frozen=True)
class Model:
    """The networks of a checkpoint in float32, ready to sample."""

    unet: UNet2DConditionModel
    autoencoder: AutoencoderKL
    text: CLIPTextModel

    @property
    def device(self) -> torch.device:
        return torch.device(self.unet.device)


def presets_of(path: Path) -> tuple[str, str]:
    """Returns the diffusion and the autoencoder preset that the header of an exported file names."""
    with safe_open(path, framework="pt") as file:
        diffusion, _, autoencoder = (file.metadata() or {}).get("latentgraph.presets", "").partition("/")
    if not autoencoder:
        raise SystemExit(f"{path}: its header names no presets; was it written by training.export?")
    return diffusion, autoencoder


def load_model(path: Path, device: torch.device) -> Model:
    """Returns the networks of an exported file, built from the presets that its header names."""
    diffusion, autoencoder = presets_of(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    preset, picture = preset_named(diffusion, DIFFUSIONS), preset_named(autoencoder, AUTOENCODERS)
    unet, coder, text = preset.build_unet(), picture.build(), build_text_encoder(preset, VOCABULARY)
    for network, places in with_places(unet, coder, text):
        with torch.no_grad():
            for name, p in network.named_parameters():
                p.copy_(tensors[places[name].key].view_as(p))
        network.to(device).eval().requires_grad_(False)
    return Model(unet, coder, text)


@torch.no_grad()
def generate(model: Model, prompts: list[str], *, steps: int, guidance: float, seed: int) -> torch.Tensor:
    """Returns (n, 3, 128, 128) in [0, 1]; picture i starts from noise of seed `seed + i`."""
    ids = tokenize([*prompts, ""]).to(model.device)
    context = model.text(input_ids=ids).last_hidden_state
    positive, negative = context[:-1], context[-1:].expand(len(prompts), -1, -1)
    noise = [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed + i)) for i in range(len(prompts))]
    scheduler = DPMSolverMultistepScheduler(
        beta_start=BETAS[0], beta_end=BETAS[1], beta_schedule="scaled_linear", use_karras_sigmas=True
    )
    scheduler.set_timesteps(steps)
    x = torch.stack(noise).to(model.device) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        both = torch.cat([positive, negative])
        with_text, without = model.unet(torch.cat([x, x]), t, encoder_hidden_states=both).sample.chunk(2)
        x = scheduler.step(without + guidance * (with_text - without), t, x).prev_sample
    picture: torch.Tensor = model.autoencoder.decode(x / LATENT_SCALE).sample
    return (picture / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def measure_autoencoder(model: Model, pictures: PictureSet, count: int = 200) -> float:
    """Returns the mean PSNR in dB over pictures with random colours and backgrounds, half of them as drawn on white."""
    rng = random.Random(0)
    which = rng.sample(range(len(pictures)), count)
    rgba = _rgba(pictures, which)
    plain = torch.arange(count) < count // 2
    colours = torch.tensor([rng.randrange(len(COLOURS)) for _ in which]).masked_fill(plain, PLAIN)
    grounds = torch.tensor([rng.randrange(len(BACKGROUNDS)) for _ in which]).masked_fill(plain, 0)
    target = compose(recolour(rgba, dominant_hues(rgba), colours), grounds)
    decibels = []
    for part in torch.split(target, 20):
        x = part.to(model.device) * 2 - 1
        output = model.autoencoder.decode(model.autoencoder.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        decibels.append(-10 * ((output - x) / 2).square().mean((1, 2, 3)).log10().cpu())
    return torch.cat(decibels).mean().item()


def measure_retrieval(
    model: Model, pictures: PictureSet, *, count: int, steps: int, guidance: float
) -> tuple[float, float]:
    """Returns two shares: own picture among the nearest five, and any picture of the same name among them.

    A caption is 'style name'; the picture is compared with the whole set on white, by the
    Euclidean distance of Lab pixels at 16x16.
    """
    which = random.Random(1).sample(range(len(pictures)), count)
    captions = [f"{STYLES[pictures.styles[i]]} {pictures.names[i]}" for i in which]
    drawn = torch.cat(
        [
            generate(model, captions[k : k + 25], steps=steps, guidance=guidance, seed=1000 + k).cpu()
            for k in range(0, count, 25)
        ]
    )
    known = torch.cat([_features(_on_white(pictures, list(part))) for part in _parts(len(pictures), 256)])
    nearest = torch.cdist(_features(drawn), known).topk(RETRIEVED, largest=False).indices.tolist()
    own = sum(i in found for i, found in zip(which, nearest, strict=True))
    named = sum(
        any(pictures.names[k] == pictures.names[i] for k in found) for i, found in zip(which, nearest, strict=True)
    )
    return own / count, named / count


def make_sheet(model: Model, *, steps: int, guidance: float) -> Image.Image:
    """Returns a labelled sheet of 8 columns: 20 prompts with names of the set, then 12 unseen combinations."""
    prompts = [*SEEN, *UNSEEN]
    drawn = (generate(model, prompts, steps=steps, guidance=guidance, seed=0).cpu() * 255).round().byte()
    sheet = Image.new("RGB", (8 * 136, 4 * 158), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(9)
    for i, (prompt, picture) in enumerate(zip(prompts, drawn, strict=True)):
        left, top = i % 8 * 136 + 4, i // 8 * 158
        sheet.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), (left, top))
        lines: list[str] = []
        line = ""
        for word in prompt.split():
            if pen.textlength(f"{line} {word}", font=font) > 128:
                lines, line = [*lines, line], word
            else:
                line = f"{line} {word}".strip()
        color = "black" if i < len(SEEN) else "blue"
        pen.multiline_text((left, top + 129), "\n".join([*lines, line]), fill=color, font=font, spacing=1)
    return sheet


def _parts(count: int, size: int) -> list[range]:
    return [range(k, min(k + size, count)) for k in range(0, count, size)]


def _rgba(pictures: PictureSet, which: list[int]) -> torch.Tensor:
    return torch.from_numpy(pictures.rgba[which]).permute(0, 3, 1, 2).float() / 255


def _on_white(pictures: PictureSet, which: list[int]) -> torch.Tensor:
    return compose(_rgba(pictures, which), torch.zeros(len(which), dtype=torch.long))


def _features(picture: torch.Tensor) -> torch.Tensor:
    """Returns (n, 768): CIE Lab (D65) pixels of (n, 3, 128, 128) sRGB in [0, 1], averaged to 16x16."""
    small = F.interpolate(picture, size=(FEATURE_SIDE, FEATURE_SIDE), mode="area")
    linear = torch.where(small <= 0.04045, small / 12.92, ((small + 0.055) / 1.055) ** 2.4)
    to_xyz = torch.tensor(  # IEC 61966-2-1, divided by the D65 white point
        [[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8728]]
    )
    xyz = torch.einsum("ij,njhw->nihw", to_xyz, linear)
    f = torch.where(xyz > 0.008856, xyz.clamp_min(1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1).flatten(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the picture set")
    parser.add_argument("--model", type=Path, required=True, help="exported .safetensors file")
    parser.add_argument("--sheet", type=Path, default=None, help="PNG to write the contact sheet to")
    parser.add_argument("--only-sheet", action="store_true")
    parser.add_argument("--count", type=int, default=200, help="captions of the retrieval measurement")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    model = load_model(args.model, torch.device(args.device))
    generate(model, ["red apple"], steps=2, guidance=args.guidance, seed=0)  # the first call is slower
    started = time.perf_counter()
    generate(model, ["red apple"], steps=args.steps, guidance=args.guidance, seed=0)
    log("one picture, %d steps with guidance: %.2f s", args.steps, time.perf_counter() - started)
    if args.sheet:
        make_sheet(model, steps=args.steps, guidance=args.guidance).save(args.sheet)
    if args.only_sheet:
        return
    pictures = load_pictures(args.work)
    log("autoencoder, 200 pictures: %.2f dB PSNR", measure_autoencoder(model, pictures))
    own, named = measure_retrieval(model, pictures, count=args.count, steps=args.steps, guidance=args.guidance)
    log(
        "retrieval, %d captions, nearest 5 of %d: own picture %.3f, same name %.3f",
        args.count,
        len(pictures),
        own,
        named,
    )


if __name__ == "__main__":
    main()
