"""A place of its own for every test of the command line: working folder, cache and models. The user's are never touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from latentgraph.cli import Engine

PAINT = """\
latentgraph: 1
name: paint
params:
  prompt: {type: string, default: a red apple}
  seed: 7
  steps: {type: integer, default: 2, min: 1, max: 10000}
  cfg: {type: number, default: 5.0, min: 0, max: 100}
nodes:
  checkpoint: {type: LoadCheckpoint, file: CHECKPOINT}
  positive: {type: TextEncode, clip: $checkpoint.clip, text: $params.prompt}
  negative: {type: TextEncode, clip: $checkpoint.clip, text: ""}
  empty: {type: EmptyLatent, width: 64, height: 64}
  sample:
    type: KSampler
    model: $checkpoint.model
    positive: $positive
    negative: $negative
    latent: $empty
    seed: $params.seed
    steps: $params.steps
    cfg: $params.cfg
  decode: {type: VAEDecode, vae: $checkpoint.vae, latent: $sample}
  save: {type: SaveImage, image: $decode, prefix: paint}
outputs:
  image: $decode
"""

SQUARE = """\
latentgraph: 1
nodes:
  square: {type: SolidMask, width: 16, height: 8, value: 1.0}
outputs:
  mask: $square
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the test."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("LATENTGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LATENTGRAPH_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("LATENTGRAPH_TRACEBACK", raising=False)
    return place


@pytest.fixture
def paint(here: Path, tiny_sd1: Path) -> Path:
    """A workflow that paints 64x64 pixels with a tiny random model and saves them."""
    path = here / "paint.yaml"
    path.write_text(PAINT.replace("CHECKPOINT", str(tiny_sd1)), encoding="utf-8")
    return path


@pytest.fixture
def square(here: Path) -> Path:
    """A workflow without a model: a white mask of 16x8."""
    path = here / "square.yaml"
    path.write_text(SQUARE, encoding="utf-8")
    return path


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Makes engines that share a cache folder, as processes do, and closes them."""
    engines: list[Engine] = []

    def make(**settings: object) -> Engine:
        engines.append(Engine(**{"cache_dir": tmp_path / "cache", **settings}))  # type: ignore[arg-type]
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()
