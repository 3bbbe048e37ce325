"""Conditions made ready for a run: where each holds as a window and a weight, when as noise levels, and what it feeds.

Everything that is the same at every step is worked out here, once. Behaviour as in ComfyUI 0.8.0. Knows no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import interpolate

from ..families.specs import ModelSpec
from ..latents.batches import fit_batch
from ..latents.tiling import edge_ramp
from ..levels.space import SamplingSpace
from ..pictures.sizes import CELL
from ..types import Area, Condition, Conditioning
from .control_hints import ControlHints
from .network_inputs import NetworkInputs, PreparedControl, network_inputs

FEATHER_CELLS = 8  # an area fades into its surroundings over at most so many latent cells, and a quarter of its side
LEAST_MASK_SIDE = 8  # latent cells; a smaller window gives a network too little to see


class Window(NamedTuple):
    """A rectangle of latent cells."""

    height: int
    width: int
    y: int
    x: int

    def crop(self, latent: Tensor) -> Tensor:
        """Returns the view of a latent, (..., h, w), inside of the window."""
        return latent[..., self.y : self.y + self.height, self.x : self.x + self.width]

    def contains(self, other: Window) -> bool:
        return (
            self.y <= other.y
            and self.x <= other.x
            and self.y + self.height >= other.y + other.height
            and self.x + self.width >= other.x + other.width
        )


@dataclass(frozen=True, eq=False, slots=True)
class PreparedCondition:
    """A condition for one run.

    window: the part of the latent that the network is shown, or None for all of it. weight: float32 (B, 1, H, W) of the
    window's size, or one number for all of it. sigma_start, sigma_end: it holds at levels from start down to end, both
    included. controls: of the window's size.
    """

    inputs: NetworkInputs
    window: Window | None
    weight: Tensor | float
    sigma_start: float
    sigma_end: float
    controls: tuple[PreparedControl, ...] = ()

    @property
    def is_weightless(self) -> bool:
        """Whether it adds nothing anywhere."""
        return not self.weight.any() if isinstance(self.weight, Tensor) else self.weight == 0.0


def prepare_conditions(
    lists: Sequence[Conditioning],
    *,
    spec: ModelSpec,
    space: SamplingSpace,
    latent: Tensor,
    noise_mask: Tensor | None = None,
    negative: int | None = None,
    seed: int = 0,
) -> list[tuple[PreparedCondition, ...]]:
    """Returns each list's conditions, ready for a run that starts from `latent`.

    A condition with a window adds a copy to every other list, so that prompt and negative prompt are compared on the
    same part of the picture: the copy has its window, weight and levels, but the text of the other list's smallest
    condition that covers it. latent: (B, C, h, w) in scaled-latent units; noise_mask: (B, C, h, w) or None.
    negative: the number of the list that says what to avoid. seed: of the run.
    """
    hints = ControlHints(spec, space, latent)

    def prepare(condition: Condition, number: int) -> PreparedCondition:
        inputs = network_inputs(
            condition, spec=spec, latent=latent, noise_mask=noise_mask, negative=number == negative, seed=seed
        )
        return _prepare(condition, inputs, spec=spec, space=space, latent=latent, hints=hints)

    prepared = [
        [prepare(condition, number) for condition in conditioning.entries] for number, conditioning in enumerate(lists)
    ]
    for conditions, others in permutations(prepared, 2):
        for condition in conditions:
            _match(condition, others)
    return [tuple(conditions) for conditions in prepared]


def _prepare(
    condition: Condition,
    inputs: NetworkInputs,
    *,
    spec: ModelSpec,
    space: SamplingSpace,
    latent: Tensor,
    hints: ControlHints,
) -> PreparedCondition:
    h, w = latent.shape[-2:]
    mask = None if condition.mask is None else _fit_mask(condition.mask.to(latent), h, w)
    if mask is not None and condition.mask_bounds:
        window: Window | None = _mask_bounds(mask)
    else:
        window = None if condition.area is None else _resolve(condition.area, h, w, spec.latent.downscale)
    if window is not None:
        window = _clip(window, h, w)
    return PreparedCondition(
        inputs=inputs,
        window=window,
        weight=_weight(condition, mask, window, latent),
        sigma_start=space.percent_to_sigma(condition.start),
        sigma_end=space.percent_to_sigma(condition.end),
        controls=hints.prepare(
            condition.controls, height=window.height if window else h, width=window.width if window else w
        ),
    )


def _match(condition: PreparedCondition, others: list[PreparedCondition]) -> None:
    """Appends the copy of a windowed condition that another list needs, if it doesn't have one already."""
    window = condition.window
    if window is None:
        return
    covering = [other for other in others if other.window is None or other.window.contains(window)]
    if not covering:
        return
    smallest = min(
        covering, key=lambda other: other.window.height * other.window.width if other.window else float("inf")
    )
    if smallest.window != window:
        others.append(replace(condition, inputs=smallest.inputs))


def _resolve(area: Area, h: int, w: int, downscale: int) -> Window:
    """An area in cells of 8 pixels, or in fractions, as cells of a latent of which each stands for `downscale` pixels."""
    if area.unit == "latent":
        height, width, y, x = (int(side) * CELL // downscale for side in (area.height, area.width, area.y, area.x))
        return Window(max(1, height), max(1, width), y, x)
    height, width = max(1, round(area.height * h)), max(1, round(area.width * w))
    return Window(height, width, round(area.y * h), round(area.x * w))


def _clip(window: Window, h: int, w: int) -> Window:
    if window.y >= h or window.x >= w:
        raise ValueError(
            f"a condition's area begins at row {window.y}, column {window.x} of the latent, outside of its {h} rows and "
            f"{w} columns; move the area, or enlarge the picture."
        )
    return window._replace(height=min(window.height, h - window.y), width=min(window.width, w - window.x))


def _fit_mask(mask: Tensor, h: int, w: int) -> Tensor:
    mask = mask if mask.ndim == 3 else mask.unsqueeze(0)
    if mask.shape[1:] == (h, w):
        return mask
    return interpolate(mask.unsqueeze(1), size=(h, w), mode="bilinear").squeeze(1)


def _mask_bounds(mask: Tensor) -> Window:
    """The bounding box of what any mask of the batch, (B, h, w), touches."""
    touched = mask.any(dim=0)
    rows, columns = (touched.any(dim=side).nonzero().flatten().tolist() for side in (1, 0))
    if not rows:
        return Window(LEAST_MASK_SIDE, LEAST_MASK_SIDE, 0, 0)
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    return Window(max(LEAST_MASK_SIDE, height), max(LEAST_MASK_SIDE, width), rows[0], columns[0])


def _weight(condition: Condition, mask: Tensor | None, window: Window | None, latent: Tensor) -> Tensor | float:
    if mask is not None:
        batch, _, h, w = latent.shape
        mask = fit_batch(mask, batch) if len(mask) > 1 else mask
        mask = mask if window is None else window.crop(mask)
        return (mask * condition.mask_strength * condition.strength).unsqueeze(1)
    if window is None:
        return condition.strength
    h, w = latent.shape[-2:]
    rows = _fade(window.height, window.y, h)
    columns = _fade(window.width, window.x, w)
    return (condition.strength * rows.unsqueeze(-1) * columns).to(latent)[None, None]


def _fade(length: int, start: int, side: int) -> Tensor:
    """(length,) weights of a window along one side of the latent; it fades where it doesn't touch the latent's edge."""
    return edge_ramp(length, min(FEATHER_CELLS, length // 4), at_start=start > 0, at_end=start + length < side)
