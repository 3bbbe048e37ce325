"""Values that are not finite: where in a network they come from.

Looking at a result is cheap and is always done; looking into the network is not, and is done once, when it is too late anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .stored import stored_modules


class NonFiniteError(ArithmeticError):
    """A network gave NaN or infinity: in which part of the work, where in the network, and what to do."""


NOT_FINITE = "has values that are not finite (NaN or infinity)"
_GIVEN = "The network was given them: look at the nodes that made its inputs."


def check_finite(
    result: Tensor,
    network: nn.Module,
    again: Callable[[], object],
    *,
    what: str,
    given: Callable[[], str] = lambda: _GIVEN,
) -> None:
    """Raises NonFiniteError if a result is not finite.

    again: computes it anew. what: what the result is, for the message; given: makes a sentence for inputs that were so already.
    """
    if result.isfinite().all():
        return
    fault = find_fault(network, again) or given()
    raise NonFiniteError(f"{what} {NOT_FINITE}. {fault}")


def find_fault(network: nn.Module, again: Callable[[], object]) -> str | None:
    """Returns in a sentence where in a network values that are not finite come from first, and what to do; None if nowhere."""
    found: list[tuple[str, nn.Module]] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, options: Any, output: Any) -> None:
            if not _is_finite(output) and _is_finite((arguments, options)):
                found.append((name, module))
                raise _FoundError

        return hook

    hooks = [
        module.register_forward_hook(look(name), with_kwargs=True) for name, module in network.named_modules() if name
    ]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # compiled blocks would not see the hooks
            again()
    except _FoundError:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        return None
    name, module = found[0]
    where = f"They come first from {name} ({type(module).__name__})"
    if broken := next(_broken_weights(module), None):
        key, count = broken
        return f"{where}, whose {key} has {count} such values itself: the file is damaged; get it again."
    dtype = next((str(w.dtype).removeprefix("torch.") for w in network.parameters()), "its numbers")
    cure = "load it with precision fp32 or bf16" if dtype == "float16" else "load it with precision fp32"
    return f"{where}; its weights are sound, so the numbers grew too large for {dtype}: {cure}."


class _FoundError(Exception):
    """Ends a computation that has shown what was looked for."""


def _broken_weights(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Yields the weights of a module that hold values that are not finite, and how many."""
    wide = ((f"{name}.weight".lstrip("."), inner.weight) for name, inner in stored_modules(module))
    for pairs in (module.named_parameters(), wide):
        for name, weight in pairs:
            if count := int((~weight.isfinite()).sum()):
                yield name, count


def _is_finite(values: Any) -> bool:
    if isinstance(values, Tensor):
        return not values.is_floating_point() or bool(values.isfinite().all())
    if isinstance(values, dict):
        return all(map(_is_finite, values.values()))
    return not isinstance(values, list | tuple) or all(map(_is_finite, values))
