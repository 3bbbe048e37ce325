"""A network's blocks compiled by torch: first passes take longer, all others less time.

What is compiled is as large as it can be without holding anything that another change or an adapter made, since
those work by Python of their own. Results agree with the plain network's but for the last bits. What torch keeps of compiled
code, and how much of it, is the whole process's.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

BACKEND = "inductor"
RECOMPILE_LIMIT = 64  # compiled forms of one class, which all networks of a process share; torch's own limit is 8
STACKS = ("down_blocks", "up_blocks", "transformer_blocks", "single_transformer_blocks")
_LIBRARIES = ("torch.nn.", "diffusers.")


class NoCompilerError(RuntimeError):
    """This machine has nothing that torch can compile with."""


def find_compiler(device: torch.device) -> None:
    """Raises NoCompilerError if torch finds nothing that it can compile with for a device."""
    if device.type != "cpu":
        if importlib.util.find_spec("triton") is None:
            raise NoCompilerError("compiling for a GPU takes the package triton, which is not installed.")
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise NoCompilerError("compiling for a CPU takes a C++ compiler such as g++, and none was found.") from error


def compile_blocks(network: Any) -> None:
    """Changes a network of diffusers so that its blocks are compiled when they are first used.

    network: a `shared_copy`, with all its other changes. What was compiled once for a shape stays compiled for the process,
    other copies of the network included.
    """
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(RECOMPILE_LIMIT, dynamo.recompile_limit)
    # diffusers asks for versions through one
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
    for region in regions(network):
        region.compile(backend=BACKEND)


def regions(network: Any) -> Iterator[nn.Module]:
    """Yields the largest modules among a network's blocks, and within them, that nothing has changed."""
    stacks = [block for name in STACKS for block in getattr(network, name, ())]
    middle = getattr(network, "mid_block", None)
    for block in stacks if middle is None else [*stacks, middle]:
        yield from _unchanged(block)


def _unchanged(module: nn.Module) -> Iterator[nn.Module]:
    children = list(module.children())
    if not children:
        return  # a single operation is one already
    if not isinstance(module, nn.ModuleList) and not any(map(_is_changed, module.modules())):
        yield module
        return
    for child in children:
        yield from _unchanged(child)


def _is_changed(module: nn.Module) -> bool:
    """Returns whether a module does something else than its class, or is of ours."""
    own = (type(module), type(getattr(module, "processor", None)))
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    foreign = any(not cls.__module__.startswith(_LIBRARIES) and cls is not type(None) for cls in own)
    return foreign or "forward" in vars(module) or any(hooks)
