"""Kohya's "deep shrink": a UNet whose inner blocks work on smaller features while a picture is composed.

What is shrunk behind one of the blocks on the way down is stretched again on the way up, wherever a shortcut is larger. Block
numbers and sizes as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..levels.space import SamplingSpace
from ..names import ResizeMethod
from ..pictures.resize import resize
from ..sampling.options import Downscale
from .unets import attentions_of, first_modules, input_blocks


class DeepShrink:
    """Shrinks in one UNet. `begin` says at which noise level the next passes are."""

    def __init__(self, unet: Any, setting: Downscale, space: SamplingSpace) -> None:
        """unet: is changed. Raises ValueError for a block that it does not have."""
        self._setting = setting
        self._start, self._end = space.percent_to_sigma(setting.start), space.percent_to_sigma(setting.end)
        self.is_active = False
        self._sizes: list[tuple[int, int]] = []  # of the shortcuts, in the order of their making
        blocks = input_blocks(unet)
        if not 1 <= setting.block < len(blocks):
            raise ValueError(
                f"this UNet has no input block {setting.block} to shrink behind; name one of 1 to {len(blocks) - 1}."
            )
        blocks[0].register_forward_hook(self._first)
        for module in blocks[1:]:
            module.register_forward_hook(self._remember)
        self._shrink_behind(unet, setting.block)
        for block in unet.up_blocks:
            self._stretch_within(block)

    def begin(self, sigma: Tensor) -> None:
        """Says at which level the next passes are: 0-d, or (B,), of which the first counts."""
        level = sigma.flatten()[0].item()
        self.is_active = self._end <= level <= self._start

    def _shrink_behind(self, unet: Any, number: int) -> None:
        """Shrinks what comes out of an input block: before its shortcut is taken, or for the block that follows alone."""
        modules = input_blocks(unet)
        if not self._setting.after_skip:
            modules[number].register_forward_hook(lambda _, __, out: self._mapped(out, self._shrink), prepend=True)
            return
        following = first_modules(unet)[number + 1]
        following.register_forward_pre_hook(lambda _, given: (self._shrink(given[0]), *given[1:]))

    def _stretch_within(self, block: Any) -> None:
        """Stretches what meets a larger shortcut: before an up block's first layer, and between its layers."""
        skips: list[Tensor] = []

        def before(
            _: Any, given: tuple[Any, ...], options: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            skips[:] = reversed(options["res_hidden_states_tuple"])
            del self._sizes[len(self._sizes) - len(skips) :]
            if not self.is_active:
                return None
            if self._sizes:  # a layer that enlarges goes for the next shortcut's size
                options["upsample_size"] = self._sizes[-1]
            return given, options | {"hidden_states": self._stretch(options["hidden_states"], skips[0])}

        def between(number: int) -> Callable[[Any, Any, Any], Any]:
            def hook(_: Any, __: Any, out: Any) -> Any:
                return self._mapped(out, lambda h: self._stretch(h, skips[number + 1]))

            return hook

        block.register_forward_pre_hook(before, with_kwargs=True)
        layers = attentions_of(block) or block.resnets
        for number, layer in enumerate(layers[:-1]):
            layer.register_forward_hook(between(number))

    def _first(self, conv: Any, given: Any, out: Tensor) -> None:
        self._sizes.clear()
        self._remember(conv, given, out)

    def _remember(self, _: Any, __: Any, out: Any) -> None:
        h = out[0] if isinstance(out, tuple) else out
        self._sizes.append((h.shape[-2], h.shape[-1]))

    def _mapped(self, out: Any, change: Callable[[Tensor], Tensor]) -> Any:
        if not self.is_active:
            return out
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    def _shrink(self, h: Tensor) -> Tensor:
        if not self.is_active:
            return h
        rows, columns = (round(side / self._setting.factor) for side in h.shape[-2:])
        return _resized(h, max(1, columns), max(1, rows), self._setting.shrink)

    def _stretch(self, h: Tensor, skip: Tensor) -> Tensor:
        if h.shape[-2:] == skip.shape[-2:]:
            return h
        return _resized(h, skip.shape[-1], skip.shape[-2], self._setting.grow)


def _resized(h: Tensor, width: int, height: int, method: ResizeMethod) -> Tensor:
    return resize(h, width=width, height=height, method=method).to(h.dtype)  # bislerp computes in float32
