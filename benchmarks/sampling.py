"""A step of sampling against diffusers' network and pipeline with the same weights, and against the machine's matrix rate.

    python -m benchmarks.sampling [--family sd1|sdxl] [--device cuda] [--rounds N] [--steps N] [--compile]

Made-up weights of true size, one picture of the family's size, a batch of prompt and negative prompt. What is compared is
measured in turn; every figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from latentgraph.diffusion.latents.batches import empty_latent
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.networks.building import build_unet
from latentgraph.diffusion.networks.precision import NumericPolicy
from latentgraph.diffusion.sampling.run import sample

from .networks import (
    MODELS,
    call_inputs,
    made_up_model,
    made_up_prompt,
    made_up_unet,
    matrix_rate,
    median,
    seconds,
    unet_of,
)

CFG = 7.0


def our_step(model: Model, side: int, steps: int) -> float:
    """Returns the seconds of a step of a run, the median of all but the first."""
    times: list[float] = []
    sample(
        model,
        made_up_prompt(model.spec, 1),
        made_up_prompt(model.spec, 2),
        empty_latent(width=side, height=side),
        seed=1,
        steps=steps + 1,
        cfg=CFG,
        sampler="euler",
        scheduler="normal",
        on_step=lambda _: times.append(_now(model.weights.memory.policy.device)),
    )
    return median([later - earlier for earlier, later in pairwise(times)])


def pipeline_step(pipeline: Any, model: Model, side: int, steps: int) -> float:
    """Returns the seconds of a step of diffusers' own pipeline, the median of all but the first."""
    device, times = model.weights.memory.policy.device, []

    def on_step_end(_: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        times.append(_now(device))
        return given

    texts = {}
    for name, seed in (("prompt", 1), ("negative_prompt", 2)):
        (entry,) = made_up_prompt(model.spec, seed).entries
        texts[f"{name}_embeds"] = entry.embedding.to(device, pipeline.unet.dtype)
        if entry.pooled is not None:
            texts[name.removesuffix("prompt") + "pooled_prompt_embeds"] = entry.pooled.to(device, pipeline.unet.dtype)
    pipeline(
        **texts,
        width=side,
        height=side,
        num_inference_steps=steps + 1,
        guidance_scale=CFG,
        output_type="latent",
        callback_on_step_end=on_step_end,
    )
    return median([later - earlier for earlier, later in pairwise(times)])


def make_pipeline(unet: Any, family: str) -> Any:
    """Returns diffusers' pipeline around a UNet alone: text comes encoded, and latents go out."""
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    parts: dict[str, Any] = {"vae": None, "text_encoder": None, "tokenizer": None, "unet": unet, "scheduler": scheduler}
    pipeline: Any
    if family == "sdxl":
        pipeline = StableDiffusionXLPipeline(**parts, text_encoder_2=None, tokenizer_2=None)
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def flops_of_a_call(model: Model, side: int) -> int:
    """Returns the floating-point operations of the bare network for a batch of two, counted without computing."""
    network = build_unet(unet_of(model.spec))
    x, context, added = call_inputs(model.spec, side, torch.float32, torch.device("meta"))
    with FlopCounterMode(display=False) as counter:
        network(x, torch.tensor(500.0), context, added_cond_kwargs=added)
    return int(counter.get_total_flops())


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of a step by what made it, a round each, and what the processor can do.

    rate, wide_rate: FLOP/s of matrices in the format of `auto` and in float32. flops: of the network for a batch of two.
    """

    rounds: Sequence[Mapping[str, float]]
    rate: float
    wide_rate: float
    flops: float

    def seconds(self, key: str) -> list[float]:
        """Returns the seconds of a step in each round."""
        return [one[key] for one in self.rounds]

    def ratio(self, above: str, below: str) -> float:
        """Returns the median of the ratios of two steps of one round."""
        return median([one[above] / one[below] for one in self.rounds])

    def share(self, key: str) -> float:
        """Returns which part of the matrix rate the network's operations in the time of a step would be."""
        return median([self.flops / seconds / self.rate for seconds in self.seconds(key)])


def main() -> None:
    """Measures everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=sorted(MODELS), default="sd1")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=None, help="steps a round (2 on a CPU, 30 on a GPU)")
    parser.add_argument("--side", type=int, default=None, help="pixels; the family's own if not given")
    parser.add_argument("--channels", type=int, default=None, help="of the outermost level, for a quick look")
    parser.add_argument("--compile", action="store_true", help="measure both networks compiled by torch, too")
    given = parser.parse_args()
    model = made_up_model(MODELS[given.family], given.device, channels=given.channels)
    Console(width=120).print(_table(_measured(model, given), model.weights.memory.policy))


def _measured(model: Model, given: argparse.Namespace) -> Measured:
    policy, side = model.weights.memory.policy, given.side or model.spec.resolution
    steps = given.steps or (30 if policy.device.type == "cuda" else 2)
    with torch.inference_mode(), model.weights.use() as unet:
        calls: dict[str, Callable[[], float]] = {
            "bare": _caller(unet, model, side, steps),
            "ours": lambda: our_step(model, side, steps),
            "pipeline": lambda: pipeline_step(make_pipeline(unet, given.family), model, side, steps),
        }
        wide = made_up_unet(unet_of(model.spec), torch.float32, policy.device, torch.contiguous_format)
        calls["float32"] = _caller(wide, model, side, max(1, steps // 10))
        if given.compile:
            compiled = replace(model, options=replace(model.options, compiled=True))
            calls["ours, compiled"] = lambda: our_step(compiled, side, steps)
            calls["compiled"] = _caller(torch.compile(unet), model, side, steps)
        for call in calls.values():
            call()  # what is chosen or compiled at a first call is not measured
        rates, wide_rate = [matrix_rate(policy.unet, policy.device)], matrix_rate(torch.float32, policy.device)
        rounds: list[dict[str, float]] = []
        for _ in range(given.rounds):
            rounds.append({key: call() for key, call in calls.items()})
            rates.append(matrix_rate(policy.unet, policy.device))
    return Measured(rounds, median(rates), wide_rate, flops_of_a_call(model, side))


def _table(found: Measured, policy: NumericPolicy) -> Table:
    name = str(policy.unet).removeprefix("torch.")
    table = Table("figure", "measured", "to reach", box=None)
    table.add_row("`auto` here", f"{name} on {policy.device}", "-")
    table.add_row("our step", _time(found.seconds("ours")), "-")
    table.add_row(f"diffusers' bare network in {name}", _time(found.seconds("bare")), "-")
    table.add_row(f"diffusers' pipeline in {name}, a step", _time(found.seconds("pipeline")), "-")
    table.add_row("diffusers' bare network in float32", _time(found.seconds("float32")), "-")
    if "compiled" in found.rounds[0]:
        both = found.ratio("ours, compiled", "compiled")
        table.add_row("our step, compiled", _time(found.seconds("ours, compiled")), "-")
        table.add_row(f"diffusers' bare network in {name}, compiled", _time(found.seconds("compiled")), "-")
        table.add_row("our step / the bare network, both compiled", f"{both:.3f} x", "-")
    table.add_row("our step / bare network", f"{found.ratio('ours', 'bare'):.3f} x", "at most 1.03 x")
    table.add_row("our step / pipeline's step", f"{found.ratio('ours', 'pipeline'):.3f} x", "-")
    table.add_row("float32 / our step", f"{found.ratio('float32', 'ours'):.2f} x", "at least 3.5 x")
    table.add_row(f"matrix rate in {name}", f"{found.rate / 1e12:.3f} TFLOP/s", "-")
    table.add_row("matrix rate in float32", f"{found.wide_rate / 1e12:.3f} TFLOP/s", "-")
    table.add_row("the network's operations, a batch of two", f"{found.flops / 1e12:.3f} TFLOP", "-")
    table.add_row("of that rate: bare network", f"{found.share('bare'):.2f}", "-")
    table.add_row("of that rate: as many operations in our step's time", f"{found.share('ours'):.2f}", "at least 0.85")
    return table


def _caller(network: Any, model: Model, side: int, times: int) -> Callable[[], float]:
    device = model.weights.memory.policy.device
    x, context, added = call_inputs(model.spec, side, next(network.parameters()).dtype, device)
    if next(network.parameters()).dtype != torch.float32:
        x = x.contiguous(memory_format=torch.channels_last)
    timestep = torch.tensor(500.0, device=device)

    def call() -> object:
        return network(x, timestep, context, added_cond_kwargs=added, return_dict=False)

    return lambda: seconds(call, device, times=times)


def _time(values: list[float]) -> str:
    value = median(values)
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
