"""Which family a network belongs to, and what it predicts: its keys and shapes compared with the rows of `FAMILIES`."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .families import FAMILIES, Family, Prediction, UNetPattern, UNetSpec
from .structure import Shapes, read_unet

NETWORK_PREFIXES = ("model.diffusion_model.", "model.model.", "net.", "model.", "")
PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "eps", "eps": "eps", "v": "v", "v_prediction": "v"}


class UnknownFamilyError(ValueError):
    """A network that fits no row of the table, or one that can't be run yet. `found` and `cure` say more."""

    def __init__(self, found: str, *, cure: str) -> None:
        super().__init__(f"{found}. {cure}")
        self.found = found
        self.cure = cure


def network_prefix(keys: Collection[str]) -> str | None:
    """Returns the prefix below which a file keeps a denoising network, or None if it has no network of any family."""
    marks = {marker for family in FAMILIES for marker in family.markers}
    fitting = (prefix for prefix in NETWORK_PREFIXES if any(_all_in(marker, keys, prefix) for marker in marks))
    return next(fitting, None)


def recognise(shapes: Shapes, *, file_keys: Collection[str] = ()) -> tuple[Family, UNetSpec]:
    """Returns the family of a network and its structure, but for the heads.

    shapes: the network's, without prefix; file_keys: every key of the file. Raises UnknownFamilyError for a network
    that no supported family fits, and StructureError for one that is broken.
    """
    rows = [family for family in FAMILIES if any(_all_in(marker, shapes) for marker in family.markers)]
    rows = [family for family in rows if _all_in(family.file_markers, file_keys)]
    spec = read_unet(shapes) if any(family.unet for family in rows) else None
    differing = {family.name: unlikeness(family.unet, spec) for family in rows}
    match = next((family for family in rows if not differing[family.name]), None)
    if match is None:
        nearest = min(rows, key=lambda family: len(differing[family.name]))
        raise UnknownFamilyError(
            f"a UNet like that of {nearest.title}, but with {' and '.join(differing[nearest.name])}",
            cure=f"Known: {_supported_titles()}.",
        )
    if not match.supported or spec is None:
        cure = f"It is known, but not supported yet; use a checkpoint of one of: {_supported_titles()}."
        raise UnknownFamilyError(f"a checkpoint of {match.title}", cure=cure)
    return match, spec


def find_prediction(
    family: Family,
    *,
    file_keys: Collection[str],
    metadata: Mapping[str, str],
    scheduler: Mapping[str, Any],
    probe: Sequence[float] | None,
) -> tuple[Prediction, bool]:
    """Returns what a network predicts, and whether its schedule ends in pure noise.

    The first that speaks decides: a marking key of the file, the scheduler's config of a diffusers folder, the file's
    metadata (modelspec.prediction_type), the spread of the tensor that the family's rule names, the default: eps.
    """
    rule = family.prediction
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


def unlikeness(pattern: UNetPattern | None, spec: UNetSpec | None) -> list[str]:
    """Returns in words how a structure differs from a family's pattern; nothing where they agree."""
    if pattern is None or spec is None:
        return []
    words = {
        "linear_projection": ("a linear proj_in", "a convolution for proj_in"),
        "vector": ("a label_emb", "no label_emb"),
        "outer_attention": ("attention at the outermost level", "no attention at the outermost level"),
        "inner_attention": ("attention at the innermost level", "no attention at the innermost level"),
    }
    facts = {
        "linear_projection": spec.linear_projection,
        "vector": spec.vector_width is not None,
        "outer_attention": any(spec.depths_in[0]),
        "inner_attention": any(spec.depths_in[-1]),
    }
    differences = [
        words[name][0 if fact else 1] for name, fact in facts.items() if getattr(pattern, name) not in {None, fact}
    ]
    if pattern.in_channels is not None and spec.in_channels not in pattern.in_channels:
        differences.append(f"{spec.in_channels} input channels")
    return differences


def _all_in(names: Sequence[str], keys: Collection[str], prefix: str = "") -> bool:
    return all(prefix + name in keys for name in names)


def _supported_titles() -> str:
    return ", ".join(family.title for family in FAMILIES if family.supported)
