"""What a Stable Diffusion 1.5 checkpoint of true size takes: seconds to load, and memory at its peak.

The weights are made up, in float16 and in LDM's layout, in a temporary folder; each figure comes from a process of its own,
whose peak is the kernel's (VmHWM, which counts the pages of mapped files too). Run it with `python -m benchmarks.memory`, on
Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from latentgraph.diffusion.checkpoints.export import NETWORK_PREFIX
from latentgraph.diffusion.checkpoints.opening import Checkpoint, open_checkpoint
from latentgraph.diffusion.families.autoencoders import KLSpec
from latentgraph.diffusion.latents.autoencoder import decode
from latentgraph.diffusion.layouts.autoencoder_keys import vae_destinations
from latentgraph.diffusion.layouts.keymaps import unet_destinations
from latentgraph.diffusion.layouts.layout import unet_layout
from latentgraph.diffusion.networks.autoencoders import build_vae
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.sampling.run import sample
from latentgraph.diffusion.text.encoding import encode_prompt
from latentgraph.diffusion.types import Latent

from .networks import SD1

VAE = KLSpec(latent_channels=4, widths=(128, 256, 512, 512), encoder_blocks=2)
CLIP_WIDTH, CLIP_LAYERS, VOCABULARY, POSITIONS = 768, 12, 49408, 77
SIDE = 512
MEBI = 2**20


def write_checkpoint(path: Path) -> None:
    """Writes a checkpoint whose numbers are small, so that nothing overflows, and cheap to make."""
    bits = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).mul_(0.02).half()
    save_file({key: _filled(bits, shape) for key, shape in _shapes()}, path)


def _filled(draws: Tensor, shape: tuple[int, ...]) -> Tensor:
    count = torch.Size(shape).numel()
    return draws.repeat(-(-count // len(draws)))[:count].reshape(shape)


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    unet = unet_layout(SD1)
    for place in unet_destinations(SD1, unet):
        yield NETWORK_PREFIX + place.key, unet[place.names[0]]
    vae = {name: tuple(tensor.shape) for name, tensor in build_vae(VAE).state_dict().items()}
    for place in vae_destinations(VAE, vae):
        shape = vae[place.names[0]]
        yield f"first_stage_model.{place.key}", (*shape, 1, 1) if place.kernel else shape
    text = "cond_stage_model.transformer.text_model."
    yield f"{text}embeddings.token_embedding.weight", (VOCABULARY, CLIP_WIDTH)
    yield f"{text}embeddings.position_embedding.weight", (POSITIONS, CLIP_WIDTH)
    for n in range(CLIP_LAYERS):
        sizes = {f"self_attn.{name}_proj": (CLIP_WIDTH, CLIP_WIDTH) for name in ("q", "k", "v", "out")}
        sizes |= {"mlp.fc1": (4 * CLIP_WIDTH, CLIP_WIDTH), "mlp.fc2": (CLIP_WIDTH, 4 * CLIP_WIDTH)}
        for name, shape in sizes.items():
            yield f"{text}encoder.layers.{n}.{name}.weight", shape
            yield f"{text}encoder.layers.{n}.{name}.bias", shape[:1]
        for name in ("layer_norm1", "layer_norm2"):
            yield f"{text}encoder.layers.{n}.{name}.weight", (CLIP_WIDTH,)
            yield f"{text}encoder.layers.{n}.{name}.bias", (CLIP_WIDTH,)
    yield f"{text}final_layer_norm.weight", (CLIP_WIDTH,)
    yield f"{text}final_layer_norm.bias", (CLIP_WIDTH,)


def load(path: Path, precision: str) -> dict[str, float]:
    """Loads all of the checkpoint; the file is in the page cache."""
    checkpoint = _opened(path, precision)
    before, start, cpu = _peak(), time.perf_counter(), time.process_time()
    seconds = {}
    for name, handle in (("unet", checkpoint.model), ("text", checkpoint.clip), ("vae", checkpoint.vae)):
        began = time.perf_counter()
        assert handle is not None
        with handle.weights.use():
            seconds[f"{name}_seconds"] = time.perf_counter() - began
    total, cpu = time.perf_counter() - start, time.process_time() - cpu
    peaks = {"before": before, "peak": _peak(), "weights": _weights(checkpoint)}
    return {**peaks, "seconds": total, "cpu_seconds": cpu, **seconds}


def run(path: Path, precision: str) -> dict[str, float]:
    """Makes a picture in two steps, from the prompt to the pixels."""
    checkpoint = _opened(path, precision)
    assert checkpoint.clip is not None
    assert checkpoint.vae is not None
    before = _peak()
    positive, negative = (encode_prompt(checkpoint.clip, text).conditioning for text in ("a lighthouse", ""))
    latent = Latent(torch.zeros(1, 4, SIDE // 8, SIDE // 8))
    sampled = sample(
        checkpoint.model, positive, negative, latent,
        seed=0, steps=2, cfg=7.0, sampler="euler", scheduler="normal",
    )  # fmt: skip
    after_sampling = _peak()
    decode(checkpoint.vae, sampled)
    return {"before": before, "after_sampling": after_sampling, "peak": _peak(), "weights": _weights(checkpoint)}


def decode_only(path: Path, precision: str) -> dict[str, float]:
    """Decodes one picture, with nothing but the autoencoder in memory."""
    vae = _opened(path, precision).vae
    assert vae is not None
    with vae.weights.use():
        before = _peak()
    decode(vae, Latent(torch.zeros(1, 4, SIDE // 8, SIDE // 8)))
    return {"before": before, "peak": _peak(), "weights": vae.weights.memory.resident_bytes}


PHASES = {"load": load, "run": run, "decode": decode_only}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", default="bf16", help="as for `latentgraph run`")
    parser.add_argument("--phase", choices=PHASES, help="measure one thing, of the checkpoint of --file")
    parser.add_argument("--file", type=Path, help="a checkpoint that is there already")
    options = parser.parse_args()
    if options.phase:
        print(json.dumps(PHASES[options.phase](options.file, options.precision)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or Path(folder) / "sd15.safetensors"
        if options.file is None:
            write_checkpoint(path)
        _warm(path)
        found = {name: _measured(name, path, options.precision) for name in PHASES}
    _tell(found, path.name, options.precision)


def _tell(found: dict[str, dict[str, float]], name: str, precision: str) -> None:
    loaded, made, decoded = (found[phase] for phase in PHASES)
    weights, needed = made["weights"], decoded["peak"] - decoded["before"]
    print(f"{name} in {precision}, {SIDE}x{SIDE}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    parts = ", ".join(f"{part} {loaded[f'{part}_seconds']:.2f} s" for part in ("unet", "text", "vae"))
    print(f"load from a warm page cache: {loaded['seconds']:.2f} s ({parts}), {loaded['cpu_seconds']:.2f} s of a CPU")
    print(f"weights in memory: {weights / MEBI:.0f} MiB; one decode: {needed / MEBI:.0f} MiB")
    print(f"peak while loading: {loaded['peak'] / MEBI:.0f} MiB, {loaded['peak'] / weights:.2f} x the weights")
    print(f"peak of a run: {made['peak'] / MEBI:.0f} MiB, of which {made['before'] / MEBI:.0f} MiB before any weight")
    print(f"(peak of a run - one decode) / weights: {(made['peak'] - needed) / weights:.2f} x, to reach: 1.35 x")


def _measured(phase: str, path: Path, precision: str) -> dict[str, float]:
    program = [
        sys.executable,
        "-m",
        "benchmarks.memory",
        "--phase",
        phase,
        "--file",
        str(path),
        "--precision",
        precision,
    ]
    output = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    return figures


def _opened(path: Path, precision: str) -> Checkpoint:
    return open_checkpoint(path, WeightMemory(precision=precision))  # type: ignore[arg-type]  # it is checked there


def _weights(checkpoint: Checkpoint) -> float:
    return checkpoint.model.weights.memory.resident_bytes


def _peak() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line.split()[1] for line in status if line.startswith("VmHWM")))


def _warm(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


if __name__ == "__main__":
    main()
