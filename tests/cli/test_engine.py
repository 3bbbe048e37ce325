"""The Python API, and what comes from the cache: in a process, in the next one, and after one that was killed."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from latentgraph.cli import Engine
from latentgraph.graph import Context, FileNotUsable, InvalidWorkflow, LatentGraphError, Node, NodeFailed, Registry
from latentgraph.graph.events import Event, NodeProgress
from latentgraph.nodes import default_registry

Make = Callable[..., Engine]


def statuses(engine: Engine, workflow: Path | str, **params: object) -> dict[str, tuple[str, str | None]]:
    """Runs a workflow and returns what became of each node."""
    outcome = engine.execute(engine.load(workflow, params))
    outcome.result.raise_failure()
    return {id: (report.status, report.tier) for id, report in outcome.result.nodes.items()}


def ran(found: dict[str, tuple[str, str | None]]) -> set[str]:
    return {id for id, (status, _) in found.items() if status == "ran"}


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(path) as picture:
        return np.asarray(picture).copy()


def test_a_picture_comes_back_as_a_pillow_image_and_as_a_file(make_engine: Make, paint: Path, here: Path) -> None:
    outputs = make_engine().run(paint, prompt="a blue fish", output_dir="made")
    assert list(outputs) == ["image"]
    assert (outputs["image"].mode, outputs["image"].size) == ("RGB", (64, 64))
    assert np.array_equal(np.asarray(outputs["image"]), pixels(here / "made" / "paint_00001_.png"))


def test_a_file_may_be_named_by_a_text(make_engine: Make, square: Path) -> None:
    assert make_engine().run("square.yaml")["mask"].size == (16, 8)


def test_a_mask_comes_back_as_a_grey_image(make_engine: Make, square: Path) -> None:
    mask = make_engine().run(square)["mask"]
    assert (mask.mode, mask.size, mask.getextrema()) == ("L", (16, 8), (255, 255))


def test_a_tiny_decoder_in_the_models_folder_shows_what_a_run_has_so_far(
    make_engine: Make, paint: Path, tiny: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "vae_approx"
    sizes: list[tuple[int, ...]] = []

    def on_event(event: Event) -> None:
        if isinstance(event, NodeProgress) and event.preview is not None:
            sizes.append(tuple(event.preview().shape))

    engine = make_engine(cache=False)
    engine.run(paint, steps=1, on_event=on_event)
    folder.mkdir(parents=True)
    tiny.write(folder / "taesd_decoder.safetensors", tiny.fill(tiny.tiny_vae_shapes("decoder", first=1)))
    engine.run(paint, steps=1, on_event=on_event)
    assert sizes == [(8, 8, 3), (64, 64, 3)]


def test_several_pictures_come_back_as_a_list(make_engine: Make, here: Path) -> None:
    values = {"type": "SolidMask", "width": 8, "height": 8, "foreach": {"value": [0.0, 1.0]}}
    outputs = make_engine().run({"latentgraph": 1, "nodes": {"masks": values}, "outputs": {"masks": "$masks"}})
    assert [mask.getextrema() for mask in outputs["masks"]] == [(0, 0), (255, 255)]


def test_one_picture_of_a_loop_is_a_list_too(make_engine: Make) -> None:
    values = {"type": "SolidMask", "width": 8, "height": 8, "foreach": {"value": [0.5]}}
    outputs = make_engine().run({"latentgraph": 1, "nodes": {"masks": values}, "outputs": {"masks": "$masks"}})
    assert len(outputs["masks"]) == 1


def test_a_value_that_is_no_picture_comes_back_as_it_is(make_engine: Make) -> None:
    nodes = {"empty": {"type": "EmptyLatent", "width": 64, "height": 64}}
    outputs = make_engine().run({"latentgraph": 1, "nodes": nodes, "outputs": {"latent": "$empty"}})
    assert tuple(outputs["latent"].samples.shape[-2:]) == (8, 8)


def test_python_saves_only_what_the_document_saves(make_engine: Make, square: Path, here: Path) -> None:
    make_engine().run(square)
    assert not (here / "output").exists()


def test_an_output_that_no_node_saves_is_saved_under_its_name_for_the_command(
    make_engine: Make, square: Path, here: Path
) -> None:
    engine = make_engine()
    outcome = engine.execute(engine.load(square))
    assert outcome.files == {"mask": (here / "output" / "mask_00001_.png",)}


def test_a_second_run_computes_only_what_it_must_save(make_engine: Make, paint: Path) -> None:
    engine = make_engine()
    assert ran(statuses(engine, paint)) == {"checkpoint", "positive", "negative", "empty", "sample", "decode", "save"}
    again = statuses(engine, paint)
    assert ran(again) == {"save"}
    assert again["decode"] == ("cached", "memory")


def test_another_process_finds_results_on_disk_and_a_new_seed_reruns_sampling_alone(
    make_engine: Make, paint: Path
) -> None:
    make_engine().run(paint)
    again = statuses(make_engine(), paint)
    assert (ran(again), again["decode"]) == ({"save"}, ("cached", "disk"))
    reseeded = statuses(make_engine(), paint, seed=8)
    assert ran(reseeded) - {"checkpoint"} == {"sample", "decode", "save"}
    assert {reseeded[id] for id in ("positive", "negative", "empty")} == {("cached", "disk")}


def test_without_a_cache_nothing_is_kept(make_engine: Make, square: Path, tmp_path: Path) -> None:
    engine = make_engine(cache=False)
    assert ran(statuses(engine, square)) == ran(statuses(engine, square)) == {"square"}
    assert not (tmp_path / "cache").exists()


def test_a_run_that_was_killed_goes_on_where_it_stopped(make_engine: Make, paint: Path, tmp_path: Path) -> None:
    """The process dies without a chance to tidy up, the moment that decoding begins."""
    script = f"""
import os, signal
from latentgraph.cli import Engine
from latentgraph.graph import NodeStarted

def die(event):
    if isinstance(event, NodeStarted) and event.node == "decode":
        os.kill(os.getpid(), signal.SIGKILL)

Engine(cache_dir={str(tmp_path / "cache")!r}).run({str(paint)!r}, on_event=die)
"""
    died = subprocess.run([sys.executable, "-c", script], timeout=120, check=False, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    resumed = statuses(make_engine(), paint)
    assert resumed["sample"] == ("cached", "disk")
    assert ran(resumed) - {"checkpoint"} == {"decode", "save"}


def test_explain_tells_what_changed_since_the_last_run(make_engine: Make, paint: Path) -> None:
    engine = make_engine()
    engine.run(paint)
    found = {one.node: one for one in engine.explain(engine.load(paint, {"seed": 8}))}
    assert (found["positive"].status, found["sample"].status) == ("hit", "miss")
    assert found["sample"].changes == ("input seed: 7 -> 8",)


def test_an_engine_that_is_closed_does_not_run(square: Path) -> None:
    with Engine() as engine:
        engine.run(square)
    engine.close()
    with pytest.raises(LatentGraphError, match="closed"):
        engine.run(square)


def test_a_broken_document_is_refused_with_every_problem(make_engine: Make) -> None:
    nodes = {"grow": {"type": "GrowMask", "mask": "$solid", "pixels": "wide"}}
    with pytest.raises(InvalidWorkflow) as refused:
        make_engine().run({"latentgraph": 1, "nodes": nodes, "outputs": {"mask": "$grow"}})
    assert {problem.code for problem in refused.value.problems} == {"dangling-link", "wrong-type"}


def test_a_node_that_fails_is_raised_with_its_cause(make_engine: Make) -> None:
    class Fail(Node, version=1):
        """Fail."""

        def run(self, ctx: Context) -> int:
            raise ZeroDivisionError("by nothing")

    engine = make_engine(registry=Registry([*default_registry().values(), Fail]))
    with pytest.raises(NodeFailed, match=r"node 'bad' \(Fail\) failed: ZeroDivisionError: by nothing") as failure:
        engine.run({"latentgraph": 1, "nodes": {"bad": {"type": "Fail"}}, "outputs": {"number": "$bad"}})
    assert isinstance(failure.value.__cause__, ZeroDivisionError)


def test_an_output_folder_that_is_a_file_is_told_before_anything_runs(make_engine: Make, paint: Path) -> None:
    with pytest.raises(LatentGraphError, match=r"output folder '.*paint\.yaml/out' can't be used: .* is a file"):
        make_engine().run(paint, output_dir=paint / "out")


def test_a_cache_folder_that_was_named_and_can_not_be_used_is_an_error(square: Path) -> None:
    with (
        Engine(cache_dir=square / "cache") as engine,
        pytest.raises(LatentGraphError, match=r"cache folder .* is a file"),
    ):
        engine.run(square)


def test_the_users_own_cache_folder_may_be_unusable(
    square: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LATENTGRAPH_CACHE", str(square / "cache"))
    with caplog.at_level(logging.WARNING), Engine() as engine:
        assert engine.run(square)["mask"].size == (16, 8)
        assert statuses(engine, square)["square"] == ("cached", "memory")
    assert len(caplog.messages) == 1
    assert "nothing is kept on disk" in caplog.messages[0]


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("gpu", "there is no device 'gpu'; expected auto, cpu, cuda or cuda:N"),
        ("cuda:first", "there is no device 'cuda:first'"),
        ("cuda:99", r"'cuda:99'"),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_words(
    make_engine: Make, square: Path, device: str, words: str
) -> None:
    with pytest.raises(LatentGraphError, match=words):
        make_engine(device=device).run(square)


# A saved picture makes itself again.


def test_a_saved_picture_makes_the_same_pixels_again(make_engine: Make, paint: Path, here: Path) -> None:
    make_engine().run(paint, seed=3, prompt="a green [red] frog")
    paint.unlink()
    again = make_engine(cache=False).run("output/paint_00001_.png", output_dir="again")
    assert np.array_equal(np.asarray(again["image"]), pixels(here / "output" / "paint_00001_.png"))
    assert np.array_equal(pixels(here / "again" / "paint_00001_.png"), pixels(here / "output" / "paint_00001_.png"))


def test_a_saved_picture_takes_other_values_for_its_parameters(make_engine: Make, paint: Path) -> None:
    engine = make_engine()
    engine.run(paint, seed=3)
    assert ran(statuses(engine, "output/paint_00001_.png", seed=4)) - {"checkpoint"} == {"sample", "decode", "save"}


def test_exact_pictures_are_made_again_in_exact_and_are_no_hits_for_auto(make_engine: Make, paint: Path) -> None:
    exact = make_engine(precision="exact")
    first = np.asarray(exact.run(paint)["image"])
    assert np.array_equal(first, np.asarray(make_engine(precision="exact", cache=False).run(paint)["image"]))
    assert "sample" in ran(statuses(make_engine(precision="auto"), paint))


PART = """\
latentgraph: 1
params:
  mask: {type: Mask}
  cut: {type: image_file, default: dots.png}
nodes:
  dots: {type: LoadMask, file: $params.cut, channel: red}
  both: {type: CompositeMask, destination: $params.mask, source: $dots, operation: subtract}
outputs:
  mask: $both
"""
WHOLE = """\
latentgraph: 1
nodes:
  solid: {type: SolidMask, width: 16, height: 16}
  part: {type: ./parts/cut.yaml, mask: $solid}
outputs:
  mask: $part
"""


def test_a_picture_of_a_document_that_uses_documents_makes_itself_again_from_anywhere(
    make_engine: Make, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that the part names lies beside the part; the picture's document is flat, and names it from elsewhere."""
    (here / "parts").mkdir()
    dots = Image.new("RGB", (16, 16))
    dots.putpixel((3, 5), (255, 0, 0))
    dots.save(here / "parts" / "dots.png")
    (here / "parts" / "cut.yaml").write_text(PART, encoding="utf-8")
    (here / "whole.yaml").write_text(WHOLE, encoding="utf-8")
    engine = make_engine()
    (picture,) = engine.execute(engine.load(here / "whole.yaml")).files["mask"]
    (here / "parts" / "cut.yaml").unlink()
    monkeypatch.chdir(tmp_path)
    again = make_engine(cache=False).run(picture)
    assert np.array_equal(np.asarray(again["mask"]), pixels(picture))
    assert again["mask"].getextrema() == (0, 255)


@pytest.mark.parametrize("prefix", ["copy", "below/copy"])
def test_a_picture_finds_the_files_of_its_document_from_another_folder(
    make_engine: Make, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """All is named relative to where the first run was, and the second is elsewhere."""
    Image.new("RGB", (16, 16), "white").save(here / "cat.png")
    params = "params:\n  cat: {type: image_file, default: cat.png}\n"
    nodes = (
        "  load: {type: LoadImage, file: $params.cat}\n  save: {type: SaveImage, image: $load.image, prefix: PREFIX}\n"
    )
    text = f"latentgraph: 1\n{params}nodes:\n{nodes.replace('PREFIX', prefix)}"
    (here / "copy.yaml").write_text(text, encoding="utf-8")
    make_engine().run("copy.yaml")
    monkeypatch.chdir(tmp_path)
    make_engine().run(here / "output" / f"{prefix}_00001_.png", output_dir="again")
    assert (tmp_path / "again" / f"{prefix}_00001_.png").is_file()


def test_a_file_that_was_named_from_the_working_folder_is_found_from_another(
    make_engine: Make, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "flows").mkdir()
    Image.new("RGB", (16, 16), "white").save(here / "dog.png")
    nodes = {
        "load": {"type": "LoadImage", "file": "$params.dog"},
        "save": {"type": "SaveImage", "image": "$load.image"},
    }
    document = {"latentgraph": 1, "params": {"dog": {"type": "image_file"}}, "nodes": nodes}
    (here / "flows" / "copy.json").write_text(json.dumps(document))
    make_engine().run("flows/copy.json", dog="dog.png")
    monkeypatch.chdir(tmp_path)
    make_engine().run(here / "output" / "latentgraph_00001_.png", output_dir="again")
    assert (tmp_path / "again" / "latentgraph_00001_.png").is_file()


def test_a_checkpoint_that_changed_is_told_when_its_picture_is_made_again(
    make_engine: Make, here: Path, paint: Path, tiny_sd1: Path, tiny_sd1_inpaint: Path
) -> None:
    model = here / "model.safetensors"
    model.write_bytes(tiny_sd1.read_bytes())
    paint.write_text(paint.read_text().replace(str(tiny_sd1), "model.safetensors"))
    make_engine().run(paint)
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    os.utime(model, ns=(0, 0))
    model.write_bytes(bytes(data))
    with pytest.raises(FileNotUsable, match=r"checkpoint\.file .* is not the one that the picture was made with"):
        make_engine().run("output/paint_00001_.png")
