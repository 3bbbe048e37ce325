"""The text encoders of each family, as data: where its files keep them, what shapes do not tell, how they are joined."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from .text_joins import Slot, TextJoin, side_by_side
from .text_specs import CLIP_END, Activation, Dialogue, EncoderKey


@dataclass(frozen=True, slots=True)
class ClipReading:
    """The fields of `ClipTextSpec` that shapes do not tell.

    folder_default_layer: the default layer in a diffusers folder, where the layers behind it may have been cut off.
    """

    activation: Activation
    pad_id: int
    default_layer: int
    folder_default_layer: int
    final_norm_on_hidden: bool
    pooled: Literal["state", "projected"] | None


@dataclass(frozen=True, slots=True)
class T5Reading:
    """The fields of `T5Spec` that shapes do not tell."""

    least: int


@dataclass(frozen=True, slots=True)
class BertReading:
    """Shapes tell all of `BertSpec`."""


@dataclass(frozen=True, slots=True)
class ClassReading:
    """Shapes tell all of `ClassSpec`."""


@dataclass(frozen=True, slots=True)
class SegmentReading:
    """Shapes tell all of `SegmentSpec`."""


@dataclass(frozen=True, slots=True)
class DecoderReading:
    """The fields of `DecoderSpec` that shapes do not tell. head_width: where no norm of queries tells it."""

    read: tuple[int, ...]
    rope_base: float
    epsilon: float
    dialogue: Dialogue
    head_width: int = 128


@dataclass(frozen=True, slots=True)
class TextEncoderLayout:
    """Where a family keeps a text encoder: one of `prefixes` in a single file, `folder` in a diffusers folder."""

    key: EncoderKey
    prefixes: tuple[str, ...]
    folder: str
    reading: ClipReading | T5Reading | BertReading | ClassReading | SegmentReading | DecoderReading


@dataclass(frozen=True, slots=True)
class TextSet:
    """The text encoders of a family, in its order. title: for messages."""

    family: str
    title: str
    encoders: tuple[TextEncoderLayout, ...]
    join: TextJoin


_LAST_L = ClipReading(  # SD1 and FLUX read CLIP-L's last layer
    activation="quick_gelu",
    pad_id=CLIP_END,
    default_layer=-1,
    folder_default_layer=-1,
    final_norm_on_hidden=True,
    pooled="state",
)
_INNER_L = replace(_LAST_L, default_layer=-2, folder_default_layer=-2, final_norm_on_hidden=False)
_INNER_G = ClipReading(
    activation="gelu",
    pad_id=0,
    default_layer=-2,
    folder_default_layer=-2,
    final_norm_on_hidden=False,
    pooled="projected",
)

SD1_TEXT = TextSet(
    "sd1",
    "Stable Diffusion 1.x",
    (TextEncoderLayout("clip_l", ("cond_stage_model.transformer.",), "text_encoder", _LAST_L),),
    side_by_side(Slot("clip_l", 768, 768)),
)
SD2_TEXT = TextSet(
    "sd2",
    "Stable Diffusion 2.x",
    (
        TextEncoderLayout(
            "clip_h",
            ("cond_stage_model.model.", "conditioner.embedders.0.model."),
            "text_encoder",
            replace(_INNER_G, folder_default_layer=-1, final_norm_on_hidden=True),
        ),
    ),
    side_by_side(Slot("clip_h", 1024, 1024)),
)
SDXL_TEXT = TextSet(
    "sdxl",
    "Stable Diffusion XL",
    (
        TextEncoderLayout(
            "clip_l", ("conditioner.embedders.0.transformer.",), "text_encoder", replace(_INNER_L, pooled=None)
        ),
        TextEncoderLayout("clip_g", ("conditioner.embedders.1.model.",), "text_encoder_2", _INNER_G),
    ),
    side_by_side(Slot("clip_l", 768), Slot("clip_g", 1280, 1280)),
)
REFINER_TEXT = TextSet(
    "sdxl-refiner",
    "Stable Diffusion XL refiner",
    (TextEncoderLayout("clip_g", ("conditioner.embedders.0.model.",), "text_encoder_2", _INNER_G),),
    side_by_side(Slot("clip_g", 1280, 1280)),
)
SD3_TEXT = TextSet(
    "sd3",
    "Stable Diffusion 3",
    (
        TextEncoderLayout("clip_l", ("text_encoders.clip_l.transformer.",), "text_encoder", _INNER_L),
        TextEncoderLayout("clip_g", ("text_encoders.clip_g.transformer.",), "text_encoder_2", _INNER_G),
        TextEncoderLayout("t5xxl", ("text_encoders.t5xxl.transformer.",), "text_encoder_3", T5Reading(least=77)),
    ),
    TextJoin(
        (Slot("clip_l", 768, 768), Slot("clip_g", 1280, 1280), Slot("t5xxl", 4096)),
        (("clip_l", "clip_g"), ("t5xxl",)),
        pooled=("clip_l", "clip_g"),
        optional=True,
    ),
)
FLUX_TEXT = TextSet(
    "flux",
    "FLUX.1",
    (
        TextEncoderLayout("clip_l", ("text_encoders.clip_l.transformer.",), "text_encoder", _LAST_L),
        TextEncoderLayout("t5xxl", ("text_encoders.t5xxl.transformer.",), "text_encoder_2", T5Reading(least=256)),
    ),
    TextJoin((Slot("clip_l", 768, 768), Slot("t5xxl", 4096)), (("t5xxl",),), pooled=("clip_l",)),
)
LDM_TEXT = TextSet(
    "ldm",
    "latent diffusion",
    (TextEncoderLayout("bert", ("cond_stage_model.transformer.",), "bert", BertReading()),),
    side_by_side(Slot("bert", 1280)),
)
CLASSES = TextSet(
    "ldm-class",
    "latent diffusion of classes",
    (TextEncoderLayout("classes", ("cond_stage_model.",), "", ClassReading()),),
    side_by_side(Slot("classes", 512)),
)
SEGMENTS = TextSet(
    "ldm-segments",
    "latent diffusion of segments",
    (TextEncoderLayout("segments", ("cond_stage_model.",), "", SegmentReading()),),
    side_by_side(Slot("segments", 0)),
)
# FLUX.2's prompts are put into a dialogue; layers and words as in diffusers' Flux2Pipeline and Flux2KleinPipeline.
_FLUX2_SYSTEM = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object relationships, "
    "object\nattribution and actions without speculation."
)
FLUX2_TEXT = TextSet(
    "flux2",
    "FLUX.2 dev",
    (
        TextEncoderLayout(
            "mistral",
            (),
            "text_encoder",
            DecoderReading(
                read=(10, 20, 30),
                rope_base=1e9,
                epsilon=1e-5,
                dialogue=Dialogue(
                    before=f"<s>[SYSTEM_PROMPT]{_FLUX2_SYSTEM}[/SYSTEM_PROMPT][INST]",
                    after="[/INST]",
                    pad=11,  # <pad>
                    pad_left=True,
                ),
            ),
        ),
    ),
    side_by_side(Slot("mistral", 15360)),
)
KLEIN_TEXT = TextSet(
    "flux2",
    "FLUX.2 klein",
    (
        TextEncoderLayout(
            "qwen3",
            (),
            "text_encoder",
            DecoderReading(
                read=(9, 18, 27),
                rope_base=1e6,
                epsilon=1e-6,
                dialogue=Dialogue(
                    before="<|im_start|>user\n",
                    after="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
                    pad=151643,  # <|endoftext|>
                    pad_left=False,
                ),
            ),
        ),
    ),
    side_by_side(Slot("qwen3", 7680)),
)
NO_TEXT = TextSet("none", "no text", (), TextJoin((), ((),)))
"""Of a family that is told nothing in words."""

TEXT_SETS = (SD1_TEXT, SD2_TEXT, SDXL_TEXT, REFINER_TEXT, SD3_TEXT, FLUX_TEXT, LDM_TEXT, FLUX2_TEXT, KLEIN_TEXT)
