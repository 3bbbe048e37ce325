"""Counts what goes through a model's network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from latentgraph.diffusion.model import Model


@contextmanager
def counted_passes(model: Model) -> Iterator[list[int]]:
    """The batch of every pass through the model's network."""
    batches: list[int] = []
    with model.weights.use() as unet:
        hook = unet.register_forward_pre_hook(lambda _, arguments: batches.append(len(arguments[0])))
        try:
            yield batches
        finally:
            hook.remove()
