"""The codec writes down what nodes exchange, and gives back the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from latentgraph.diffusion.types import (
    Area,
    Condition,
    Conditioning,
    Image,
    Latent,
    Mask,
    Noise,
    Sampler,
    Sigmas,
)
from latentgraph.graph import Buffer, Packed
from latentgraph.nodes.codec import TensorCodec

PICTURE = torch.linspace(0, 1, 24).reshape(1, 2, 4, 3)
VALUES = [
    Image(PICTURE),
    Mask(PICTURE[..., 0]),
    Latent(PICTURE, noise_mask=PICTURE[..., :1], batch_index=(2, 0)),
    Conditioning((Condition(PICTURE, area=Area(1, 2, 0, 0)), Condition(PICTURE * 2, pooled=PICTURE, strength=0.5))),
    Sigmas(torch.tensor([14.6, 1.0, 0.0])),
    Noise(2**64 - 1, silent=True),
    Sampler("sa_solver", (("eta", 0.5), ("window", (5.0, 0.5)), ("pece", True))),
    PICTURE.to(torch.bfloat16),
    torch.tensor(3.5),
    torch.empty(0, 4),
    torch.tensor([True, False]),
]


def same(a: Any, b: Any) -> bool:
    first, second = TensorCodec().pack(a), TensorCodec().pack(b)
    return first is not None and first == second


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_is_written_down_is_read_back_bit_for_bit(value: Any) -> None:
    codec = TensorCodec()
    packed = codec.pack(value)
    assert packed is not None
    read = codec.unpack(packed)
    assert type(read) is type(value)
    assert same(read, value)


def test_a_copy_shares_no_memory() -> None:
    latent = Latent(PICTURE.clone(), noise_mask=PICTURE[..., :1].clone())
    copy = TensorCodec().copy(latent)
    copy.samples.zero_()
    copy.noise_mask.zero_()
    assert same(latent, Latent(PICTURE, noise_mask=PICTURE[..., :1]))


def test_a_value_that_holds_an_unknown_thing_is_not_written_down() -> None:
    assert TensorCodec().pack(object()) is None
    assert TensorCodec().pack((PICTURE, object())) is None


def test_size_is_that_of_the_tensors() -> None:
    assert TensorCodec().nbytes(Image(PICTURE)) - TensorCodec().nbytes(None) == PICTURE.nbytes


@pytest.mark.parametrize(
    "packed",
    [
        Packed({"Nothing": {}}),
        Packed({"tensor": "0"}),
        Packed({"tensor": "0"}, {"0": Buffer("F32", (3,), b"1234")}),
        Packed({"Image": {"wrong": {"plain": 1}}}),
    ],
)
def test_what_was_written_by_something_else_is_refused(packed: Packed) -> None:
    with pytest.raises(ValueError, match="can't be read"):
        TensorCodec().unpack(packed)
