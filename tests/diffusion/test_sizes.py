"""Sizes, by the rules of ComfyUI 0.8.0's nodes."""

from __future__ import annotations

import pytest

from latentgraph.diffusion.pictures.sizes import Size, resized, scaled, whole_cells, with_megapixels


@pytest.mark.parametrize(
    ("asked", "least", "given"),
    [((8, 9), 1, (8, 9)), ((0, 0), 1, (12, 10)), ((6, 0), 1, (6, 5)), ((0, 20), 1, (24, 20)), ((6, 0), 64, (64, 64))],
)
def test_a_side_of_0_follows_from_the_other(asked: tuple[int, int], least: int, given: tuple[int, int]) -> None:
    assert resized(Size(12, 10), width=asked[0], height=asked[1], least=least) == given


def test_no_side_becomes_0() -> None:
    assert resized(Size(1000, 1), width=10, height=0) == (10, 1)
    assert scaled(Size(1000, 1), 0.01) == (10, 1)


def test_halves_are_rounded_to_even() -> None:
    assert scaled(Size(5, 7), 0.5) == (2, 4)


def test_a_number_of_pixels_keeps_the_aspect_in_multiples() -> None:
    assert with_megapixels(Size(12, 10), 0.01) == (112, 93)
    assert with_megapixels(Size(12, 10), 0.01, multiple=16) == (112, 96)


def test_a_size_is_cut_to_whole_cells() -> None:
    assert whole_cells(Size(67, 45)) == (64, 40)
    assert whole_cells(Size(67, 45), 2) == (66, 44)


def test_a_size_is_said_as_people_say_it() -> None:
    assert str(Size(64, 48)) == "64x48"
