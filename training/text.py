"""Captions to tokens of CLIP, and the few vocabulary rows that training touches.

A caption set uses a few thousand of CLIP's 49408 tokens. Training keeps one embedding row for each of those and one
for every other token; export writes the full table. Row 0 stands for all unseen tokens and is trained by word dropout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import CLIPTextConfig, CLIPTextModel

from latentgraph.diffusion.text.vocabularies import clip_ids

from .presets import TOKENS, DiffusionPreset

VOCABULARY = 49408  # CLIP: 2 x 256 bytes, 48894 merges, start, end
START, END = 49406, 49407  # the end token is also the padding
UNSEEN_ROW, START_ROW, END_ROW = 0, 1, 2


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


def tokenize(captions: list[str], length: int = TOKENS) -> torch.Tensor:
    """Returns CLIP ids (captions, length), cut or padded with the end token."""
    rows = [[START, *clip_ids(caption)[: length - 2], END] for caption in captions]
    return torch.tensor([row + [END] * (length - len(row)) for row in rows])


def build_text_encoder(preset: DiffusionPreset, rows: int) -> CLIPTextModel:
    """Returns a CLIP text model whose vocabulary is `rows` embedding rows."""
    config = CLIPTextConfig(
        vocab_size=rows, bos_token_id=START_ROW, eos_token_id=END_ROW, pad_token_id=END_ROW, **preset.text_arguments()
    )
    encoder: CLIPTextModel = CLIPTextModel(config)
    return encoder
