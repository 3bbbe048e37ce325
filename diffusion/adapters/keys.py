"""How adapter files name what they hold: the endings of their keys, their names for modules, the families they are for. Data.

An adapter's key is a name of a module and an ending that says what the tensor is to it. Every ending and every way to name
a module is a row here, so that another trainer or another family is a row more. Names as in the files of kohya's sd-scripts,
LyCORIS, diffusers and PEFT; ComfyUI 0.8.0 reads the same (behaviour).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

ENDINGS: dict[str, str] = {
    ".lora_up.weight": "up",  # kohya
    ".lora_down.weight": "down",
    ".lora_mid.weight": "mid",
    "_lora.up.weight": "up",  # diffusers' attention processors
    "_lora.down.weight": "down",
    ".lora_B.weight": "up",  # PEFT
    ".lora_A.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B": "up",
    ".lora_A": "down",
    ".up.weight": "up",  # XLabs' attention processors, whose modules have numbers
    ".down.weight": "down",
    ".lora.up.weight": "up",  # diffusers before PEFT
    ".lora.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".alpha": "alpha",
    ".dora_scale": "dora_scale",
    ".lora_magnitude_vector": "magnitude",  # PEFT's DoRA
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector.default.weight": "magnitude",
    ".reshape_weight": "reshape",
    ".hada_w1_a": "w1_a",  # LyCORIS
    ".hada_w1_b": "w1_b",
    ".hada_w2_a": "w2_a",
    ".hada_w2_b": "w2_b",
    ".hada_t1": "t1",
    ".hada_t2": "t2",
    ".lokr_w1": "k1",
    ".lokr_w1_a": "k1_a",
    ".lokr_w1_b": "k1_b",
    ".lokr_w2": "k2",
    ".lokr_w2_a": "k2_a",
    ".lokr_w2_b": "k2_b",
    ".lokr_t2": "k2_t",
    ".a1.weight": "a1",
    ".a2.weight": "a2",
    ".b1.weight": "b1",
    ".b2.weight": "b2",
    ".oft_blocks": "blocks",
    ".rescale": "rescale",
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".w_norm": "w_norm",
    ".b_norm": "b_norm",
    ".set_weight": "set_weight",
}
"""What a tensor is to its module, by the end of its key."""

_SCALING = frozenset({"alpha", "dora_scale", "magnitude"})


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of change to one tensor of a module. needs: the tensors that make it up, each set an alternative.

    takes: what it may have beside them. leaf: which of the module's tensors it changes.
    """

    name: str
    title: str
    needs: tuple[frozenset[str], ...]
    takes: frozenset[str] = frozenset()
    leaf: Literal["weight", "bias"] = "weight"

    def roles(self, present: frozenset[str]) -> frozenset[str] | None:
        """Returns which of a module's tensors belong to a change of this form, or None if it has none of this form."""
        whole = next((needed for needed in self.needs if needed <= present), None)
        return None if whole is None else present & (whole | self.takes)


def _one(*roles: str) -> tuple[frozenset[str], ...]:
    return (frozenset(roles),)


FORMS: tuple[Form, ...] = (
    Form("lora", "LoRA", _one("up", "down"), _SCALING | {"mid", "reshape"}),
    Form("loha", "LoHa", _one("w1_a", "w1_b", "w2_a", "w2_b"), _SCALING | {"t1", "t2"}),
    Form(
        "lokr",
        "LoKr",
        tuple(
            frozenset((*first, *second))
            for first in (("k1",), ("k1_a", "k1_b"))
            for second in (("k2",), ("k2_a", "k2_b"))
        ),
        _SCALING | {"k2_t"},
    ),
    Form("glora", "GLoRA", _one("a1", "a2", "b1", "b2"), _SCALING),
    Form("oft", "OFT", _one("blocks"), _SCALING | {"rescale"}),
    Form("add", "difference", _one("diff")),
    Form("add", "difference", _one("diff_b"), leaf="bias"),
    Form("add", "difference", _one("w_norm")),
    Form("add", "difference", _one("b_norm"), leaf="bias"),
    Form("set", "replacement", _one("set_weight")),
)
"""A module may have changes of several forms; they are made in this order."""

FACTORS = frozenset(role for form in FORMS for needed in form.needs for role in needed)
"""The roles of the tensors that make a change up; the others only add to one."""


@dataclass(frozen=True, slots=True)
class Naming:
    """One way to name a network's modules: a prefix, then the module's path.

    layout: whose path, diffusers' (and transformers') or that of the network's makers. flat: underscores for dots. processor:
    as diffusers' attention processors were called, before it knew PEFT. {key} in a prefix stands for the encoder's key.
    """

    prefix: str
    layout: Literal["ours", "makers"] = "ours"
    flat: bool = False
    processor: bool = False

    def name(self, path: str) -> str:
        """Returns the name of a module."""
        if self.processor:
            path = re.sub(r"\.to_out\.0\Z", ".to_out", path).replace(".to_", ".processor.to_")
            path = re.sub(r"\.self_attn\.(q|k|v|out)_proj\Z", r".self_attn.to_\1", path)
        return self.prefix + (path.replace(".", "_") if self.flat else path)


NETWORK_NAMINGS: tuple[Naming, ...] = (
    Naming("lora_unet_", "makers", flat=True),
    Naming("diffusion_model.", "makers"),
    Naming("lora_unet_", flat=True),
    Naming("lycoris_", flat=True),
    Naming("unet."),
    Naming("base_model.model."),
    Naming("unet.", processor=True),
    Naming("transformer."),
    Naming("transformer.", processor=True),
    Naming("lora_transformer_", flat=True),
    Naming("", processor=True),
    Naming(""),
    Naming("", "makers"),
)

TEXT_NAMINGS: tuple[tuple[Naming, ...], ...] = (
    (
        Naming("lora_te_", flat=True),
        Naming("lora_te1_", flat=True),
        Naming("text_encoder."),
        Naming("text_encoder.", processor=True),
        Naming("text_encoders.{key}.transformer."),
    ),
    (
        Naming("lora_te2_", flat=True),
        Naming("text_encoder_2."),
        Naming("text_encoder_2.", processor=True),
        Naming("text_encoders.{key}.transformer."),
    ),
    (
        Naming("lora_te3_", flat=True),
        Naming("text_encoder_3."),
        Naming("text_encoders.{key}.transformer."),
    ),
)
"""By the encoder's place among those of its family: an SDXL file's `te2` is CLIP-G, a refiner's `te` is."""

KEYED_NAMINGS: dict[str, tuple[Naming, ...]] = {"t5xxl": (Naming("lora_te3_", flat=True),)}
"""By the encoder, wherever it stands: kohya's trainer calls FLUX's T5 by its place, others as in SD3."""

TEXT_NAME = re.compile(r"lora_te\d?_|text_encoders?(_\d)?\.")
"""How the name of a text encoder's module begins, whatever the family."""

SECOND_TEXT_NAME = re.compile(r"lora_te[23]_|text_encoder_[23]\.|text_encoders\.(clip_g|t5xxl)\.")


@dataclass(frozen=True, slots=True)
class AdapterFamily:
    """What tells a family by an adapter's modules. name: that of its row in `FAMILIES`.

    markers: its network has such modules. lacks: it has no module of these. linear: its transformers' proj_in is a matrix.
    context, text: the usual widths of the text that its network attends to, and of its first encoder; they count only where
    the modules leave several families, and so does linear1: how many times as high as wide the first matrix of its single
    blocks is. encoders: how many text encoders it has.
    """

    name: str
    markers: re.Pattern[str]
    lacks: tuple[re.Pattern[str], ...] = field(default=())
    linear: bool | None = None
    context: int | None = None
    text: int | None = None
    linear1: int | None = None
    encoders: int = 1


_UNET = re.compile(
    r"(input|output|middle|down|up|mid)_blocks?[._]|time_embed|conv_(in|out|norm_out)\Z|(?<!to_)out[._]\d\Z"
)
_OUTER = re.compile(r"down_blocks[._]0[._]attentions[._]|input_blocks[._][12][._]1[._](proj|norm|transformer)")
_INNER = re.compile(r"up_blocks[._]0[._]attentions[._]|output_blocks[._][01][._]1[._](proj|norm|transformer)")
_DEEP = re.compile(r"transformer_blocks[._][1-9]")
_DOUBLE = re.compile(r"double_blocks[._]|single_blocks[._]|single_transformer_blocks[._]")
_FLUX1 = re.compile(
    r"(img|txt)_mod[._]|[._]modulation[._]lin|proj_mlp|[._]ff(_context)?[._]net[._]|[._]norm1?(_context)?[._]linear"
    r"|[._]processor[._](qkv|proj)"  # XLabs'
)
_FLUX2 = re.compile(r"to_qkv_mlp_proj|[._]linear_(in|out)\Z|_stream_modulation")
_JOINT = re.compile(r"joint_blocks[._]|(transformer|base_model\.model)[._]transformer_blocks[._]")

ADAPTER_FAMILIES: tuple[AdapterFamily, ...] = (
    AdapterFamily("sd1", _UNET, lacks=(_DEEP, _INNER), linear=False, context=768, text=768),
    AdapterFamily("sd2", _UNET, lacks=(_DEEP, _INNER), linear=True, context=1024, text=1024),
    AdapterFamily("sdxl", _UNET, lacks=(_OUTER,), linear=True, context=2048, text=768, encoders=2),
    AdapterFamily("flux", _DOUBLE, lacks=(_FLUX2,), text=768, linear1=7, encoders=2),
    AdapterFamily("flux2", _DOUBLE, lacks=(_FLUX1,), linear1=9),
    AdapterFamily("sd3", _JOINT, lacks=(_DOUBLE,), text=768, encoders=3),
)
