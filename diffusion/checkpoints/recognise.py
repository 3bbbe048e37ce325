"""Which family a network belongs to, and what it predicts: its keys and shapes compared with the rows of `FAMILIES`."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..families.catalogue import FAMILIES
from ..families.dit_specs import DiTSpec
from ..families.plain_unets import PlainUNetSpec
from ..families.specs import DenoiserSpec, DiTPattern, Family, Prediction, UNetPattern, UNetSpec
from ..layouts.kinds import KINDS
from ..layouts.structure import Shapes

NETWORK_PREFIXES = ("model.diffusion_model.", "model.model.", "net.", "model.", "")
PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "eps", "eps": "eps", "v": "v", "v_prediction": "v"}


class UnknownFamilyError(ValueError):
    """A network that fits no row of the table, or predicts what can't be run. `found` and `cure` say more."""

    def __init__(self, found: str, *, cure: str) -> None:
        super().__init__(f"{found}. {cure}")
        self.found = found
        self.cure = cure


def network_prefix(keys: Collection[str]) -> str | None:
    """Returns the prefix below which a file keeps a denoising network, or None if it has no network of any family."""
    marks = {marker for family in FAMILIES for marker in family.markers}
    fitting = (prefix for prefix in NETWORK_PREFIXES if any(_all_in(marker, keys, prefix) for marker in marks))
    return next(fitting, None)


def recognise(shapes: Shapes, *, file_keys: Collection[str] = ()) -> tuple[Family, DenoiserSpec]:
    """Returns the family of a network and its structure, as far as shapes tell it.

    shapes: the network's, without prefix; file_keys: every key of the file. Raises UnknownFamilyError for a network
    that no family fits, and StructureError for one that is broken.
    """
    rows = [family for family in FAMILIES if any(_all_in(marker, shapes) for marker in family.markers)]
    rows = [family for family in rows if any(_all_in(marker, file_keys) for marker in family.file_markers)]
    if not rows:
        raise UnknownFamilyError("a network in no known layout", cure=known_families())
    rows = [family for family in rows if family.kind == rows[0].kind]
    spec: DenoiserSpec = KINDS[rows[0].kind].read(shapes)
    differing = [(family, _differences(family, spec)) for family in rows]
    match = next((family for family, differences in differing if not differences), None)
    if match is None:
        nearest, differences = min(differing, key=lambda pair: len(pair[1]))
        raise UnknownFamilyError(
            f"a {KINDS[nearest.kind].title} like that of {nearest.title}, but with {' and '.join(differences)}",
            cure=known_families(),
        )
    return match, spec


def known_families() -> str:
    """Returns which families there are, in a sentence."""
    return f"Known: {'; '.join(dict.fromkeys(family.title for family in FAMILIES))}."


def find_prediction(
    family: Family,
    *,
    file_keys: Collection[str],
    metadata: Mapping[str, str],
    scheduler: Mapping[str, Any],
    probe: Sequence[float] | None,
) -> tuple[Prediction, bool]:
    """Returns what a network predicts, and whether its schedule ends in pure noise.

    The first that speaks decides: the family, a marking key of the file, the scheduler's config of a diffusers folder, the
    file's metadata (modelspec.prediction_type), the spread of the tensor that the family's rule names, the default: eps.
    """
    rule = family.prediction
    if rule.always is not None:
        return rule.always, False
    if rule.v_key in file_keys:
        return "v", rule.zero_snr_key in file_keys
    named = scheduler.get("prediction_type", metadata.get("modelspec.prediction_type"))
    if named is not None:
        if named not in PREDICTIONS:
            known = ", ".join(PREDICTIONS)
            raise UnknownFamilyError(
                f"the prediction type {named!r}", cure=f"Networks that predict {known} can be run."
            )
        return PREDICTIONS[named], bool(scheduler.get("rescale_betas_zero_snr", False))
    if probe and statistics.pstdev(probe) > rule.v_threshold:
        return "v", False
    return "eps", False


def _differences(family: Family, spec: DenoiserSpec) -> list[str]:
    """Returns in words how a structure differs from a family's pattern; nothing where they agree."""
    if isinstance(spec, UNetSpec):
        return unlikeness(family.unet or UNetPattern(), spec)
    if isinstance(spec, PlainUNetSpec):
        return _channel_difference(family.unet or UNetPattern(), spec)
    return _transformer_differences(family.transformer or DiTPattern(), spec)


def unlikeness(pattern: UNetPattern, spec: UNetSpec) -> list[str]:
    """Returns in words how a UNet differs from a family's pattern; nothing where they agree."""
    words = {
        "linear_projection": ("a linear proj_in", "a convolution for proj_in"),
        "vector": ("a label_emb", "no label_emb"),
        "outer_attention": ("attention at the outermost level", "no attention at the outermost level"),
        "noise_levels": ("a table of noise levels", "no table of noise levels"),
        "inner_attention": ("attention at the innermost level", "no attention at the innermost level"),
    }
    facts = {
        "linear_projection": spec.linear_projection,
        "vector": spec.vector_width is not None,
        "outer_attention": any(spec.depths_in[0]),
        "noise_levels": spec.noise_levels is not None,
        "inner_attention": any(spec.depths_in[-1]),
    }
    differences = [
        words[name][0 if fact else 1] for name, fact in facts.items() if getattr(pattern, name) not in {None, fact}
    ]
    return differences + _channel_difference(pattern, spec)


def _transformer_differences(pattern: DiTPattern, spec: DiTSpec) -> list[str]:
    words = {True: "an embedding of the guidance", False: "no embedding of the guidance"}
    differences = [] if pattern.guidance in {None, spec.guidance} else [words[spec.guidance]]
    return differences + _channel_difference(pattern, spec)


def _channel_difference(pattern: UNetPattern | DiTPattern, spec: DenoiserSpec) -> list[str]:
    fits = pattern.in_channels is None or spec.in_channels in pattern.in_channels
    return [] if fits else [f"{spec.in_channels} input channels"]


def _all_in(names: Sequence[str], keys: Collection[str], prefix: str = "") -> bool:
    return all(prefix + name in keys for name in names)
