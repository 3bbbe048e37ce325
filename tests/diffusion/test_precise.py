"""Scalar functions are rounded once, from float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.samplers import precise


@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (precise.sqrt, math.sqrt),
        (precise.exp, math.exp),
        (precise.expm1, math.expm1),
        (precise.log, math.log),
        (precise.logit, lambda p: math.log(p / (1 - p))),
        (precise.sigmoid, lambda v: 1 / (1 + math.exp(-v))),
        (precise.tan, math.tan),
        (precise.atan, math.atan),
    ],
)
def test_the_result_is_the_float32_nearest_to_the_exact_value(
    function: Callable[[Tensor], Tensor], exact: Callable[[float], float]
) -> None:
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0)).clamp(min=1e-4)
    assert function(x).tolist() == [float(np.float32(exact(v))) for v in x.tolist()]


def test_the_dtype_of_the_argument_is_kept() -> None:
    assert precise.sqrt(torch.tensor(2.0, dtype=torch.float64)).item() == math.sqrt(2.0)
