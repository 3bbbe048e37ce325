"""Adapters laid on networks: the same network as from a checkpoint that has the products added, and one copy of the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.checkpoints.opening import Checkpoint, open_checkpoint
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.networks.blending import Blend, difference, mix, mix_blocks, sum_of_both
from latentgraph.diffusion.networks.derived import DerivedSource
from latentgraph.diffusion.networks.faults import NonFiniteError
from latentgraph.diffusion.networks.memory import MemoryBudgetError, WeightMemory
from latentgraph.diffusion.networks.variants import AdapterMismatchError, MergeError, adapt, merge
from latentgraph.diffusion.types import Clip


@pytest.fixture
def memory() -> WeightMemory:
    return WeightMemory(precision="exact", budget_bytes=1 << 30)


@pytest.fixture(scope="module")
def loras(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """LoRAs of whole networks, in float16 as most are, and one of the attention alone."""
    folder = tmp_path_factory.mktemp("loras")
    attention = tiny.kohya_lora(tiny.attention_of(tiny.unet_shapes(tiny.SD1)), "lora_unet_", rank=3, alpha=None)
    return {
        "sd1": tiny.write(folder / "sd1.safetensors", tiny.sd1_lora()),
        "sdxl": tiny.write(folder / "sdxl.safetensors", tiny.sdxl_lora()),
        "attention": tiny.write(folder / "attention.safetensors", attention),
    }


def clip_of(opened: Checkpoint) -> Clip:
    assert opened.clip is not None
    return opened.clip


def tensors_of(handle: Model | Clip) -> dict[str, Tensor]:
    with handle.weights.use() as network:
        networks = network if isinstance(network, dict) else {"unet": network}
        return {f"{key}.{name}": w.clone() for key, net in networks.items() for name, w in net.state_dict().items()}


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [key for key, w in found.items() if not torch.equal(w, expected[key])] == []


def with_products(checkpoint: Path, lora: Path, names: Mapping[str, str], strength: float, into: Path) -> Path:
    """Writes a checkpoint with the products of a LoRA added to its tensors. names: prefixes of modules, and of tensors."""
    tensors = {key: w.float() for key, w in load_file(checkpoint).items()}
    factors = {key: w.float() for key, w in load_file(lora).items()}
    changed = 0
    for key, w in tensors.items():
        for theirs, ours in names.items():
            name = theirs + key.removeprefix(ours).removesuffix(".weight").replace(".", "_")
            if key.startswith(ours) and f"{name}.lora_up.weight" in factors:
                up, down = factors[f"{name}.lora_up.weight"], factors[f"{name}.lora_down.weight"]
                scale = strength * (factors[f"{name}.alpha"].item() / len(down) if f"{name}.alpha" in factors else 1.0)
                tensors[key] = w + scale * (up.flatten(1) @ down.flatten(1)).reshape(w.shape)
                changed += 1
    assert changed == sum(key.endswith("lora_up.weight") for key in factors)
    save_file(tensors, into)
    return into


def test_a_lora_gives_the_network_of_a_checkpoint_with_its_products_added(
    tiny: ModuleType, tiny_sd1: Path, loras: dict[str, Path], memory: WeightMemory, tmp_path: Path
) -> None:
    opened = open_checkpoint(tiny_sd1, memory)
    adapted, text = adapt(opened.model, loras["sd1"], strength=0.75), adapt(clip_of(opened), loras["sd1"], strength=0.5)
    assert adapted.unused == text.unused == ()
    names = {"lora_unet_": tiny.UNET}
    model = open_checkpoint(merge_part(tiny_sd1, loras["sd1"], names, 0.75, tmp_path / "model.safetensors"), memory)
    assert_same(tensors_of(adapted.handle), tensors_of(model.model))
    names = {"lora_te_text_model_": tiny.SD1_TEXT}
    clip = open_checkpoint(merge_part(tiny_sd1, loras["sd1"], names, 0.5, tmp_path / "clip.safetensors"), memory)
    assert_same(tensors_of(text.handle), tensors_of(clip_of(clip)))


def merge_part(checkpoint: Path, lora: Path, names: Mapping[str, str], strength: float, into: Path) -> Path:
    """Merges what of a LoRA has one of these prefixes."""
    part = into.with_suffix(".part.safetensors")
    save_file({key: w for key, w in load_file(lora).items() if key.startswith(tuple(names))}, part)
    return with_products(checkpoint, part, names, strength, into)


def test_both_of_sdxls_text_encoders_are_patched(
    tiny: ModuleType, tiny_sdxl: Path, loras: dict[str, Path], memory: WeightMemory, tmp_path: Path
) -> None:
    opened = open_checkpoint(tiny_sdxl, memory)
    clip = clip_of(opened)
    before, after = tensors_of(clip), tensors_of(adapt(clip, loras["sdxl"]).handle)
    changed = {key for key, w in after.items() if not torch.equal(w, before[key])}
    matrices = {key for key, w in before.items() if w.ndim == 2 and "embedding" not in key and "projection" not in key}
    assert changed == matrices
    names = {"lora_unet_": tiny.UNET}
    model = open_checkpoint(merge_part(tiny_sdxl, loras["sdxl"], names, 1.0, tmp_path / "model.safetensors"), memory)
    assert_same(tensors_of(adapt(opened.model, loras["sdxl"]).handle), tensors_of(model.model))


def test_patched_text_weights_are_rounded_as_the_base_was(
    tiny_sd1: Path, loras: dict[str, Path], memory: WeightMemory
) -> None:
    opened = open_checkpoint(tiny_sd1, memory)
    for w in tensors_of(adapt(clip_of(opened), loras["sd1"], strength=0.3).handle).values():
        assert w.dtype != torch.float32 or torch.equal(w, w.half().float())


def test_stacked_adapters_are_laid_on_in_their_order(
    tiny_sd1: Path, loras: dict[str, Path], tiny: ModuleType, memory: WeightMemory, tmp_path: Path
) -> None:
    opened = open_checkpoint(tiny_sd1, memory)
    once = adapt(opened.model, loras["attention"], strength=0.5).handle
    twice = adapt(once, loras["sd1"], strength=-0.25).handle
    names = {"lora_unet_": tiny.UNET}
    first = merge_part(tiny_sd1, loras["attention"], names, 0.5, tmp_path / "first.safetensors")
    second = merge_part(first, loras["sd1"], names, -0.25, tmp_path / "second.safetensors")
    assert_same(tensors_of(twice), tensors_of(open_checkpoint(second, memory).model))
    assert twice.weights.source.title == (
        "the UNet of sd1.safetensors with attention.safetensors at 0.5, sd1.safetensors at -0.25"
    )


def test_two_adapters_on_one_checkpoint_share_what_they_do_not_change(
    tiny_sd1: Path, loras: dict[str, Path], memory: WeightMemory
) -> None:
    opened = open_checkpoint(tiny_sd1, memory)
    one, other = (adapt(opened.model, loras["attention"], strength=s).handle for s in (1.0, 0.5))
    with opened.model.weights.use() as base, one.weights.use() as first, other.weights.use() as second:
        before = base.state_dict()
        patched = [key for key, w in first.state_dict().items() if w.data_ptr() != before[key].data_ptr()]
        assert patched == [key for key in before if "attn" in key and key.endswith("weight")]
        assert [key for key, w in second.state_dict().items() if w.data_ptr() != before[key].data_ptr()] == patched
        own = sum(before[key].nbytes for key in patched)
        whole = sum(w.nbytes for w in before.values())
        assert memory.resident_bytes == whole + 2 * own
        assert not any(w.requires_grad for w in first.parameters())
    memory.evict_unused()
    assert memory.resident_bytes == 0


def test_the_base_is_not_changed(tiny_sd1: Path, loras: dict[str, Path], memory: WeightMemory) -> None:
    opened = open_checkpoint(tiny_sd1, memory)
    before = tensors_of(opened.model)
    tensors_of(adapt(opened.model, loras["sd1"]).handle)
    assert_same(tensors_of(opened.model), before)


def test_a_combination_is_made_once(tiny_sd1: Path, loras: dict[str, Path], memory: WeightMemory) -> None:
    opened, again = open_checkpoint(tiny_sd1, memory), open_checkpoint(tiny_sd1, memory)
    one, other = (adapt(found.model, loras["sd1"]).handle for found in (opened, again))
    assert one.weights == other.weights
    with one.weights.use() as first, other.weights.use() as second:
        assert first is second


def test_laying_an_adapter_on_reads_no_weight(tiny_sd1: Path, loras: dict[str, Path], memory: WeightMemory) -> None:
    opened = open_checkpoint(tiny_sd1, memory)
    assert adapt(opened.model, loras["sd1"]).handle is not opened.model
    assert memory.resident_bytes == 0


def test_a_strength_of_nothing_leaves_a_part_as_it_is(
    tiny_sd1: Path, loras: dict[str, Path], memory: WeightMemory
) -> None:
    opened = open_checkpoint(tiny_sd1, memory)
    for handle in (opened.model, clip_of(opened)):
        assert adapt(handle, loras["sd1"], strength=0.0).handle is handle


def test_an_adapter_without_text_modules_leaves_the_text_encoder_as_it_is(
    tiny_sd1: Path, loras: dict[str, Path], memory: WeightMemory
) -> None:
    opened = open_checkpoint(tiny_sd1, memory)
    assert adapt(clip_of(opened), loras["attention"]).handle is opened.clip


def test_a_network_and_its_patches_are_refused_together_if_they_can_never_fit(
    tiny_sd1: Path, loras: dict[str, Path]
) -> None:
    roomy = WeightMemory(precision="exact", budget_bytes=1 << 30)
    tensors_of(open_checkpoint(tiny_sd1, roomy).model)
    tight = WeightMemory(precision="exact", budget_bytes=roomy.resident_bytes + 1000)
    opened = open_checkpoint(tiny_sd1, tight)
    with pytest.raises(MemoryBudgetError, match=r"the UNet of sd1.safetensors with sd1.safetensors at 1 takes"):
        tensors_of(adapt(opened.model, loras["sd1"]).handle)
    tensors_of(opened.model)


def test_the_fast_precision_keeps_its_number_format(tiny_sd1: Path, loras: dict[str, Path]) -> None:
    memory = WeightMemory(budget_bytes=1 << 30)
    opened = open_checkpoint(tiny_sd1, memory)
    base, patched = tensors_of(opened.model), tensors_of(adapt(opened.model, loras["sd1"]).handle)
    for key, w in patched.items():
        assert (w.dtype, w.stride()) == (base[key].dtype, base[key].stride())
    key = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    factors = load_file(loras["sd1"])
    name = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
    product = factors[f"{name}.lora_up.weight"].float() @ factors[f"{name}.lora_down.weight"].float()
    assert torch.equal(patched[key], (base[key].float() + 0.5 * product).to(base[key].dtype))


def test_an_adapter_for_another_network_is_refused(
    tiny_sd1: Path, loras: dict[str, Path], memory: WeightMemory
) -> None:
    opened: Checkpoint = open_checkpoint(tiny_sd1, memory)
    said = r"sdxl.safetensors is a LoRA for Stable Diffusion XL, but the network that it is laid on is of the sd1 family: lora_"
    with pytest.raises(AdapterMismatchError, match=said):
        adapt(opened.model, loras["sdxl"])


def test_a_file_that_changed_is_not_used(
    tiny: ModuleType, tiny_sd1: Path, loras: dict[str, Path], memory: WeightMemory, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(loras["sd1"].read_bytes())
    adapted = adapt(open_checkpoint(tiny_sd1, memory).model, copy)
    tiny.write(copy, tiny.kohya_lora(tiny.unet_shapes(tiny.SD1), "lora_unet_", rank=4))
    with pytest.raises(HeaderError, match="a changed file"):
        tensors_of(adapted.handle)


def test_patches_are_small_values_that_compare(tiny_sd1: Path, loras: dict[str, Path], memory: WeightMemory) -> None:
    def laid(strength: float) -> Any:
        return adapt(open_checkpoint(tiny_sd1, memory).model, loras["sd1"], strength=strength).handle.weights.source

    assert isinstance(laid(1.0), DerivedSource)
    assert laid(1.0) == laid(1.0)
    assert hash(laid(1.0)) == hash(laid(1.0))
    assert laid(1.0) != laid(0.5)
    assert laid(1.0).steps[0].file.path == loras["sd1"].resolve()


@pytest.fixture(scope="module")
def other_sd1(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second SD1 checkpoint of the same structure."""
    tensors = {key: w.flip(0) for key, w in tiny.sd1_tensors().items()}
    return tiny.write(tmp_path_factory.mktemp("other") / "other.safetensors", tensors)


VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "lora.json").read_text(encoding="utf-8"))


def test_weights_are_mixed_as_in_the_reference() -> None:
    one, other = (torch.randn(6, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 30))
    source: Any = None
    found = Blend(source, mix(0.75)).apply("any.weight", one, other)
    wanted = VECTORS["ModelMergeSimple ratio .75, other=R(30,6,8)"]["first8"]
    torch.testing.assert_close(found.flatten()[:8], torch.tensor(wanted), rtol=0.0, atol=1e-7)


def test_a_mixture_is_the_mean_of_all_weights(tiny_sd1: Path, other_sd1: Path, memory: WeightMemory) -> None:
    one, other = open_checkpoint(tiny_sd1, memory), open_checkpoint(other_sd1, memory)
    first, second = tensors_of(one.model), tensors_of(other.model)
    mixed = tensors_of(merge(one.model, other.model, mix(0.25)))
    assert_same(mixed, {key: w * 0.25 + 0.75 * second[key] for key, w in first.items()})
    assert not memory.is_resident(merge(one.model, other.model, mix(0.5)).weights.source)
    text = tensors_of(merge(clip_of(one), clip_of(other), mix(0.5)))
    first, second = tensors_of(clip_of(one)), tensors_of(clip_of(other))
    assert_same(text, {key: (w * 0.5 + 0.5 * second[key]).half().float() for key, w in first.items()})


def test_each_part_of_a_unet_has_its_ratio(tiny_sd1: Path, other_sd1: Path, memory: WeightMemory) -> None:
    one, other = open_checkpoint(tiny_sd1, memory), open_checkpoint(other_sd1, memory)
    first, second = tensors_of(one.model), tensors_of(other.model)
    mixed = tensors_of(merge(one.model, other.model, mix_blocks(input=1.0, middle=0.5, out=0.0)))
    for key, w in mixed.items():
        name = key.removeprefix("unet.")
        ratio = (
            0.5 if name.startswith("mid_") else 0.0 if name.startswith(("up_", "conv_norm_out", "conv_out")) else 1.0
        )
        assert torch.equal(w, first[key] * ratio + (1.0 - ratio) * second[key]), key


def test_a_difference_that_is_added_back_gives_the_network(
    tiny_sd1: Path, other_sd1: Path, memory: WeightMemory
) -> None:
    one, other = open_checkpoint(tiny_sd1, memory).model, open_checkpoint(other_sd1, memory).model
    learned = merge(one, other, difference(1.0))
    again = tensors_of(merge(other, learned, sum_of_both()))
    for key, w in tensors_of(one).items():
        torch.testing.assert_close(again[key], w, rtol=0.0, atol=1e-5)


def test_adapters_before_and_after_a_mixture_count_where_they_stand(
    tiny_sd1: Path, other_sd1: Path, loras: dict[str, Path], memory: WeightMemory
) -> None:
    one, other = open_checkpoint(tiny_sd1, memory).model, open_checkpoint(other_sd1, memory).model
    patched = adapt(other, loras["attention"]).handle
    mixed = merge(adapt(one, loras["sd1"]).handle, patched, mix(0.5))
    after = adapt(mixed, loras["attention"], strength=0.5).handle
    assert len(after.weights.source.steps) == 3
    first, second = tensors_of(adapt(one, loras["sd1"]).handle), tensors_of(patched)
    before = tensors_of(mixed)
    assert_same(before, {key: w * 0.5 + 0.5 * second[key] for key, w in first.items()})
    changed = {key for key, w in tensors_of(after).items() if not torch.equal(w, before[key])}
    assert changed == {key for key in first if "attn" in key and key.endswith("weight")}


def test_an_inpainting_network_keeps_its_first_convolution(
    tiny_sd1: Path, tiny_sd1_inpaint: Path, other_sd1: Path, memory: WeightMemory
) -> None:
    inpaint, one, other = (open_checkpoint(p, memory).model for p in (tiny_sd1_inpaint, tiny_sd1, other_sd1))
    before = tensors_of(inpaint)
    after = tensors_of(merge(inpaint, merge(other, one, difference(1.0)), sum_of_both()))
    assert {key for key, w in after.items() if torch.equal(w, before[key])} == {"unet.conv_in.weight"}


def test_networks_of_two_structures_are_not_mixed(tiny_sd1: Path, tiny_sd2: Path, memory: WeightMemory) -> None:
    one, other = open_checkpoint(tiny_sd1, memory).model, open_checkpoint(tiny_sd2, memory).model
    said = r"the UNet of sd1.safetensors and the UNet of sd2.safetensors can't be mixed: conv_in.bias is 32 numbers in the one"
    with pytest.raises(MergeError, match=said):
        merge(one, other, mix(0.5))


def test_an_adapter_that_breaks_a_weight_is_named_and_the_checkpoint_is_not(
    tiny: ModuleType, tiny_sd1: Path, tmp_path: Path, memory: WeightMemory
) -> None:
    key = "lora_unet_time_embed_0.lora_up.weight"
    for name, factor in (("damaged", float("nan")), ("strong", 1e30)):
        tensors = tiny.sd1_lora()
        for role in ("up", "down"):
            tensors[key.replace("up", role)] *= factor
        save_file(tensors, tmp_path / f"{name}.safetensors")
    damaged = adapt(open_checkpoint(tiny_sd1, memory).model, tmp_path / "damaged.safetensors").handle
    with pytest.raises(
        NonFiniteError,
        match=r"^lora_unet_time_embed_0\.lora_(up|down)\.weight of damaged\.safetensors at 1 has values .* file is damaged",
    ):
        tensors_of(damaged)
    strong = adapt(open_checkpoint(tiny_sd1, memory).model, tmp_path / "strong.safetensors", strength=100.0).handle
    with pytest.raises(
        NonFiniteError,
        match=r"^time_embedding\.linear_1\.weight of .* too large for float32 with strong\.safetensors at 100; give smaller",
    ):
        tensors_of(strong)
