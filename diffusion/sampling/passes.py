"""The passes of a run: its lists of conditions through a network that is changed as the model asks.

A network that is changed is a copy around the same weights, one for each way of changing it. Knows no rule of guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..control.residuals import Residuals
from ..families.specs import NetworkKind, network_words
from ..image_prompts.showing import PictureAttention, ShownPictures, attend_to_pictures
from ..levels.space import SamplingSpace
from ..networks.compiling import compile_blocks
from ..networks.deep_shrink import DeepShrink
from ..networks.patches import add_free_u, shared_copy
from ..networks.shallow import Depth, KeptLayers
from ..networks.sharing import SharedWork, share_work
from ..networks.token_merging import merge_tokens
from .calls import Network, Steer, call_of, unet_network, unsteered
from .conditioning import PreparedCondition
from .denoiser import Conditions, Joins, estimate
from .guidance import ListName
from .network_inputs import NetworkInputs
from .options import Downscale, FreeU, NetworkChange, TokenMerging

NEGATIVE: frozenset[ListName] = frozenset({"negative", "empty"})  # the lists that see no picture

Change = Callable[[Any], None]
"""Changes how a copy of a network works."""

Watcher = Callable[[tuple[int, ...]], None]
"""Is told before each pass which list each part of its batch is from, by number."""


@dataclass(frozen=True, eq=False, slots=True)
class Setting:
    """What the passes of a run have in common.

    network: diffusers' network of this kind; it is never changed. lists: in the order of the batches. steer: what control
    networks add in each pass. pictures: what a UNet attends to beside text. share: do work once that is equal in
    several passes of a UNet; compiled: compile its blocks instead. depth: says whether passes are shallow, where they may be.
    """

    network: Any
    kind: NetworkKind
    space: SamplingSpace
    lists: Mapping[ListName, tuple[PreparedCondition, ...]]
    changes: tuple[NetworkChange, ...] = ()
    steer: Steer = unsteered
    pictures: Sequence[ShownPictures] = ()
    max_batch: int | None = None
    share: bool = False
    compiled: bool = False
    depth: Depth | None = None


class Passes:
    """Estimates by one network with its changes. Raises ValueError for a change that this kind of network can't have."""

    def __init__(self, setting: Setting, *changes: Change) -> None:
        if (setting.changes or setting.pictures) and setting.kind != "unet":
            raise ValueError(
                "FreeU, deep shrink, merged tokens and image prompts change how a UNet with text works, and this network is "
                f"{network_words(setting.kind)}."
            )
        self.setting = setting
        self.network: Any = setting.network
        self._changes = changes
        self._watchers: list[Watcher] = []
        self._joins: Joins = {}
        self._shrinking: list[DeepShrink] = []
        self._attending: PictureAttention | None = None
        self._sigma: Tensor | None = None
        self._call = self._made(changes)

    def changed(self, change: Change) -> Passes:
        """Returns passes of the same run by a further network with one change more."""
        return Passes(self.setting, *self._changes, change)

    def observe(self, change: Change, watcher: Watcher) -> None:
        """Changes this network alone, from now on, and tells a watcher of all its passes."""
        self._call = self._made((*self._changes, change))
        self._watchers.append(watcher)

    def estimate(self, names: Collection[ListName], x: Tensor, sigma: Tensor) -> dict[ListName, Tensor]:
        """Returns D(x; sigma), (B, C, h, w), for each list; zeros for those that are not among `names`.

        One pass, or as few as can be, for all of them.
        """
        lists = self.setting.lists
        wanted: list[Conditions] = [conditions if name in names else () for name, conditions in lists.items()]
        self._sigma = sigma
        for shrink in self._shrinking:
            shrink.begin(sigma)
        found = estimate(
            self._call,
            self.setting.space,
            wanted,
            x,
            sigma,
            max_batch=self.setting.max_batch,
            before_pass=self._before_pass,
            joins=self._joins,
        )
        return dict(zip(lists, found, strict=True))

    def number_of(self, name: ListName) -> int:
        """Returns by which number watchers know a list."""
        return list(self.setting.lists).index(name)

    def _made(self, changes: tuple[Change, ...]) -> Network:
        """Makes the network with all its changes, and returns how it is called."""
        setting, shared = self.setting, None
        is_unet = setting.kind == "unet"
        shares = setting.share and is_unet and not setting.compiled
        self.network, self._shrinking = setting.network, []
        if setting.changes or setting.pictures or changes or setting.depth or setting.compiled or shares:
            self.network = shared_copy(setting.network)
            if shares:
                shared = share_work(self.network)
            for each in setting.changes:
                self._apply(each)
            if setting.pictures:
                self._attending = attend_to_pictures(self.network, setting.pictures)
            for change in changes:
                change(self.network)
        kept = None if setting.depth is None else KeptLayers(self.network, setting.kind)
        if setting.compiled:
            compile_blocks(self.network)
        if kept is None or setting.depth is None:
            return self._called(setting.steer, shared)

        def steer(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Residuals | None:
            found = setting.steer(x, timestep, inputs)
            return found.outside_of_stretches() if found is not None and kept.replays else found

        call = self._called(setting.steer if is_unet else steer, shared)
        return self._with_depth(call, kept, setting.depth)

    def _called(self, steer: Steer, shared: SharedWork | None) -> Network:
        if self.setting.kind == "unet":
            return unet_network(self.network, shared, steer)
        return call_of(self.setting.kind, self.network, steer)

    def _with_depth(self, call: Network, kept: KeptLayers, depth: Depth) -> Network:
        """Returns the call with shallow passes."""

        def predict(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
            controls = (id(each.control) for each in inputs.controls)
            kind = (id(inputs.context), *controls, *(each.is_active for each in self._shrinking))
            kept.begin(kind, shallow=depth.shallow)
            return call(x, timestep, inputs)

        return predict

    def _apply(self, change: NetworkChange) -> None:
        match change:
            case FreeU():
                add_free_u(self.network, [change])
            case TokenMerging():
                merge_tokens(self.network, change.ratio)
            case Downscale():
                if any(each.controls for conditions in self.setting.lists.values() for each in conditions):
                    raise ValueError("deep shrink changes the sizes that control networks steer; use one or the other.")
                self._shrinking.append(DeepShrink(self.network, change, self.setting.space))

    def _before_pass(self, parts: tuple[int, ...]) -> None:
        if self._attending is not None and self._sigma is not None:
            names = list(self.setting.lists)
            self._attending.begin([names[part] in NEGATIVE for part in parts], self._sigma)
        for watcher in self._watchers:
            watcher(parts)
