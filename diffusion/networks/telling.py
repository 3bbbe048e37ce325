"""What FLUX's networks are told beside latents and text, unrounded: the noise level, and how strongly to follow the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from torch import Tensor

UNIT = 1000  # of what the waves are made of, in levels and in guidance


@contextmanager
def told_exactly(embedding: Any, *told: Tensor | None) -> Iterator[None]:
    """Within, FLUX's embedding of time and guidance, each (B,), makes its waves from their float32 values.

    diffusers rounds them to the network's number format first: in bf16, a guidance of 3500 thousandths becomes 3504. Threads
    that share the network each tell it their own.
    """
    values, thread = iter([UNIT * each.float() for each in told if each is not None]), get_ident()
    hook = embedding.time_proj.register_forward_pre_hook(lambda *_: (next(values),) if get_ident() == thread else None)
    try:
        yield
    finally:
        hook.remove()
