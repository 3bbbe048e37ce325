"""A model, lists of conditions and a rule of guidance as one denoiser: what answers a sampler's queries in a run.

Knows how many lists a rule needs and what a model asks of a run, but no sampler, no schedule and no mask.
"""

from __future__ import annotations

from torch import Tensor

from ..networks.faults import NOT_FINITE, NonFiniteError, check_finite
from ..samplers.drive import Denoise
from ..samplers.problem import Answer, Query
from .corrections import make_correction
from .guidance import Estimates, Guidance, ListName
from .options import SamplingOptions
from .passes import Passes, Setting

_GIVEN = "The network was given them, in the conditioning: look at the nodes that made it."
_RAN_OFF = "The sampler itself ran off: give it more steps or noise levels that decrease, or choose another one."


def guided_denoiser(setting: Setting, rule: Guidance, options: SamplingOptions) -> Denoise:
    """Returns what answers a run's queries: one pass, or as few as can be, for all lists that a query needs.

    Raises ValueError for options that this kind of network, or this rule, can't have.
    """
    passes = Passes(setting)
    corrections = [make_correction(each, passes, scale=rule.scale) for each in options.corrections]
    always: frozenset[ListName] = frozenset(name for each in corrections for name in each.needs)

    def denoise(query: Query) -> Answer:
        needs = rule.needs | always
        if query.wants_negative:
            needs |= {"negative"}
        found = passes.estimate(needs, query.x, query.sigma)
        estimates = Estimates(query.x, query.sigma, found, options.rescale)
        denoised = rule(estimates)
        negative = found.get("negative", denoised)
        for correct in corrections:
            denoised = correct(denoised, estimates)
        return Answer(denoised, negative)

    def checked(query: Query) -> Answer:
        answer = denoise(query)
        what = f"step {query.step + 1} of the sampling, at sigma {float(query.sigma.max()):.4g},"
        check_finite(answer.denoised, passes.network, lambda: denoise(query), what=what, given=lambda: _origin(query))
        return answer

    return checked


def check_ending(x: Tensor, sigma: float) -> None:
    """Raises NonFiniteError for the result of a run, at its last level, that no network has seen and that holds NaN."""
    if not x.isfinite().all():
        raise NonFiniteError(f"the last step of the sampling, down to sigma {sigma:.4g}, {NOT_FINITE}. {_RAN_OFF}")


def _origin(query: Query) -> str:
    """Returns where values that are not finite before the network has seen them come from; the run began without any."""
    return _GIVEN if query.x.isfinite().all() else _RAN_OFF
