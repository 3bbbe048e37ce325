"""The menus of names agree with what they name, and cost nothing to import."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

from latentgraph.diffusion.levels.schedules import SCHEDULES
from latentgraph.diffusion.names import SamplerName, ScheduleName, unknown_name
from latentgraph.diffusion.samplers.catalogue import SAMPLERS


def test_every_sampler_name_is_registered_in_menu_order() -> None:
    assert list(SAMPLERS) == list(get_args(SamplerName))


def test_every_schedule_name_is_registered_in_menu_order() -> None:
    assert list(SCHEDULES) == list(get_args(ScheduleName))


def test_the_names_load_no_torch() -> None:
    code = "import sys, latentgraph.diffusion.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_answered_with_the_nearest_and_all_known() -> None:
    error = unknown_name("sampler", "eulr", ["euler", "heun"])
    assert str(error) == "unknown sampler 'eulr'. Did you mean 'euler'? Known: euler, heun."


def test_a_name_that_resembles_none_gets_no_suggestion() -> None:
    assert str(unknown_name("schedule", "qqq", ["karras"])) == "unknown schedule 'qqq'. Known: karras."
