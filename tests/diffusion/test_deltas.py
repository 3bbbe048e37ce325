"""A weight changed by each form of adapter, against ComfyUI 0.8.0 and against what the papers say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.adapters.deltas import changed
from latentgraph.diffusion.adapters.keys import ENDINGS, FORMS

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "lora.json").read_text(encoding="utf-8"))
CASES = [name for name, case in VECTORS.items() if isinstance(case, dict) and "tensors" in case]
LORA, CONV, MID = {"up": 3, "down": 4}, {"up": 5, "down": 6}, {"up": 5, "down": 7, "mid": 8}
LOHA = {"w1_a": 9, "w1_b": 10, "w2_a": 11, "w2_b": 12, "t1": 13, "t2": 14}
LOKR = {"k1": 15, "k2": 16, "k2_a": 17, "k2_b": 18, "k1_a": 19, "k1_b": 20}
OTHERS = {"a1": 23, "a2": 24, "b1": 25, "b2": 26, "diff": 29, "w_norm": 29, "set_weight": 29}


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alpha_of(case: str) -> float:
    """The alphas of the vectors' README, for the cases that have one."""
    if "rank3" in case or case.startswith("dora"):
        return 1.5
    if "alpha 0" in case:
        return 0.0
    return {"loha conv tucker": 2.0, "lokr full w1,w2 (alpha ignored)": 5.0}.get(case, 1.0)


def parts_of(case: str) -> dict[str, Tensor]:
    """The tensors of a case, drawn from the seeds of the vectors' README."""
    parts: dict[str, Tensor] = {}
    for key, shape in VECTORS[case]["tensors"].items():
        role = ENDINGS[key.removeprefix("k")]
        if role == "alpha":
            parts[role] = torch.tensor(alpha_of(case))
        elif role == "dora_scale":
            parts[role] = draw(21 if shape == [1, 8] else 22, *shape).abs()
        elif role == "blocks":
            parts[role] = 0.1 * draw(27 if len(shape) == 3 else 28, *shape)
        else:
            lora = MID if "mid" in case else CONV if "conv3x3" in case else LORA
            parts[role] = draw({**LOHA, **LOKR, **OTHERS, **lora}[role], *shape)
    return parts


@pytest.mark.parametrize("case", CASES)
def test_a_weight_is_changed_as_in_the_reference(case: str) -> None:
    wanted, parts = VECTORS[case], parts_of(case)
    convolution = "conv" in case or "mid" in case
    weight = draw(2, 6, 4, 3, 3) if convolution else draw(1, 6, 8)
    form = next(form for form in FORMS if form.roles(frozenset(parts)))
    assert form.roles(frozenset(parts)) == parts.keys()
    before = weight.clone()
    found = changed(weight, form.name, parts, wanted["strength"])
    assert torch.equal(weight, before)
    torch.testing.assert_close(found.flatten()[:8], torch.tensor(wanted["first8"]), rtol=0.0, atol=1e-6)
    assert float(found.sum()) == pytest.approx(wanted["sum"], abs=1e-4)
    assert float((found - weight).norm()) == pytest.approx(wanted["changed_fro"], rel=1e-5)


FACTORS = {
    "lora": {"up": (6, 2), "down": (2, 8)},
    "loha": {"w1_a": (6, 2), "w1_b": (2, 8), "w2_a": (6, 2), "w2_b": (2, 8)},
    "lokr": {"k1": (2, 2), "k2": (3, 4)},
    "glora": {"a1": (8, 2), "a2": (2, 8), "b1": (6, 2), "b2": (2, 8)},
    "oft": {"blocks": (2, 3, 3)},
    "add": {"diff": (6, 8)},
}


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {role: draw(40 + i, *shape) for i, (role, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("form", FACTORS)
def test_no_strength_is_no_change(form: str) -> None:
    weight = draw(1, 6, 8)
    torch.testing.assert_close(changed(weight, form, drawn(FACTORS[form]), 0.0), weight)


def test_a_lora_with_a_middle_is_three_convolutions_one_after_the_other() -> None:
    parts = drawn({"up": (6, 2, 1, 1), "down": (2, 4, 1, 1), "mid": (2, 2, 3, 3)})
    x = draw(50, 1, 4, 5, 5)
    kernel = changed(torch.zeros(6, 4, 3, 3), "lora", parts, 1.0)
    chained = x
    for role, padding in (("down", 0), ("mid", 1), ("up", 0)):
        chained = torch.conv2d(chained, parts[role], padding=padding)
    torch.testing.assert_close(torch.conv2d(x, kernel, padding=1), chained, rtol=1e-4, atol=1e-4)


def test_a_factor_of_a_kronecker_product_may_be_a_convolution() -> None:
    parts = drawn({"k1": (2, 2), "k2_a": (2, 3), "k2_b": (2, 2), "k2_t": (2, 2, 3, 3)})
    found = changed(torch.zeros(6, 4, 3, 3), "lokr", parts, 1.0)
    second = torch.einsum("ijkl,jr,ip->prkl", parts["k2_t"], parts["k2_b"], parts["k2_a"])
    torch.testing.assert_close(found[3:, :2], parts["k1"][1, 0] * second)


@pytest.mark.parametrize("shape", [(6, 8), (6, 4, 3, 3)])
def test_both_orders_of_glora_mean_the_same(shape: tuple[int, ...]) -> None:
    columns = draw(1, *shape).flatten(1).shape[1]
    parts = drawn({"a1": (shape[1], 2), "a2": (2, shape[1]), "b1": (6, 2), "b2": (2, columns)})
    old = {"a1": parts["a2"], "a2": parts["a1"], "b1": parts["b2"], "b2": parts["b1"]}
    weight = draw(1, *shape)
    assert torch.equal(changed(weight, "glora", parts, 0.7), changed(weight, "glora", old, 0.7))


@pytest.mark.parametrize("blocks", [(2, 3, 3), (2, 4, 4, 4), (3, 8, 2, 2)])
def test_orthogonal_fine_tuning_keeps_the_norms_of_columns(blocks: tuple[int, ...]) -> None:
    rows = blocks[-3] * blocks[-1]
    weight = draw(1, rows, 8)
    found = changed(weight, "oft", {"blocks": draw(2, *blocks)}, 1.0)
    assert not torch.allclose(found, weight)
    torch.testing.assert_close(found.norm(dim=0), weight.norm(dim=0))
    torch.testing.assert_close(found.T @ found, weight.T @ weight, rtol=1e-4, atol=1e-4)


def test_the_butterfly_mixes_rows_that_one_factor_keeps_apart() -> None:
    weight = torch.eye(8)
    single = changed(weight, "oft", {"blocks": draw(2, 1, 4, 2, 2)}, 1.0)
    double = changed(weight, "oft", {"blocks": draw(2, 2, 4, 2, 2)}, 1.0)
    assert int((single.abs() > 1e-6).sum(dim=1).max()) == 2
    assert int((double.abs() > 1e-6).sum(dim=1).max()) == 4


def test_a_bounded_rotation_stays_near_the_weight() -> None:
    weight, blocks = draw(1, 6, 8), draw(2, 2, 3, 3)
    free, bound = (changed(weight, "oft", {"blocks": blocks, "alpha": torch.tensor(a)}, 1.0) for a in (0.0, 0.01))
    assert (bound - weight).norm() < 0.1 < (free - weight).norm()


@pytest.mark.parametrize("shape", [(6, 8), (6, 4, 3, 3)])
def test_pefts_magnitudes_become_the_norms_of_the_rows(shape: tuple[int, ...]) -> None:
    columns = draw(1, *shape).flatten(1).shape[1]
    magnitude = draw(60, 6).abs()
    parts = {**drawn({"up": (6, 2), "down": (2, columns)}), "magnitude": magnitude}
    torch.testing.assert_close(changed(draw(1, *shape), "lora", parts, 1.0).flatten(1).norm(dim=1), magnitude)
