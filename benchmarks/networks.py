"""Networks of true size with made-up weights, and how the benchmarks time them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from latentgraph.diffusion.families.specs import ModelSpec, UNetSpec
from latentgraph.diffusion.families.stable_diffusion import SD_LATENT, SDXL_LATENT
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.networks.building import build_unet
from latentgraph.diffusion.networks.memory import WeightMemory, Weights
from latentgraph.diffusion.networks.precision import NumericPolicy
from latentgraph.diffusion.types import Condition, Conditioning

SD1 = UNetSpec(
    in_channels=4,
    out_channels=4,
    widths=(320, 640, 1280, 1280),
    res_blocks=(2, 2, 2, 2),
    depths_in=((1, 1), (1, 1), (1, 1), (0, 0)),
    depths_out=((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    depth_middle=1,
    heads=(8, 8, 8, 8),
    context_width=768,
    linear_projection=False,
)
SDXL = UNetSpec(
    in_channels=4,
    out_channels=4,
    widths=(320, 640, 1280),
    res_blocks=(2, 2, 2),
    depths_in=((0, 0), (2, 2), (10, 10)),
    depths_out=((10, 10, 10), (2, 2, 2), (0, 0, 0)),
    depth_middle=10,
    heads=(5, 10, 20),
    context_width=2048,
    linear_projection=True,
    vector_width=2816,
)
MODELS = {
    "sd1": ModelSpec("sd1", SD1, SD_LATENT, "eps", 512),
    "sdxl": ModelSpec("sdxl", SDXL, SDXL_LATENT, "eps", 1024),
}
POOLED_WIDTH = 1280  # of SDXL's pooled text


@dataclass(frozen=True, slots=True)
class MadeUp:
    """A UNet with made-up weights, as a source that `WeightMemory` loads."""

    spec: UNetSpec

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return "a UNet with made-up weights"

    @property
    def ingredients(self) -> tuple[()]:
        """None."""
        return ()

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes it takes when loaded."""
        parameters: int = sum(weight.numel() for weight in build_unet(self.spec).parameters())
        return parameters * policy.unet.itemsize

    def load(self, policy: NumericPolicy) -> nn.Module:
        """Returns the network, with the same weights at every load but for rounding."""
        return made_up_unet(self.spec, policy.unet, policy.device, policy.memory_format)


def made_up_unet(
    spec: UNetSpec, dtype: torch.dtype, device: torch.device, memory_format: torch.memory_format
) -> nn.Module:
    """Returns diffusers' UNet with weights that keep activations near unit size."""
    network: nn.Module = build_unet(spec)
    draw = torch.Generator().manual_seed(0)
    state = {}
    for name, weight in network.state_dict().items():
        if weight.ndim == 1:
            values = torch.full(weight.shape, 0.0 if name.endswith("bias") else 1.0)
        else:
            bound = (3.0 / weight[0].numel()) ** 0.5
            values = torch.empty(weight.shape).uniform_(-bound, bound, generator=draw)
        layout = memory_format if weight.ndim == 4 else torch.contiguous_format
        state[name] = values.to(device, dtype, memory_format=layout)
    network.load_state_dict(state, strict=True, assign=True)
    return network.requires_grad_(False).eval()


def made_up_model(spec: ModelSpec, device: str, *, channels: int | None = None) -> Model:
    """Returns a model in `auto` precision. channels: of the outermost level, where it should be smaller than it is."""
    network = unet_of(spec)
    if channels is not None:
        network = replace(network, widths=tuple(w * channels // network.widths[0] for w in network.widths))
    return Model(replace(spec, network=network), Weights(WeightMemory(device=device), MadeUp(network)))


def unet_of(spec: ModelSpec) -> UNetSpec:
    """Returns the network of one of these models. Raises TypeError for one that is no UNet."""
    if not isinstance(spec.network, UNetSpec):
        raise TypeError(f"expected a UNet; got {type(spec.network).__name__}")
    return spec.network


def made_up_prompt(spec: ModelSpec, seed: int) -> Conditioning:
    """Returns a prompt of 77 tokens."""
    draw = torch.Generator().manual_seed(seed)
    pooled = None if spec.network.pooled_width is None else torch.randn(1, POOLED_WIDTH, generator=draw)
    return Conditioning((Condition(torch.randn(1, 77, spec.context_width, generator=draw), pooled),))


def call_inputs(spec: ModelSpec, side: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Any]:
    """Returns (x, context, added) of a bare call of diffusers' UNet for a prompt and a negative one. side: in pixels."""
    draw = torch.Generator().manual_seed(1)
    cells = side // spec.latent.downscale
    x = torch.randn(1, spec.latent.channels, cells, cells, generator=draw).repeat(2, 1, 1, 1).to(device, dtype)
    context = torch.randn(2, 77, spec.context_width, generator=draw).to(device, dtype)
    added = None
    if spec.network.pooled_width is not None:
        sizes = torch.tensor([[side, side, 0, 0, side, side]] * 2, dtype=torch.float32, device=device)
        added = {"text_embeds": torch.randn(2, POOLED_WIDTH, generator=draw).to(device, dtype), "time_ids": sizes}
    return x, context, added


def seconds(work: Callable[[], object], device: torch.device, *, times: int = 1) -> float:
    """Returns the wall seconds of one call, the mean of `times` calls that follow each other."""
    _wait(device)
    begun = time.perf_counter()
    for _ in range(times):
        work()
    _wait(device)
    return (time.perf_counter() - begun) / times


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Returns the FLOP/s of a product of two square matrices, the best of five."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.ones(side, side, dtype=dtype, device=device)
    times = 10 if device.type == "cuda" else 1
    torch.mm(a, a)
    return 2 * side**3 / min(seconds(lambda: torch.mm(a, a), device, times=times) for _ in range(5))


def median(values: list[float]) -> float:
    """Returns the median."""
    return statistics.median(values)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
