"""The space that a model denoises in."""

from __future__ import annotations

from ..families.specs import ModelSpec
from ..levels.space import SamplingSpace, make_space
from ..levels.space_spec import PredictionName, SpaceSpec
from ..model import Model

_PREDICTIONS: dict[str, PredictionName] = {
    "eps": "eps",
    "v": "v_prediction",
    "edm": "edm",
    "flow": "flow",
}


def space_of(spec: ModelSpec) -> SpaceSpec:
    """Returns the space that networks of this kind were trained in."""
    return SpaceSpec(_PREDICTIONS[spec.prediction], spec.levels, spec.sigma_data)


def sampling_space(model: Model) -> SamplingSpace:
    """Returns the space that a model denoises in: its own, or the one that was chosen for it."""
    return make_space(model.options.space or space_of(model.spec))
