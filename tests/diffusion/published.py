"""Published model files as lists of names, shapes and number formats at true size, from which headers without values are made.

Nothing here is made by the code that is tested. The UNets, KL and VQ autoencoders and CLIP models are those of `tiny`, with
the names of the original implementations (CompVis/latent-diffusion, Stability-AI/stablediffusion and generative-models,
mlfoundations/open_clip, lllyasviel/ControlNet); transformers and language models are stated below, each with its source. All
were compared, name by name and shape by shape, with the modules of these implementations on torch's meta device.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

Shapes = dict[str, tuple[int, ...]]

BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "U8": 1, "I8": 1, "I32": 4, "I64": 8}


def write(
    path: Path, shapes: Mapping[str, tuple[int, ...]], format: str = "F16", formats: Mapping[str, str] | None = None
) -> Path:
    """Writes a file whose values are a hole in the disk; formats: of the keys that differ from the others."""
    header, end = {}, 0
    for key, shape in shapes.items():
        dtype = (formats or {}).get(key, format)
        begin, end = end, end + prod(shape) * BYTES[dtype]
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def below(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Returns the shapes with a prefix before each key."""
    return {prefix + key: shape for key, shape in shapes.items()}


def averaged(unet: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Returns the averaged copy that a training run keeps of its UNet (latent-diffusion, ldm/modules/ema.py)."""
    copies = {f"model_ema.diffusion_model{key.replace('.', '')}": shape for key, shape in unet.items()}
    return {"model_ema.decay": (), "model_ema.num_updates": (), **copies}


def schedule() -> Shapes:
    """Returns what a model of latent diffusion keeps of its noise levels (ldm/models/diffusion/ddpm.py, register_schedule)."""
    names = """betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod
               log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod posterior_variance
               posterior_log_variance_clipped posterior_mean_coef1 posterior_mean_coef2"""
    return dict.fromkeys(names.split(), (1000,))


def scaled(
    shapes: Mapping[str, tuple[int, ...]],
    inside: str,
    *,
    scale: str,
    beside: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[Shapes, dict[str, str]]:
    """Returns a file's shapes and formats where the matrices with a word in their names are float8, with a scale each.

    beside: what else each of them has, by name.
    """
    tensors, formats = dict(shapes), {}
    for key, shape in shapes.items():
        if key.endswith(".weight") and len(shape) == 2 and inside in key:
            stem = key.removesuffix("weight")
            formats |= {key: "F8_E4M3", stem + scale: "F32"}
            tensors |= {stem + scale: (), **{stem + name: size for name, size in (beside or {}).items()}}
    return tensors, formats


def mmdit(width: int, depth: int, *, side: int, norms: bool = False, dual: int = 0) -> Shapes:
    """Stability-AI/sd3.5, mmditx.py. side: of the table of positions; dual: how many blocks attend to the picture alone too."""
    shapes = {
        **_linear("context_embedder", width, 4096),
        **_linear("final_layer.adaLN_modulation.1", 2 * width, width),
        **_linear("final_layer.linear", 64, width),
        "pos_embed": (1, side * side, width),
        **_linear("[t|y]_embedder.mlp.2", width, width),
        **_linear("t_embedder.mlp.0", width, 256),
        **_linear("y_embedder.mlp.0", width, 2048),
        "x_embedder.proj.weight": (width, 16, 2, 2),
        "x_embedder.proj.bias": (width,),
        **_linear(f"joint_blocks.[0-{depth - 1}].[context|x]_block.attn.qkv", 3 * width, width),
    }
    last = depth - 1
    for blocks in (f"joint_blocks.[0-{last}].x_block", f"joint_blocks.[0-{last - 1}].context_block"):
        shapes |= _linear(f"{blocks}.adaLN_modulation.1", 6 * width, width)
        shapes |= _linear(f"{blocks}.attn.proj", width, width)
        shapes |= _linear(f"{blocks}.mlp.fc1", 4 * width, width) | _linear(f"{blocks}.mlp.fc2", width, 4 * width)
    shapes |= _linear(f"joint_blocks.{last}.context_block.adaLN_modulation.1", 2 * width, width)
    if norms:
        shapes |= _each(f"joint_blocks.[0-{last}].[context|x]_block.attn.[ln_q|ln_k].weight", 64)
    if dual:
        blocks = f"joint_blocks.[0-{dual - 1}].x_block"
        shapes |= _linear(f"{blocks}.adaLN_modulation.1", 9 * width, width)
        shapes |= _linear(f"{blocks}.attn2.qkv", 3 * width, width) | _linear(f"{blocks}.attn2.proj", width, width)
        shapes |= _each(f"{blocks}.attn2.[ln_q|ln_k].weight", 64)
    return shapes


def flux(*, channels: int = 64, guidance: bool = True) -> Shapes:
    """black-forest-labs/flux, src/flux/model.py and util.py."""
    width, double, single = 3072, "double_blocks.[0-18]", "single_blocks.[0-37]"
    embedders = "[time|vector|guidance]_in" if guidance else "[time|vector]_in"
    return {
        **_linear("img_in", width, channels),
        **_linear("txt_in", width, 4096),
        **_linear(f"{embedders}.in_layer", width, 256),
        **_linear(f"{embedders}.out_layer", width, width),
        **_linear("vector_in.in_layer", width, 768),
        **_linear(f"{double}.[img|txt]_mod.lin", 6 * width, width),
        **_linear(f"{double}.[img|txt]_attn.qkv", 3 * width, width),
        **_linear(f"{double}.[img|txt]_attn.proj", width, width),
        **_each(f"{double}.[img|txt]_attn.norm.[query|key]_norm.scale", 128),
        **_linear(f"{double}.[img|txt]_mlp.0", 4 * width, width),
        **_linear(f"{double}.[img|txt]_mlp.2", width, 4 * width),
        **_linear(f"{single}.linear1", 7 * width, width),
        **_linear(f"{single}.linear2", width, 5 * width),
        **_each(f"{single}.norm.[query|key]_norm.scale", 128),
        **_linear(f"{single}.modulation.lin", 3 * width, width),
        **_linear("final_layer.linear", 64, width),
        **_linear("final_layer.adaLN_modulation.1", 2 * width, width),
    }


def flux2(width: int, double: int, single: int, context: int, *, guidance: bool) -> Shapes:
    """black-forest-labs/flux2, src/flux2/model.py (dev; klein has the same names, without guidance)."""
    doubles, singles = f"double_blocks.[0-{double - 1}]", f"single_blocks.[0-{single - 1}]"
    embedders = "[time|guidance]_in" if guidance else "time_in"
    return {
        **_each("img_in.weight", width, 128),
        **_each("txt_in.weight", width, context),
        **_each(f"{embedders}.in_layer.weight", width, 256),
        **_each(f"{embedders}.out_layer.weight", width, width),
        **_each("double_stream_modulation_[img|txt].lin.weight", 6 * width, width),
        **_each("single_stream_modulation.lin.weight", 3 * width, width),
        **_each(f"{doubles}.[img|txt]_attn.qkv.weight", 3 * width, width),
        **_each(f"{doubles}.[img|txt]_attn.proj.weight", width, width),
        **_each(f"{doubles}.[img|txt]_attn.norm.[query|key]_norm.scale", 128),
        **_each(f"{doubles}.[img|txt]_mlp.0.weight", 6 * width, width),
        **_each(f"{doubles}.[img|txt]_mlp.2.weight", width, 3 * width),
        **_each(f"{singles}.linear1.weight", 9 * width, width),
        **_each(f"{singles}.linear2.weight", width, 4 * width),
        **_each(f"{singles}.norm.[query|key]_norm.scale", 128),
        **_each("final_layer.linear.weight", 128, width),
        **_each("final_layer.adaLN_modulation.1.weight", 2 * width, width),
    }


def flux2_vae(kl: Mapping[str, tuple[int, ...]]) -> Shapes:
    """black-forest-labs/flux2, src/flux2/autoencoder.py: an LDM autoencoder with moved quant convolutions, and statistics."""
    moved = {"quant_conv": "encoder.quant_conv", "post_quant_conv": "decoder.post_quant_conv"}
    names = {key: ".".join((moved.get(stem, stem), leaf)) for key in kl for stem, _, leaf in [key.rpartition(".")]}
    statistics = {"bn.running_mean": (128,), "bn.running_var": (128,), "bn.num_batches_tracked": ()}
    return {names[key]: shape for key, shape in kl.items()} | statistics


def t5_xxl(*, tokens: str = "shared.weight") -> Shapes:
    """google/t5-v1_1-xxl's encoder in transformers' names, as comfyanonymous/flux_text_encoders and SD3's files have it."""
    layer, wide, attention = "encoder.block.[0-23].layer", 10240, "0.SelfAttention"
    return {
        tokens: (32128, 4096),
        **_each(f"{layer}.{attention}.[q|k|v|o].weight", 4096, 4096),
        f"encoder.block.0.layer.{attention}.relative_attention_bias.weight": (32, 64),
        **_each(f"{layer}.[0|1].layer_norm.weight", 4096),
        **_each(f"{layer}.1.DenseReluDense.[wi_0|wi_1].weight", wide, 4096),
        **_each(f"{layer}.1.DenseReluDense.wo.weight", 4096, wide),
        "encoder.final_layer_norm.weight": (4096,),
    }


def language_model(hidden: int, layers: int, inner: int, words: int, *, query_norm: bool, whole: bool = True) -> Shapes:
    """Mistral Small 3 and Qwen3 in transformers' names, 32 heads of queries, 8 of keys. whole: with what predicts words."""
    layer = f"model.layers.[0-{layers - 1}]"
    return {
        "model.embed_tokens.weight": (words, hidden),
        **_each(f"{layer}.self_attn.q_proj.weight", 4096, hidden),
        **_each(f"{layer}.self_attn.[k_proj|v_proj].weight", 1024, hidden),
        **_each(f"{layer}.self_attn.o_proj.weight", hidden, 4096),
        **(_each(f"{layer}.self_attn.[q_norm|k_norm].weight", 128) if query_norm else {}),
        **_each(f"{layer}.mlp.[gate|up]_proj.weight", inner, hidden),
        **_each(f"{layer}.mlp.down_proj.weight", hidden, inner),
        **_each(f"{layer}.[input_layernorm|post_attention_layernorm].weight", hidden),
        **({"model.norm.weight": (hidden,), "lm_head.weight": (words, hidden)} if whole else {}),
    }


def bert(width: int = 1280, words: int = 30522, positions: int = 77, layers: int = 32) -> Shapes:
    """CompVis/latent-diffusion, ldm/modules/x_transformer.py as text2img-large has it: layers of two parts, 8 heads of 64."""
    parts = 2 * layers
    attention, feed_forward = (f"attn_layers.layers.[{'|'.join(map(str, range(n, parts, 2)))}]" for n in (0, 1))
    return {
        "token_emb.weight": (words, width),
        "pos_emb.emb.weight": (positions, width),
        **_each(f"attn_layers.layers.[0-{parts - 1}].0.[weight|bias]", width),
        **_each(f"{attention}.1.to_[q|k|v].weight", 512, width),
        **_linear(f"{attention}.1.to_out", width, 512),
        **_linear(f"{feed_forward}.1.net.0.0", 4 * width, width),
        **_linear(f"{feed_forward}.1.net.2", width, 4 * width),
        **_each("norm.[weight|bias]", width),
        **_linear("to_logits", words, width),
    }


def _linear(names: str, out: int, into: int) -> Shapes:
    return {**_each(f"{names}.weight", out, into), **_each(f"{names}.bias", out)}


def _each(names: str, *shape: int) -> Shapes:
    return dict.fromkeys(_spelt_out(names), shape)


def _spelt_out(names: str) -> Iterator[str]:
    """Yields the names that a pattern stands for: [0-3] are numbers, [a|b] words."""
    match = re.search(r"\[([^]]+)\]", names)
    if match is None:
        yield names
        return
    first, dash, last = match[1].partition("-")
    words = map(str, range(int(first), int(last) + 1)) if dash else match[1].split("|")
    for word in words:
        yield from _spelt_out(names[: match.start()] + word + names[match.end() :])
