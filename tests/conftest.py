"""What every test shares: one thread for torch, so that results repeat, and small checkpoints with made-up weights."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs a CUDA device where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The builders of `tests/diffusion/tiny.py`, which tests can't import by name: their folders are no packages."""
    return _builders("tiny")


@pytest.fixture(scope="session")
def tiny_dits() -> ModuleType:
    """The builders of `tests/diffusion/tiny_dits.py`."""
    return _builders("tiny_dits")


@pytest.fixture(scope="session")
def tiny_texts() -> ModuleType:
    """The builders of `tests/diffusion/tiny_texts.py`."""
    return _builders("tiny_texts")


@pytest.fixture(scope="session")
def published() -> ModuleType:
    """The lists of `tests/diffusion/published.py`."""
    return _builders("published")


def _builders(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "diffusion" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the tiny checkpoints lie; tests read them and write nothing there."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def tiny_sd1(tiny: ModuleType, checkpoints: Path) -> Path:
    return tiny.write_sd1(checkpoints / "sd1.safetensors")


@pytest.fixture(scope="session")
def tiny_sd1_inpaint(tiny: ModuleType, checkpoints: Path) -> Path:
    return tiny.write_sd1(checkpoints / "sd1_inpaint.safetensors", in_channels=9)


@pytest.fixture(scope="session")
def tiny_sd2(tiny: ModuleType, checkpoints: Path) -> Path:
    return tiny.write_sd2(checkpoints / "sd2.safetensors")


@pytest.fixture(scope="session")
def tiny_sd2_v(tiny: ModuleType, checkpoints: Path) -> Path:
    return tiny.write_sd2(checkpoints / "sd2_v.safetensors", v=True)


@pytest.fixture(scope="session")
def tiny_sdxl(tiny: ModuleType, checkpoints: Path) -> Path:
    return tiny.write_sdxl(checkpoints / "sdxl.safetensors")


@pytest.fixture(scope="session")
def tiny_folder(tiny: ModuleType, checkpoints: Path) -> Path:
    return tiny.write_folder(checkpoints / "folder")


@pytest.fixture(scope="session")
def reference_tiny(tiny: ModuleType, checkpoints: Path) -> Path:
    """The model of end_to_end_tiny.json, which has no text encoder."""
    return tiny.write_reference_tiny(checkpoints / "reference.safetensors")


@pytest.fixture(scope="session")
def reference_tiny_inpaint(tiny: ModuleType, checkpoints: Path) -> Path:
    """The nine-channel model of end_to_end_tiny.json."""
    return tiny.write_reference_tiny(checkpoints / "reference_inpaint.safetensors", in_channels=9)
