"""One weight changed by one adapter: low-rank products of every form, in float32. Knows no file, no name and no network.

A form (see `keys.FORMS`) makes a difference D from its tensors, and the weight becomes W + s a D: s is the strength
that a person chose and a = alpha / rank what the adapter was trained with, 1 without alpha. The order of operations is that
of ComfyUI 0.8.0 (behaviour), because it moves the last bits.

LoRA: Hu et al. 2021, arXiv:2106.09685. LoHa, LoKr: Yeh et al. 2023, arXiv:2309.14859. DoRA: Liu et al. 2024, arXiv:2402.09353.
GLoRA: Chavan et al. 2023, arXiv:2306.07967. OFT: Qiu et al. 2023, arXiv:2306.07280. BOFT: Liu et al. 2023, arXiv:2311.06243.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..layouts.keymaps import Rows
from .shapes import glora_is_old

Parts = Mapping[str, Tensor]
"""An adapter's tensors for one module by role, float32 on the weight's device."""


def changed(weight: Tensor, form: str, parts: Parts, strength: float) -> Tensor:
    """Returns the weight, float32 of any shape, as an adapter of this form makes it; `weight` itself is left alone."""
    if form == "set":
        return parts["set_weight"].reshape(weight.shape).clone()
    if form == "add":
        (difference,) = parts.values()
        return weight + strength * difference.reshape(weight.shape)
    difference, scale = _DIFFERENCES[form](weight, parts, strength)
    if "dora_scale" in parts or "magnitude" in parts:
        decomposed = _decomposed(weight, difference * scale, parts)
        return decomposed if strength == 1.0 else weight + strength * (decomposed - weight)
    return weight + (strength * scale) * difference


def divided(form: str, parts: Parts, *, rows: Rows, total: int, shape: Sequence[int]) -> tuple[str, Parts]:
    """Returns the form and the tensors of what a change to joined matrices is to one of them.

    rows: which of the `total` rows it has; shape: its own.
    """
    if form in ("loha", "lokr"):
        joined = next(iter(parts.values())).new_zeros(total, *shape[1:])
        return "add", {"diff": _rows(changed(joined, form, parts, 1.0), rows)}
    ours = {"up", "dora_scale", "magnitude"} if form == "lora" else parts.keys()
    return form, {role: _rows(part, rows) if role in ours else part for role, part in parts.items()}


def _rows(tensor: Tensor, rows: Rows) -> Tensor:
    return torch.cat([tensor[start:stop] for start, stop in rows])


class _Difference(NamedTuple):
    """A difference of the weight's shape, before it is multiplied with its scale."""

    values: Tensor
    scale: float


def _lora(weight: Tensor, parts: Parts, strength: float) -> _Difference:
    """B A. With a middle tensor, the three are one convolution: 1x1, kxk, 1x1 (a Tucker decomposition)."""
    up, down = parts["up"], parts["down"]
    scale = _scale(parts, rank=down.shape[0])
    if "mid" in parts:
        mid = parts["mid"]
        rank, into = down.shape[:2]
        folded = down.transpose(0, 1).flatten(1) @ mid.transpose(0, 1).flatten(1)
        down = folded.reshape(into, rank, *mid.shape[2:]).transpose(0, 1)
    return _Difference((up.flatten(1) @ down.flatten(1)).reshape(weight.shape), scale)


def _loha(weight: Tensor, parts: Parts, strength: float) -> _Difference:
    """The product, number by number, of two low-rank matrices."""
    first = _factors(parts["w1_a"], parts["w1_b"], parts.get("t1"))
    second = _factors(parts["w2_a"], parts["w2_b"], parts.get("t2"))
    return _Difference((first * second).reshape(weight.shape), _scale(parts, rank=parts["w1_b"].shape[0]))


def _lokr(weight: Tensor, parts: Parts, strength: float) -> _Difference:
    """The Kronecker product of two matrices, each whole or of low rank. The rank is the second one's, if it has one."""
    rank = None
    if (first := parts.get("k1")) is None:
        first = parts["k1_a"] @ parts["k1_b"]
        rank = parts["k1_b"].shape[0]
    if (second := parts.get("k2")) is None:
        second = _factors(parts["k2_a"], parts["k2_b"], parts.get("k2_t"))
        rank = parts["k2_b"].shape[0]
    first = first.reshape(*first.shape, *[1] * (second.ndim - first.ndim))
    scale = 1.0 if rank is None else _scale(parts, rank=rank)
    return _Difference(torch.kron(first, second.contiguous()).reshape(weight.shape), scale)


def _glora(weight: Tensor, parts: Parts, strength: float) -> _Difference:
    """W A + B, both of low rank; early files have each pair of factors the other way round."""
    a1, a2, b1, b2 = (parts[role].flatten(1) for role in ("a1", "a2", "b1", "b2"))
    if glora_is_old(weight.shape[0], a1.shape, b1.shape):
        a1, a2, b1, b2 = a2, a1, b2, b1
    prompt = torch.einsum("oi...,ij,jk->ok...", weight, a1, a2) if weight.ndim > 2 else weight @ a1 @ a2
    return _Difference(prompt + (b1 @ b2).reshape(weight.shape), _scale(parts, rank=a1.shape[1]))


def _oft(weight: Tensor, parts: Parts, strength: float) -> _Difference:
    """The weight's rows turned, block by block. The strength counts twice, here and as any form's."""
    blocks = parts["blocks"]
    turn = _rotations(blocks, limit=_number(parts, "alpha", 0.0))
    if blocks.ndim == 4:
        return _Difference(_butterfly(weight, turn, parts.get("rescale")) - weight, 1.0)
    turned = strength * turn - strength * _unit(blocks)
    rows = weight.reshape(len(blocks), blocks.shape[1], *weight.shape[1:])
    return _Difference(torch.einsum("knm,kn...->km...", turned, rows).reshape(weight.shape), 1.0)


def _butterfly(weight: Tensor, turns: Tensor, rescale: Tensor | None) -> Tensor:
    """BOFT: a product of rotations, each block-diagonal after a shuffle that pairs rows ever farther apart.

    turns: (factors, blocks, b, b).
    """
    factors, blocks, size, _ = turns.shape
    x = weight.flatten(1)
    for level in range(factors):
        reach = 2**level * (size // 2)
        shuffled = x.reshape(-1, 2, reach, x.shape[1]).transpose(1, 2).reshape(blocks, size, -1)
        turned = (turns[level] @ shuffled).reshape(-1, reach, 2, x.shape[1])
        x = turned.transpose(1, 2).reshape(x.shape)
    x = x.reshape(weight.shape)
    return x if rescale is None else x * rescale


def _rotations(blocks: Tensor, *, limit: float) -> Tensor:
    """Cayley's transform of the skew-symmetric part; `limit`, if positive, bounds that part's norm (COFT)."""
    skew = blocks - blocks.transpose(-1, -2)
    if limit > 0:
        norm = skew.norm() + 1e-8  # ComfyUI's, against a division by zero
        skew = skew * (limit / norm) if norm > limit else skew
    unit = _unit(blocks)
    rotations: Tensor = (unit + skew) @ torch.linalg.inv(unit - skew)
    return rotations


def _unit(blocks: Tensor) -> Tensor:
    return torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)


def _decomposed(weight: Tensor, difference: Tensor, parts: Parts) -> Tensor:
    """The changed weight with the adapter's own magnitudes: of each row (output) or of each column (input).

    PEFT divides each row by the norm of the changed weight. For LyCORIS' scales of rows, the norm is that of the weight as it
    was, and for those of columns that of the changed weight; as in ComfyUI 0.8.0 (behaviour).
    """
    merged = weight + difference
    rows = [len(weight)] + [1] * (weight.ndim - 1)
    columns = [1, *weight.shape[1:2]] + [1] * (weight.ndim - 2)
    if "magnitude" in parts:
        return merged * (parts["magnitude"].reshape(rows) / _row_norms(merged).reshape(rows))
    tiny = torch.finfo(weight.dtype).eps
    scale = parts["dora_scale"]
    if scale.shape[0] == len(weight):
        return merged * (scale.reshape(rows) / (_row_norms(weight).reshape(rows) + tiny))
    return merged * (scale.reshape(columns) / (_row_norms(merged.transpose(0, 1)).reshape(columns) + tiny))


def _row_norms(weight: Tensor) -> Tensor:
    norms: Tensor = weight.flatten(1).norm(dim=1)
    return norms


def _factors(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    """The product of two factors; with a core (Tucker), a convolution's kernel: a (R, out), b (R, in), core (R, R, k, k)."""
    return a @ b if core is None else torch.einsum("ijkl,jr,ip->prkl", core, b, a)


def _scale(parts: Parts, *, rank: int) -> float:
    return _number(parts, "alpha", float(rank)) / rank


def _number(parts: Parts, role: str, default: float) -> float:
    return float(parts[role].item()) if role in parts else default


_DIFFERENCES: Mapping[str, Callable[[Tensor, Parts, float], _Difference]] = {
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "glora": _glora,
    "oft": _oft,
}
