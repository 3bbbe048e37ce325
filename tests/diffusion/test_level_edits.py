"""Lists of levels, cut, turned and filled."""

from __future__ import annotations

import pytest
import torch

from latentgraph.diffusion.levels.edits import (
    extend,
    flip,
    parse_levels,
    set_first,
    split,
    split_by_denoise,
    without_repeats,
)
from latentgraph.diffusion.levels.limits import check_levels, whole_steps

LEVELS = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("step", "high", "low"),
    [(0, [8], [8, 4, 2, 1, 0]), (2, [8, 4, 2], [2, 1, 0]), (4, [8, 4, 2, 1, 0], [0]), (9, [8, 4, 2, 1, 0], [])],
)
def test_two_parts_meet_at_a_level(step: int, high: list[float], low: list[float]) -> None:
    parts = split(LEVELS, step)
    assert (parts.high.tolist(), parts.low.tolist()) == (high, low)


@pytest.mark.parametrize(
    ("denoise", "high", "low"),
    [
        (1.0, [8], [8, 4, 2, 1, 0]),
        (0.5, [8, 4, 2], [2, 1, 0]),
        (0.3, [8, 4, 2, 1], [1, 0]),
        (0.0, [8, 4, 2, 1, 0], [0]),
    ],
)
def test_the_second_part_has_a_share_of_the_steps(denoise: float, high: list[float], low: list[float]) -> None:
    parts = split_by_denoise(LEVELS, denoise)
    assert (parts.high.tolist(), parts.low.tolist()) == (high, low)


def test_a_flipped_run_starts_just_above_0() -> None:
    assert flip(LEVELS).tolist() == pytest.approx([1e-4, 1, 2, 4, 8])
    assert flip(LEVELS[:3]).tolist() == [2, 4, 8]


def test_the_first_level_can_be_another() -> None:
    assert set_first(LEVELS, 136.0).tolist() == [136, 4, 2, 1, 0]
    assert len(set_first(LEVELS[:0], 136.0)) == 0


def test_steps_are_divided_that_begin_between_two_levels() -> None:
    assert extend(LEVELS, 2, start_at_sigma=-1, end_at_sigma=2.0).tolist() == [8, 6, 4, 3, 2, 1.5, 1, 0]
    assert extend(LEVELS, 2, start_at_sigma=4.0, end_at_sigma=3.0).tolist() == [8, 4, 3, 2, 1, 0]


def test_new_levels_may_lie_nearer_to_one_end() -> None:
    between = [
        extend(LEVELS[:2], 2, start_at_sigma=-1, end_at_sigma=0, spacing=spacing)[1].item()
        for spacing in ("cosine", "linear", "sine")
    ]
    assert between == sorted(between)
    assert between[1] == 6


@pytest.mark.parametrize("text", ["14.6, 3.9,0.7 0", "[14.6; 3.9; 0.7; 0]", "1.46e1\n3.9\n.7\n0."])
def test_levels_are_read_whatever_separates_them(text: str) -> None:
    assert parse_levels(text).tolist() == pytest.approx([14.6, 3.9, 0.7, 0.0])


def test_a_text_without_a_number_gives_no_levels() -> None:
    with pytest.raises(ValueError, match="no number in 'none'"):
        parse_levels("none")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("1e400, 1, 0", "noise level 1 of 3 is inf; expected finite numbers, none below 0"),
        ("14-3, 0", "noise level 2 of 3 is -3; expected finite numbers, none below 0"),
        ("5, 0, 3", "noise level 2 of 3 is 0, where no noise is left to go on from; only the last may be 0"),
    ],
)
def test_levels_at_which_nothing_can_be_sampled_are_refused(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"^{wrong}$"):
        parse_levels(text)


def test_levels_that_rise_or_end_above_0_are_levels() -> None:
    assert parse_levels("0.5 2 8").tolist() == [0.5, 2, 8]


def test_a_level_above_all_noise_is_none_for_rectified_flow() -> None:
    check_levels([1.0, 0.5, 0.0], highest=1.0)
    with pytest.raises(ValueError, match=r"^noise level 1 of 2 is 14.6, but a rectified-flow model knows none above 1"):
        check_levels([14.6, 0.0], highest=1.0)


def test_a_level_that_follows_its_equal_is_left_out() -> None:
    assert without_repeats(torch.tensor([5.0, 5, 4, 3, 3, 3, 0])).tolist() == [5, 4, 3, 0]
    assert without_repeats(LEVELS).tolist() == LEVELS.tolist()
    assert without_repeats(LEVELS[:1]).tolist() == [8]


@pytest.mark.parametrize(
    ("steps", "denoise", "whole"), [(20, 0.3, 66), (1, 1e-6, 1_000_000), (10_000, 0.01, 1_000_000)]
)
def test_a_denoise_says_how_long_the_whole_schedule_is(steps: int, denoise: float, whole: int) -> None:
    assert whole_steps(steps, denoise) == whole


def test_a_schedule_that_no_memory_would_hold_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^1e-09 makes 20 steps the end of a schedule of 2e\+10; expected at least 2e-05"
    ):
        whole_steps(20, 1e-9)


def test_no_edit_writes_to_what_it_is_given() -> None:
    given = LEVELS.clone()
    for changed in (
        *split(given, 2),
        flip(given),
        set_first(given, 3.0),
        extend(given, 1, start_at_sigma=-1, end_at_sigma=0),
    ):
        changed[0] = 99.0
    assert torch.equal(given, LEVELS)
