"""Controls made ready for a run: the picture that each sees, and the noise levels between which it acts.

As in ComfyUI 0.8.0 (behaviour), a condition with a window of its own shows its control the whole picture, shrunk to that
window.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from ..control.specs import refusal
from ..families.specs import ModelSpec
from ..latents.autoencoder import encode
from ..latents.batches import fit_batch, to_model_space
from ..levels.space import SamplingSpace
from ..pictures.resize import resize
from ..types import Control, Image
from .network_inputs import PreparedControl


class ControlHints:
    """Prepares the controls of a run. Conditions that share a control, and the size of what they see, share the result."""

    def __init__(self, spec: ModelSpec, space: SamplingSpace, latent: Tensor) -> None:
        self._spec, self._space, self._latent = spec, space, latent
        self._prepared: dict[tuple[int, int, int], PreparedControl] = {}

    def prepare(self, controls: Iterable[Control], *, height: int, width: int) -> tuple[PreparedControl, ...]:
        """Returns controls for a window of so many cells. Raises ValueError for one that can't steer the network."""
        return tuple(self._one(control, height, width) for control in controls)

    def _one(self, control: Control, height: int, width: int) -> PreparedControl:
        key = (id(control), height, width)
        if key not in self._prepared:
            if (wrong := refusal(control.net.spec, self._spec)) is not None:
                raise ValueError(f"{control.net.weights.source.title} {wrong}.")
            self._prepared[key] = PreparedControl(
                control,
                self._hint(control, height, width),
                self._space.percent_to_sigma(control.start),
                self._space.percent_to_sigma(control.end),
            )
        return self._prepared[key]

    def _hint(self, control: Control, height: int, width: int) -> Tensor:
        """Returns the picture that a window of so many cells stands for, or its latent: (1, C, H, W) or (B, C, H, W)."""
        hint, cell = control.net.spec.hint, self._spec.latent.downscale
        height, width = (-(-side * cell // hint.multiple) * hint.multiple for side in (height, width))
        x = control.hint.movedim(-1, 1)[:, :3]
        x = resize(x, width=width, height=height, method="nearest-exact", crop="center")
        if hint.channels == 1:
            x = x.mean(dim=1, keepdim=True)
        if control.vae is not None:
            latent_format = self._spec.latent if hint.shifted else replace(self._spec.latent, shift=0.0)
            x = encode(control.vae, Image(hint.gain * x.movedim(1, -1) + hint.offset)).samples
            x = to_model_space(x, latent_format)
        if control.kept is not None:
            x = torch.cat([x, _channel(control.kept, x)], dim=1)
        x = x if len(x) == 1 else fit_batch(x, len(self._latent))
        return x.to(self._latent.device)


def _channel(mask: Tensor, x: Tensor) -> Tensor:
    """Returns a mask, (B, H, W), as a channel of the latent x, (b, C, h, w)."""
    resized = resize(mask.unsqueeze(1), width=x.shape[-1], height=x.shape[-2], method="nearest-exact", crop="center")
    return fit_batch(resized, len(x)).to(x)
