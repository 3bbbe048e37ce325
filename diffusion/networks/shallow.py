"""Passes through a network that compute its outermost layers alone, and take what lies within from an earlier full pass.

What the inner layers give changes slowly from step to step. For a UNet that is DeepCache (Ma et al. 2023, arXiv:2312.00858):
the first layer on the way down and the last ones on the way up are computed, all else is taken as it was. For a transformer the
first block is computed, and what the others added to it before is added again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from ..families.specs import UNETS, NetworkKind
from .unets import attentions_of

OUTER_LAYERS = 2  # of a UNet's last block, which a shallow pass computes


class Depth:
    """Whether the passes of a run are shallow at the moment."""

    def __init__(self) -> None:
        self.shallow = False


class KeptLayers:
    """The inner layers of one network: a full pass keeps what they give, and a shallow one takes it again.

    Several kinds of passes are kept apart, as there is one for each composition of a batch. A pass of a kind of which there was
    no full one yet is full.
    """

    def __init__(self, network: Any, kind: NetworkKind) -> None:
        """network: is changed."""
        self._kept: dict[Hashable, dict[int, Any]] = {}
        self._now: dict[int, Any] = {}
        self.replays = False  # whether the pass that was announced is shallow
        if kind in UNETS:
            for number, module in enumerate(_inner_modules(network)):
                self._keep_result(number, module)
            return
        blocks = [list(network.transformer_blocks), list(getattr(network, "single_transformer_blocks", ()))]
        for number, stretch in enumerate((blocks[0][1:], blocks[1])):
            if stretch:
                self._keep_effect(number, stretch)

    def begin(self, kind: Hashable, *, shallow: bool) -> None:
        """Announces a pass of a kind."""
        self._now = self._kept.setdefault(kind, {})
        self.replays = shallow and bool(self._now)

    def _keep_result(self, number: int, module: nn.Module) -> None:
        """A shallow pass gets from a module what a full one got."""
        forward: Callable[..., Any] = module.forward

        def kept(*arguments: Any, **options: Any) -> Any:
            if not self.replays:
                self._now[number] = forward(*arguments, **options)
            return self._now[number]

        module.forward = kept

    def _keep_effect(self, number: int, stretch: Sequence[nn.Module]) -> None:
        """A shallow pass gets from a stretch of a transformer's blocks what it is given, and what they added in a full one."""
        entered: list[tuple[Tensor, ...]] = []
        forwards: list[Callable[..., Any]] = [block.forward for block in stretch]
        last = len(stretch) - 1

        def block(at: int) -> Callable[..., Any]:
            def kept(hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **options: Any) -> Any:
                given = _streams(hidden_states, encoder_hidden_states)
                if self.replays:
                    added = self._now[number] if at == 0 else [None] * len(given)
                    return _joined([x if a is None else x + a for x, a in zip(given, added, strict=True)])
                if at == 0:
                    entered[:] = [given]
                result = forwards[at](
                    hidden_states=hidden_states, encoder_hidden_states=encoder_hidden_states, **options
                )
                if at == last:
                    came_out = result[::-1] if isinstance(result, tuple) else (result,)
                    pairs = zip(entered.pop(), came_out, strict=True)
                    self._now[number] = [None if after is None else after - before for before, after in pairs]
                return result

            return kept

        for at, each in enumerate(stretch):
            each.forward = block(at)


def _streams(hidden_states: Tensor, encoder_hidden_states: Tensor | None) -> tuple[Tensor, ...]:
    """The streams of a block, the picture's first."""
    return (hidden_states,) if encoder_hidden_states is None else (hidden_states, encoder_hidden_states)


def _joined(streams: list[Tensor]) -> Any:
    """What a block gives: the picture's stream alone, or behind the text's."""
    return streams[0] if len(streams) == 1 else (streams[1], streams[0])


def _inner_modules(unet: Any) -> Iterable[nn.Module]:
    first, last = unet.down_blocks[0], unet.up_blocks[-1]
    yield from first.resnets[1:]
    yield from attentions_of(first)[1:]
    yield from first.downsamplers or ()
    yield from unet.down_blocks[1:]
    if unet.mid_block is not None:
        yield unet.mid_block
    yield from unet.up_blocks[:-1]
    yield from last.resnets[:-OUTER_LAYERS]
    yield from attentions_of(last)[:-OUTER_LAYERS]
