"""Nodes that cut and change lists of noise levels."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from latentgraph.diffusion.names import LevelSpacing
from latentgraph.diffusion.types import Sigmas
from latentgraph.graph import ComfyName, Context, Node

from .sampling import MAX_STEPS


class SplitSigmasResult(NamedTuple):
    """The levels of the first part of a run, and those of the rest."""

    high: Sigmas
    low: Sigmas


class SplitSigmas(Node, version=1, comfy=ComfyName("SplitSigmas")):
    """Divide noise levels at a step, for two runs that follow each other."""

    sigmas: Sigmas = Field(description="The levels.")
    step: int = Field(0, ge=0, le=MAX_STEPS, description="How many steps the first part has.")

    def run(self, ctx: Context) -> SplitSigmasResult:
        from latentgraph.diffusion.levels.edits import split

        parts = split(self.sigmas.values, self.step)
        return SplitSigmasResult(Sigmas(parts.high), Sigmas(parts.low))


class SplitSigmasDenoise(Node, version=1, comfy=ComfyName("SplitSigmasDenoise")):
    """Divide noise levels so that the second part has a share of the steps."""

    sigmas: Sigmas = Field(description="The levels.")
    denoise: float = Field(1.0, ge=0, le=1, description="The share of the steps that the second part has.")

    def run(self, ctx: Context) -> SplitSigmasResult:
        from latentgraph.diffusion.levels.edits import split_by_denoise

        parts = split_by_denoise(self.sigmas.values, self.denoise)
        return SplitSigmasResult(Sigmas(parts.high), Sigmas(parts.low))


class FlipSigmas(Node, version=1, comfy=ComfyName("FlipSigmas")):
    """Turn noise levels around, to go from a picture to the noise that it could have come from."""

    sigmas: Sigmas = Field(description="The levels.")

    def run(self, ctx: Context) -> Sigmas:
        from latentgraph.diffusion.levels.edits import flip

        return Sigmas(flip(self.sigmas.values))


class SetFirstSigma(Node, version=1, comfy=ComfyName("SetFirstSigma")):
    """Start from another noise level."""

    sigmas: Sigmas = Field(description="The levels.")
    sigma: float = Field(136.0, ge=0, le=20000, description="The level to start from.")

    def run(self, ctx: Context) -> Sigmas:
        from latentgraph.diffusion.levels.edits import set_first

        return Sigmas(set_first(self.sigmas.values, self.sigma))


class ExtendIntermediateSigmas(Node, version=1, comfy=ComfyName("ExtendIntermediateSigmas")):
    """Divide each step that begins between two noise levels into shorter ones."""

    sigmas: Sigmas = Field(description="The levels.")
    steps: int = Field(2, ge=1, le=100, description="How many steps become of each.")
    start_at_sigma: float = Field(-1.0, ge=-1, le=20000, description="The upper level; below 0 there is none.")
    end_at_sigma: float = Field(12.0, ge=0, le=20000, description="The lower level.")
    spacing: LevelSpacing = Field("linear", description="How the new levels lie between the old ones.")

    def run(self, ctx: Context) -> Sigmas:
        from latentgraph.diffusion.levels.edits import extend

        levels = extend(
            self.sigmas.values,
            self.steps,
            start_at_sigma=self.start_at_sigma,
            end_at_sigma=self.end_at_sigma,
            spacing=self.spacing,
        )
        return Sigmas(levels)
