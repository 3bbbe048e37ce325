"""Functions of a few noise levels, computed in float64 and rounded once to the dtype of their argument.

The vector libraries behind torch's own float32 functions, square root included, differ in the last bit from one CPU and
build to the next. What is computed here is the same everywhere. Meant for scalars of a schedule, not for latents.
"""

from __future__ import annotations

from torch import Tensor


def sqrt(x: Tensor) -> Tensor:
    return x.double().sqrt().to(x.dtype)


def exp(x: Tensor) -> Tensor:
    return x.double().exp().to(x.dtype)


def expm1(x: Tensor) -> Tensor:
    return x.double().expm1().to(x.dtype)


def log(x: Tensor) -> Tensor:
    return x.double().log().to(x.dtype)


def logit(x: Tensor) -> Tensor:
    return x.double().logit().to(x.dtype)


def sigmoid(x: Tensor) -> Tensor:
    return x.double().sigmoid().to(x.dtype)


def tan(x: Tensor) -> Tensor:
    return x.double().tan().to(x.dtype)


def atan(x: Tensor) -> Tensor:
    return x.double().atan().to(x.dtype)
