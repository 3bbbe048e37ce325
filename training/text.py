"""Captions to tokens: CLIP's tokenizer rebuilt from its merges, and the few vocabulary rows that training touches.

A caption set uses a few thousand of CLIP's 49408 tokens. Training keeps one embedding row for each of those and one
for every other token; export writes the full table. Row 0 stands for all unseen tokens and is trained by word dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .presets import TOKENS, DiffusionPreset

MERGES = Path(__file__).parent.parent / "diffusion" / "clip_merges.txt"
VOCABULARY = 49408  # CLIP: 2 x 256 bytes, 48894 merges, start, end
START, END = 49406, 49407  # the end token is also the padding
UNSEEN_ROW, START_ROW, END_ROW = 0, 1, 2


def load_tokenizer(merges: Path = MERGES) -> CLIPTokenizer:
    """Returns CLIP's tokenizer; ids follow from the order of bytes and merges (openai/CLIP, simple_tokenizer.py)."""
    lines = merges.read_text(encoding="utf-8").split("\n")[1:]
    pairs = [(first, second) for first, _, second in (line.partition(" ") for line in lines if line)]
    alphabet = _byte_alphabet()
    words = [*alphabet, *(a + "</w>" for a in alphabet), *(a + b for a, b in pairs)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    if len(words) != VOCABULARY:
        raise ValueError(f"{merges}: gives {len(words)} tokens, expected {VOCABULARY}; is the file whole?")
    tokenizer: CLIPTokenizer = CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=pairs, pad_token="<|endoftext|>"
    )
    return tokenizer


def _byte_alphabet() -> list[str]:
    """Returns CLIP's 256 printable stand-ins for bytes, in the order of its vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


@dataclass(frozen=True)
class Vocabulary:
    """The tokens with a row of their own: `ids` (rows,) gives the CLIP id of each row; row 0 has none (-1)."""

    ids: torch.Tensor

    @staticmethod
    def of(token_ids: torch.Tensor) -> Vocabulary:
        used = [i for i in torch.unique(token_ids).tolist() if i not in (START, END)]
        return Vocabulary(torch.tensor([-1, START, END, *used]))

    def rows(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Returns embedding rows for CLIP ids of any shape; unseen ids give `UNSEEN_ROW`."""
        table = torch.full((VOCABULARY,), UNSEEN_ROW)
        table[self.ids[1:]] = torch.arange(1, len(self.ids))
        return table[token_ids]

    def expand(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns the (49408, width) embedding table from the trained (rows, width) one."""
        table = rows[UNSEEN_ROW].repeat(VOCABULARY, 1)
        table[self.ids[1:]] = rows[1:]
        return table


def tokenize(tokenizer: CLIPTokenizer, captions: list[str], length: int = TOKENS) -> torch.Tensor:
    """Returns CLIP ids (captions, length), cut or padded with the end token."""
    encoded = tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids: torch.Tensor = encoded["input_ids"]
    return ids


def build_text_encoder(preset: DiffusionPreset, rows: int) -> CLIPTextModel:
    """Returns a CLIP text model whose vocabulary is `rows` embedding rows."""
    config = CLIPTextConfig(
        vocab_size=rows, bos_token_id=START_ROW, eos_token_id=END_ROW, pad_token_id=END_ROW, **preset.text_arguments()
    )
    encoder: CLIPTextModel = CLIPTextModel(config)
    return encoder
