"""What a sampler is asked to solve, and how it asks for what it cannot know.

A sampler is a generator. It yields a `Query(x, sigma)`, is sent back an `Answer` with the denoised estimate D(x; sigma),
and returns the final x. It never sees a network, and all its state lives in its own frame, so that one driver can hold
many samplers at once and answer their queries from one forward pass.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from ..levels.space import SamplingSpace
from .noise import NoiseSource


class Query(NamedTuple):
    """A sampler's question: what is the denoised estimate of x, a latent at noise level sigma?

    x: (B, C, h, w), scaled-latent units. sigma: 0-d, the level of every item of x.
    step: which interval of the schedule this serves, from 0. A step is finished once a query of a later step arrives
    or the sampler returns; the answer to its first query is the estimate to preview.
    wants_negative: the sampler also reads `Answer.negative`, even where guidance of scale 1 could do without it.
    """

    x: Tensor
    sigma: Tensor
    step: int
    wants_negative: bool = False


class Answer(NamedTuple):
    """What a sampler is sent back, each (B, C, h, w).

    denoised: D(x; sigma), guided. negative: the estimate for the negative conditions alone if the query wants it.
    Without guidance there is one estimate, which is both; a query that doesn't want the negative may get that too.
    """

    denoised: Tensor
    negative: Tensor


Steps = Generator[Query, Answer, Tensor]


@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """Integrate x from sigmas[0] down to sigmas[-1].

    x: (B, C, h, w), already noised to sigmas[0]. sigmas: float32 (n + 1,) on the CPU, decreasing, usually to 0; never
    written to. Scalars taken from it stay 0-d tensors, so that arithmetic on them rounds as float32.
    """

    x: Tensor
    sigmas: Tensor
    space: SamplingSpace
    noise: NoiseSource

    def intervals(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yields (step, s, t) for each step from level s down to level t."""
        for step, (s, t) in enumerate(pairwise(self.sigmas.unbind())):
            yield step, s, t

    def off_unit_level(self) -> Problem:
        """Moves a flow model's first level from 1, where lambda is infinite, to the level 0.01 % into a run."""
        if not self.space.path.is_flow or self.sigmas[0] < 1:
            return self
        sigmas = self.sigmas.clone()
        sigmas[0] = self.space.percent_to_sigma(1e-4)
        return replace(self, sigmas=sigmas)


def advance(steps: Steps, answer: Answer | None = None) -> Query | Tensor:
    """Returns the sampler's next query, or its final x once it is done.

    answer: the answer to its previous query; None starts it.
    """
    try:
        return next(steps) if answer is None else steps.send(answer)
    except StopIteration as finished:
        result: Tensor = finished.value
        return result
