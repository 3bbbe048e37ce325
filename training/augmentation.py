"""Turns a stored emoji into training pictures: recolouring, a named background, and a caption that says so.

Works on batches of tensors on any device. Every random draw comes from a generator that the caller owns.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

# Background colours, sRGB in [0, 1]. White is the default and may stay unsaid.
BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.06, 0.06, 0.07),
    "gray": (0.55, 0.55, 0.56),
    "red": (0.86, 0.17, 0.18),
    "orange": (0.97, 0.55, 0.14),
    "yellow": (0.99, 0.85, 0.25),
    "green": (0.30, 0.70, 0.32),
    "teal": (0.10, 0.60, 0.60),
    "blue": (0.16, 0.40, 0.85),
    "sky blue": (0.55, 0.80, 0.97),
    "purple": (0.50, 0.27, 0.74),
    "pink": (0.98, 0.68, 0.80),
}

# Object colours: (hue in turns, saturation factor, value factor) for the dominant hue of a picture.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.995, 1.05, 0.95),
    "orange": (0.075, 1.0, 1.0),
    "yellow": (0.14, 1.0, 1.05),
    "green": (0.33, 0.9, 0.85),
    "blue": (0.60, 1.0, 0.95),
    "purple": (0.76, 0.9, 0.9),
    "pink": (0.91, 0.65, 1.05),
    "gray": (0.0, 0.0, 0.9),
}
PLAIN = -1  # colour index of a picture left as drawn

_GRAYISH = 0.18  # mean saturation below which a picture has no hue to turn, so it is tinted instead


@dataclass(frozen=True)
class Recipe:
    """What was done to one picture; enough to write its captions. Colours and backgrounds index the tables above."""

    name: str
    style: str
    background: int
    colour: int


def dominant_hues(rgba: torch.Tensor) -> torch.Tensor:
    """Returns (n, 2): the main hue in turns and the mean saturation of each (n, 4, h, w) float picture in [0, 1].

    The hue is the peak of a smoothed 36-bin histogram weighted by opacity and chroma.
    """
    hue, saturation, value = _to_hsv(rgba[:, :3])
    opacity = rgba[:, 3]
    weight = (opacity * saturation * value).flatten(1)
    bins = (hue.flatten(1) * 36).long().clamp(0, 35)
    histogram = torch.zeros(len(rgba), 36, device=rgba.device).scatter_add_(1, bins, weight)
    smooth = histogram.roll(1, 1) + 2 * histogram + histogram.roll(-1, 1)
    mean = weight.sum(1) / opacity.flatten(1).sum(1).clamp_min(1)
    return torch.stack([(smooth.argmax(1) + 0.5) / 36, mean], 1)


def recolour(rgba: torch.Tensor, hues: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Returns (n, 4, h, w) with the dominant hue turned to each picture's colour; `PLAIN` leaves a picture as it is.

    `hues` is the result of `dominant_hues`, (n, 2); `colours` (n,) indexes `COLOURS`.
    """
    chosen = (colours != PLAIN).nonzero().flatten()
    if len(chosen) == 0:
        return rgba
    table = torch.tensor(list(COLOURS.values()), device=rgba.device)[colours[chosen]]
    part = rgba[chosen]
    hue, saturation, value = _to_hsv(part[:, :3])
    main, mean = hues[chosen, 0, None, None], hues[chosen, 1, None, None]
    target, more_saturation, more_value = (table[:, k, None, None] for k in range(3))
    grayish = mean < _GRAYISH
    hue = torch.where(grayish, target.expand_as(hue), (hue - main + target) % 1)
    saturation = torch.where(grayish & (saturation < 0.5), torch.full_like(saturation, 0.6), saturation)
    rgb = _from_hsv(hue, (saturation * more_saturation).clamp(0, 1), (value * more_value).clamp(0, 1))
    result = rgba.clone()
    result[chosen] = torch.cat([rgb, part[:, 3:]], 1)
    return result


def compose(rgba: torch.Tensor, backgrounds: torch.Tensor) -> torch.Tensor:
    """Returns (n, 3, h, w) in [0, 1]: pictures (n, 4, h, w) over their background colour; (n,) indexes `BACKGROUNDS`."""
    ground = torch.tensor(list(BACKGROUNDS.values()), device=rgba.device)[backgrounds][:, :, None, None]
    opacity = rgba[:, 3:]
    return rgba[:, :3] * opacity + ground * (1 - opacity)


def write_caption(recipe: Recipe, rng: random.Random) -> str:
    """Returns one caption of a picture: name and colour always, style and a white background often left out."""
    colour = f"{list(COLOURS)[recipe.colour]} " if recipe.colour != PLAIN else ""
    subject = f"{colour}{recipe.name}"
    roll = rng.random()
    if roll < 0.35:
        subject = f"{'an' if subject[0] in 'aeiou' else 'a'} {subject}"
    elif roll < 0.45:
        subject = f"{subject} emoji"
    background = list(BACKGROUNDS)[recipe.background]
    if background != "white" or rng.random() < 0.15:
        subject += rng.choice([" on a {} background", " on a {} background", ", {} background", " on {}"]).format(
            background
        )
    if rng.random() < 0.5:
        subject = rng.choice([f"{recipe.style} {subject}", f"{subject}, {recipe.style}", f"{subject} {recipe.style}"])
    return subject


def _to_hsv(rgb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Splits (n, 3, h, w) sRGB in [0, 1] into hue (turns), saturation and value, each (n, h, w)."""
    value, at = rgb.max(1)
    chroma = value - rgb.min(1).values
    safe = chroma.clamp_min(1e-6)
    red, green, blue = rgb.unbind(1)
    sixths = torch.where(
        at == 0, (green - blue) / safe, torch.where(at == 1, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    return (sixths / 6) % 1, chroma / value.clamp_min(1e-6), value


def _from_hsv(hue: torch.Tensor, saturation: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Joins hue (turns), saturation and value, each (n, h, w), into (n, 3, h, w) sRGB in [0, 1]."""
    channels = []
    for shift in (5, 3, 1):
        k = (shift + hue * 6) % 6
        channels.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)
