"""Takes an exported checkpoint back into a work folder, so that training can go on from what is shipped.

The states have no optimizer moments and count their steps from 0. The autoencoder's latents come back with unit std.

    python -m training.adopt --work WORK --model models/emoji.safetensors
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from torch import nn

from .autoencoder import state_path as autoencoder_path
from .diffusion import TextToNoise
from .diffusion import state_path as diffusion_path
from .export import fold_scale
from .loop import Training, log
from .measure import load_model, presets_of
from .presets import DIFFUSIONS, LATENT_CHANNELS, LATENT_SCALE
from .text import END, START, VOCABULARY, Vocabulary


def vocabulary_of(table: torch.Tensor) -> Vocabulary:
    """Returns the tokens with a row of their own in a (49408, width) table; all others share the most frequent row."""
    rows, owner, counts = torch.unique(table, dim=0, return_inverse=True, return_counts=True)
    shared = int(counts.argmax())
    own = [i for i in (owner != shared).nonzero().flatten().tolist() if i not in (START, END)]
    if len(rows) == VOCABULARY:
        raise ValueError("every token has a row of its own; only a file that training.export wrote can be taken back")
    return Vocabulary(torch.tensor([-1, START, END, *own]))


def adopt(work: Path, path: Path) -> None:
    """Writes the states of both trainings from an exported file, as if they had just been saved."""
    diffusion, autoencoder = presets_of(path)
    model = load_model(path, torch.device("cpu"))
    fold_scale(model.autoencoder, torch.zeros(LATENT_CHANNELS), torch.full((LATENT_CHANNELS,), LATENT_SCALE**-2))
    _save(model.autoencoder, autoencoder_path(work, autoencoder))
    table = model.text.get_input_embeddings().weight
    vocabulary = vocabulary_of(table)
    shared = next(i for i in range(VOCABULARY) if i not in set(vocabulary.ids.tolist()))
    network = TextToNoise(DIFFUSIONS[diffusion], len(vocabulary.ids))
    network.unet.load_state_dict(model.unet.state_dict())
    kept = table[[shared, *vocabulary.ids[1:].tolist()]]
    embeddings = nn.Embedding(len(kept), kept.shape[1])
    embeddings.load_state_dict({"weight": kept})
    model.text.set_input_embeddings(embeddings)
    network.text.load_state_dict(model.text.state_dict())
    unit = {"mean": torch.zeros(LATENT_CHANNELS), "std": torch.ones(LATENT_CHANNELS)}
    _save(network, diffusion_path(work, diffusion), {"vocabulary": vocabulary.ids, **unit})
    log("%s: %s and %s, %d tokens with rows of their own", path, diffusion, autoencoder, len(vocabulary.ids) - 1)


def _save(network: nn.Module, path: Path, extra: dict[str, torch.Tensor] | None = None) -> None:
    Training(network, decay=0.0).save(path, minutes=0.0, extra=extra)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder to write the states to")
    parser.add_argument("--model", type=Path, required=True, help="exported .safetensors file")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    adopt(args.work, args.model)


if __name__ == "__main__":
    main()
