"""The text encoders of a model together: which there are, and how their features are joined. Data, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from .text_specs import EncoderKey, TextEncoderSpec


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of an encoder among those of a family, and the widths that it leaves empty where it is missing."""

    key: EncoderKey
    width: int
    pooled_width: int = 0


@dataclass(frozen=True, slots=True)
class TextJoin:
    """How the features of a family's encoders become one embedding and one pooled vector.

    order: every encoder that the family knows. sequence: groups of encoders; those of a group stand side by side on features,
    cut to the shortest, and the groups follow each other along tokens, each filled with zeros to the width of the widest.
    pooled: the encoders whose pooled vectors stand side by side. optional: whether encoders may be missing; zeros then take
    their places.
    """

    order: tuple[Slot, ...]
    sequence: tuple[tuple[EncoderKey, ...], ...]
    pooled: tuple[EncoderKey, ...] = ()
    optional: bool = False

    def slot(self, key: EncoderKey) -> Slot:
        """Returns the place of an encoder."""
        return next(slot for slot in self.order if slot.key == key)


def side_by_side(*slots: Slot) -> TextJoin:
    """Returns the rule by which encoders stand side by side on features, and their pooled vectors do, as in SDXL."""
    pooled = tuple(slot.key for slot in slots if slot.pooled_width)
    return TextJoin(slots, (tuple(slot.key for slot in slots),), pooled)


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """The text encoders of a model, in the order of their family, and how their features are joined.

    network_width: what the network that they are for attends to, if that is known; it counts where an encoder is missing.
    """

    family: str
    encoders: tuple[TextEncoderSpec, ...]
    join: TextJoin
    network_width: int | None = None

    def encoder(self, key: EncoderKey) -> TextEncoderSpec | None:
        """Returns the encoder of a key, or None if it is missing."""
        return next((encoder for encoder in self.encoders if encoder.key == key), None)

    def slot(self, key: EncoderKey) -> Slot:
        """Returns the place of an encoder with its own widths, or with those that it leaves empty."""
        encoder = self.encoder(key)
        return self.join.slot(key) if encoder is None else Slot(key, encoder.width, encoder.pooled_width)

    @property
    def context_width(self) -> int:
        """Width of the text embedding."""
        missing = any(self.encoder(key) is None for group in self.join.sequence for key in group)
        if missing and self.network_width is not None:
            return self.network_width
        return max(sum(self.slot(key).width for key in group) for group in self.join.sequence)

    @property
    def pooled_width(self) -> int:
        """Width of the pooled vector, 0 where no encoder adds to it."""
        return sum(self.slot(key).pooled_width for key in self.join.pooled)
