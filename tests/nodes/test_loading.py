"""Loading gives handles, whose weights are read later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.graph import Context
from latentgraph.nodes.loading import LoadCheckpoint, LoadVAE


def test_a_checkpoint_has_three_parts_and_reads_no_weight(tiny_sd1: Path) -> None:
    memory = WeightMemory(precision="exact")
    loaded = LoadCheckpoint(file=tiny_sd1).run(Context(resources={WeightMemory: memory}))
    assert loaded.clip is not None
    assert loaded.vae is not None
    assert (loaded.model.spec.family, loaded.clip.spec.family) == ("sd1", "sd1")
    assert memory.resident_bytes == 0


def test_what_a_checkpoint_lacks_is_none(reference_tiny: Path, context: Context) -> None:
    assert LoadCheckpoint(file=reference_tiny).run(context).clip is None


def test_the_vae_of_a_checkpoint_can_be_loaded_alone(tiny_sd1: Path, sd1: Any, context: Context) -> None:
    assert LoadVAE(file=tiny_sd1).run(context).spec == sd1.vae.spec
