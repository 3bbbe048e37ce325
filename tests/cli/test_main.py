"""The command as a shell sees it: what it prints where, and the codes that it ends with."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from latentgraph.cli import Engine
from latentgraph.cli.main import app


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def called_json(*words: object, code: int = 0) -> Any:
    result = call(*words, "--json")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def document(nodes: Mapping[str, Any], outputs: Mapping[str, str], name: str = "document.json") -> Path:
    path = Path.cwd() / name
    path.write_text(json.dumps({"latentgraph": 1, "nodes": nodes, "outputs": outputs}))
    return path


@pytest.fixture
def fails(here: Path) -> Path:
    """A workflow whose picture has a sound header and no pixels, so that only the run finds out."""
    Image.effect_noise((64, 64), 50).save(here / "[red]cut.png")
    whole = (here / "[red]cut.png").read_bytes()
    (here / "[red]cut.png").write_bytes(whole[: len(whole) // 2])
    nodes = {
        "solid": {"type": "SolidMask", "width": 8, "height": 8},
        "load": {"type": "LoadImage", "file": "[red]cut.png"},
    }
    return document(nodes, {"mask": "$solid", "image": "$load.image"})


# run


def test_run_prints_the_files_alone_and_tells_the_rest_on_standard_error(square: Path, here: Path) -> None:
    result = call("run", square)
    assert result.exit_code == 0
    assert result.stdout == f"{here / 'output' / 'mask_00001_.png'}\n"
    assert "succeeded in" in result.stderr
    assert result.stderr.splitlines()[1].split()[:2] == ["square", "ran"]


def test_run_json_is_one_object(paint: Path, here: Path) -> None:
    told = called_json("run", paint, "--output", "made")
    assert told["status"] == "succeeded"
    assert len(told["run"]) == 12
    assert told["outputs"] == {"image": {"files": [str(here / "made" / "paint_00001_.png")], "type": "Image"}}
    assert told["nodes"]["sample"].keys() == {"status", "tier", "seconds"}
    assert {node["status"] for node in told["nodes"].values()} == {"ran"}
    again = called_json("run", paint, "--set", "seed=9", "--output", "made")
    assert again["nodes"]["positive"]["status"] == "cached"
    assert again["nodes"]["positive"]["tier"] == "disk"
    assert again["nodes"]["sample"]["status"] == "ran"
    third = called_json("run", paint, "--set", "seed=9", "--output", "made")
    assert third["nodes"]["empty"]["status"] == "skipped"
    assert third["outputs"]["image"]["files"] == [str(here / "made" / "paint_00003_.png")]


def test_run_json_gives_a_number_as_a_value_and_a_latent_as_its_type(here: Path) -> None:
    path = document({"empty": {"type": "EmptyLatent", "width": 64, "height": 64}}, {"latent": "$empty"})
    assert called_json("run", path)["outputs"] == {"latent": {"files": [], "type": "Latent"}}


def test_run_without_a_cache_computes_everything_again(square: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert called_json("run", square, "--no-cache")["nodes"]["square"]["status"] == "ran"
    assert not (tmp_path / "cache").exists()


def test_run_takes_another_cache_folder(square: Path, tmp_path: Path) -> None:
    assert call("run", square, "--cache-dir", tmp_path / "other").exit_code == 0
    assert call("cache", "info", "--cache-dir", tmp_path / "other").stdout.split()[1] == "1"
    assert not (tmp_path / "cache").exists()


def test_a_node_that_fails_ends_with_1_and_is_told_exactly(fails: Path) -> None:
    result = call("run", fails)
    assert result.exit_code == 1
    assert re.search(r"error: \S+:\d+:\d+: node 'load' \(LoadImage\) failed:", result.stderr)
    assert "[red]cut.png: the picture is damaged or incomplete" in result.stderr
    assert "Traceback" not in result.stderr
    assert "LATENTGRAPH_TRACEBACK=1" in result.stderr
    assert result.stdout.endswith("mask_00001_.png\n")  # what could be made was made


def test_a_node_that_fails_shows_its_trace_to_who_asks(fails: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTGRAPH_TRACEBACK", "1")
    assert "Traceback (most recent call last)" in call("run", fails).stderr


def test_run_json_of_a_node_that_fails_is_one_object(fails: Path) -> None:
    told = called_json("run", fails, code=1)
    assert told["status"] == "failed"
    assert {id: node["status"] for id, node in told["nodes"].items()} == {"solid": "ran", "load": "failed"}
    assert list(told["failures"]) == ["load"]


def test_an_interruption_ends_with_130(square: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "execute", interrupt)
    result = call("run", square)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.startswith("interrupted")
    assert called_json("run", square, code=130) == {"error": "interrupted"}


def test_a_fault_of_our_own_ends_with_3_and_says_how_to_see_more(square: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise RuntimeError("[red]boom")

    monkeypatch.setattr(Engine, "load", break_down)
    result = call("validate", square)
    assert result.exit_code == 3
    assert (
        result.stderr == "error: RuntimeError: [red]boom\nFor the trace, run it again with LATENTGRAPH_TRACEBACK=1.\n"
    )
    assert called_json("validate", square, code=3) == {"error": "[red]boom", "type": "RuntimeError"}


def test_run_refuses_a_device_that_is_not_there(square: Path) -> None:
    result = call("run", square, "--device", "cuda:99")
    assert result.exit_code == 2
    assert "'cuda:99'" in result.stderr


def test_run_refuses_an_unknown_precision(square: Path) -> None:
    assert call("run", square, "--precision", "some").exit_code == 2


def test_a_picture_runs_in_the_precision_that_it_was_made_in_and_warns_of_another(paint: Path) -> None:
    assert call("run", paint, "--precision", "exact").exit_code == 0
    again = call("run", "output/paint_00001_.png")
    assert "decode  cached  disk" in again.stderr
    other = call("run", "output/paint_00001_.png", "--precision", "auto")
    assert other.exit_code == 0
    assert (
        "warning: the precision is auto here, and was exact when the picture was made; the pixels may differ"
        in other.stderr
    )


# --set


def test_settings_are_read_as_their_parameters_want_them(paint: Path, here: Path) -> None:
    result = call("run", paint, "--set", "prompt=a=b, 7", "--set", "steps=1", "--set", "cfg=3", "--set", "seed=1")
    assert result.exit_code == 0
    with Image.open(here / "output" / "paint_00001_.png") as picture:
        carried = json.loads(picture.info["latentgraph"])
    assert carried["params"] == {"prompt": "a=b, 7", "steps": 1, "cfg": 3.0, "seed": 1}


def test_a_list_is_set_as_a_document_writes_it(here: Path) -> None:
    (here / "loop.yaml").write_text(
        "latentgraph: 1\nparams:\n  values: [0.0]\nnodes:\n"
        "  solids: {type: SolidMask, width: 8, height: 8, foreach: {value: $params.values}}\noutputs:\n  masks: $solids\n"
    )
    assert len(called_json("run", "loop.yaml", "--set", "values=[0.1, 0.2, 0.3]")["outputs"]["masks"]["files"]) == 3
    assert (
        "--set values=[0.1: error: parameter 'values' takes a list."
        in call("run", "loop.yaml", "--set", "values=[0.1").stderr
    )


def test_wrong_settings_are_all_told_and_said_to_come_from_the_command_line(paint: Path) -> None:
    result = call("run", paint, "--set", "steps=many", "--set", "promt=[red]", "--set", "cfg=nan")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "--set steps=many: error: parameter 'steps' takes a whole number of at least 1 and at most 10000. [wrong-type]",
        "--set promt=[red]: error: there is no parameter 'promt'; known: cfg, prompt, seed, steps. "
        "Did you mean 'prompt'? [unknown-param]",
        "--set cfg=nan: error: parameter 'cfg' takes a number of at least 0 and at most 100. [out-of-range]",
    ]


def test_a_setting_without_an_equals_sign_is_refused(paint: Path) -> None:
    result = call("run", paint, "--set", "seed")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: --set 'seed' is no NAME=VALUE; write for example --set seed=7\n",
    )


# validate, explain, draw


BROKEN = {"grow": {"type": "GrowMask", "mask": "$solid", "pixels": "[red]"}}


NEEDY = """\
latentgraph: 1
params:
  network: {type: diffusion_model_file, description: FLUX.1 dev or schnell.}
  text: {type: string}
nodes:
  load: {type: LoadDiffusionModel, file: $params.network}
outputs:
  model: $load
"""


def test_validate_says_that_a_document_is_right(square: Path) -> None:
    assert call("validate", square).stdout == f"{square}: 1 node, no error\n"
    assert called_json("validate", square) == {"valid": True, "nodes": 1, "problems": []}


def test_validate_prints_every_problem_exactly_and_ends_with_2(here: Path) -> None:
    path = document(BROKEN, {"mask": "$grown"})
    result = call("validate", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 3
    assert f"{path}:1:" in result.stderr
    assert """input 'pixels' is "[red]"; expected a whole number""" in result.stderr
    told = called_json("validate", path, code=2)
    assert told["valid"] is False
    assert {problem["code"] for problem in told["problems"]} == {"wrong-type", "dangling-link"}


def test_validate_shows_warnings_and_still_ends_with_0(here: Path) -> None:
    solid = {"type": "SolidMask", "width": 8, "height": 8}
    path = document({"solid": solid, "spare": solid}, {"mask": "$solid"})
    result = call("validate", path)
    assert result.exit_code == 0
    assert "warning: node 'spare' (SolidMask): it is not used" in result.stderr


@pytest.mark.parametrize("command", ["run", "validate", "explain", "draw"])
def test_what_a_run_must_be_given_is_told_with_its_folder_and_how_to_give_it(
    command: str, here: Path, tmp_path: Path
) -> None:
    path = here / "needy.yaml"
    path.write_text(NEEDY)
    result = call(command, path)
    folder = tmp_path / "models" / "diffusion_models"
    assert (result.exit_code, result.stderr) == (
        2,
        f"{path}:3:12: error: parameter 'network' has no default and was not given: FLUX.1 dev or schnell. "
        f"Expected the name of a file in {folder}, or a path. [missing-param]\n"
        f"{path}:4:9: error: parameter 'text' has no default and was not given; expected text. [missing-param]\n"
        "Give what is missing: --set network=FILE --set text=VALUE\n",
    )
    half = call(command, path, "--set", "text=x")
    assert half.stderr.endswith("Give what is missing: --set network=FILE\n")


@pytest.mark.parametrize("command", ["run", "validate", "explain", "draw"])
def test_a_document_that_is_missing_ends_with_2_and_its_neighbours_name(command: str, square: Path) -> None:
    result = call(command, "sqare.yaml")
    assert result.exit_code == 2
    assert "there is no such file. Did you mean 'square.yaml'?" in result.stderr


def test_explain_says_for_each_node_whether_it_would_run_and_why(paint: Path) -> None:
    assert {node["status"] for node in called_json("explain", paint).values()} == {"miss"}
    assert call("run", paint).exit_code == 0
    told = called_json("explain", paint, "--set", "steps=1")
    assert told["positive"] == {"status": "hit", "tier": "disk", "changes": []}
    assert told["sample"] == {"status": "miss", "tier": None, "changes": ["input steps: 2 -> 1"]}
    lines = call("explain", paint).stdout.splitlines()
    assert lines[0].split() == ["node", "type", "from", "why"]
    assert [line.split()[:4] for line in lines if line.startswith("decode")] == [["decode", "VAEDecode", "hit", "disk"]]


def test_draw_writes_svg_or_mermaid(square: Path, here: Path) -> None:
    assert call("draw", square).stdout.startswith("<svg ")
    assert call("draw", square, "--format", "mermaid").stdout.startswith("flowchart LR\n")
    assert call("draw", square, "--output", here / "new" / "graph.svg").stdout == ""
    assert (here / "new" / "graph.svg").read_text().startswith("<svg ")


def test_draw_refuses_a_folder_that_is_a_file(square: Path) -> None:
    result = call("draw", square, "--output", square / "graph.svg")
    assert result.exit_code == 2
    assert "is a file" in result.stderr


# what there is


def test_workflows_lists_those_of_the_package_with_what_they_need() -> None:
    lines = call("workflows").stdout.splitlines()
    names = [line.split()[0] for line in lines]
    needy = [line.split()[0] for line in lines if " Needs " in line]
    assert "txt2img" in names
    assert names[-len(needy) :] == needy
    assert "flux         Paint a picture from text with FLUX.1. Needs network, clip_l, t5xxl, vae." in lines
    assert set(called_json("workflows")) == set(names)


def test_workflows_shows_what_can_be_set_of_one(paint: Path) -> None:
    text = call("workflows", paint).stdout
    (steps,) = [line for line in text.splitlines() if line.startswith("steps ")]
    assert steps.split("  ")[-1].strip() == "2"
    assert "a whole number of at least 1 and at most 10000" in steps
    assert text.endswith("outputs\nimage\n")
    told = called_json("workflows", "flux")
    assert told["params"]["network"]["required"] is True
    assert told["params"]["steps"]["default"] == 20
    broken = call("workflows", document({}, {}))
    assert (broken.exit_code, "expected a map" in broken.stderr) == (2, True)


@pytest.mark.parametrize("command", ["validate", "draw", "workflows"])
def test_a_bare_name_is_that_of_a_workflow_of_the_package_unless_a_file_has_it(command: str, here: Path) -> None:
    assert call(command, "txt2img").exit_code == 0
    other = call(command, "txt2imgg")
    assert other.exit_code == 2
    assert "no such workflow of the package" in other.stderr
    assert "Did you mean 'txt2img'?" in other.stderr
    (here / "txt2img").write_text("latentgraph: 2\n")
    assert "has version 2" in call(command, "txt2img").stderr
    assert "it is a folder; name a file in it." in call(command, here).stderr


def test_nodes_lists_a_node_a_line_under_headings_when_it_is_piped() -> None:
    lines = call("nodes").stdout.splitlines()
    assert lines[0] == "Models"
    assert lines[1].startswith("  LoadCheckpoint ")
    listed = [line for line in lines if line.startswith("  ")]
    assert [line.split()[0] for line in listed] == list(called_json("nodes"))
    assert all(line.endswith(".") for line in listed)


def test_nodes_finds_those_about_a_word_in_names_and_documentation() -> None:
    assert list(called_json("nodes", "lora")) == ["LoadLora", "LoadLoraModelOnly"]
    text = call("nodes", "OUTPAINT").stdout
    assert text.splitlines()[0] == "Pictures"
    assert "  PadForOutpaint " in text
    assert "KSampler" not in text


def test_nodes_shows_inputs_ranges_defaults_and_words_of_one() -> None:
    text = call("nodes", "KSampler").stdout
    (steps,) = [line for line in text.splitlines() if line.startswith("steps ")]
    assert "a whole number from 1 to 10000 " in steps
    assert "latent: Latent" in text
    (noise,) = [line for line in text.splitlines() if line.startswith("add_noise ")]
    assert noise.split()[1:5] == ["true", "or", "false", "true"]
    (sampler,) = [line for line in text.splitlines() if line.startswith("sampler: ")]
    assert '"dpmpp_2m", ' in sampler
    assert max(len(line) for line in text.splitlines() if line.startswith("cfg ")) < 200
    told = called_json("nodes", "KSampler")["KSampler"]
    assert told["inputs"]["steps"]["takes"] == "a whole number from 1 to 10000"
    assert told["inputs"]["steps"]["default"] == 20
    assert told["inputs"]["model"] == {
        "takes": "Model",
        "required": True,
        "default": None,
        "description": "The denoising network.",
    }
    assert told["outputs"] == {"latent": "Latent"}


def test_nodes_suggests_a_node_for_a_misspelt_name() -> None:
    misspelt, other = call("nodes", "KSampelr"), call("nodes", "Frobnicate")
    assert (misspelt.exit_code, other.exit_code) == (2, 2)
    assert "Did you mean 'KSampler'?" in misspelt.stderr
    assert "`latentgraph nodes` lists what there is" in other.stderr


def test_nodes_knows_comfyuis_names_of_nodes_and_inputs() -> None:
    theirs, ours = call("nodes", "KSamplerAdvanced").stdout, call("nodes", "KSampler").stdout
    assert theirs == ours
    assert "KSamplerAdvanced (latent is latent_image, seed is noise_seed, " in ours
    assert "in ComfyUI: RescaleCFG\n" in call("nodes", "RescaleCFG").stdout
    assert "in ComfyUI" not in call("nodes", "GridImage").stdout


def test_models_lists_what_documents_can_name_and_what_is_wrong_with_the_rest(
    tmp_path: Path, tiny_sd1: Path, tiny: ModuleType
) -> None:
    folder = tmp_path / "models" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "tiny.safetensors").write_bytes(tiny_sd1.read_bytes())
    (folder / "[old].ckpt").write_bytes(b"PK\x03\x04" + b"\0" * 60)
    (folder / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    (folder.parent / "loras").mkdir()
    tiny.write(folder.parent / "loras" / "style.safetensors", tiny.sd1_lora())
    (folder.parent / "diffusion_models").mkdir()
    (folder.parent / "diffusion_models" / "alone.safetensors").write_bytes(tiny_sd1.read_bytes())
    rows = {row["name"]: row for row in called_json("models")}
    names = ["emoji", "[old].ckpt", "gone.safetensors", "tiny.safetensors", "alone.safetensors", "style.safetensors"]
    assert list(rows) == names
    assert (rows["alone.safetensors"]["kind"], rows["alone.safetensors"]["family"]) == ("diffusion_model", "sd1")
    assert (rows["style.safetensors"]["kind"], rows["style.safetensors"]["family"]) == ("lora", "sd1")
    assert (rows["tiny.safetensors"]["family"], rows["tiny.safetensors"]["problem"]) == ("sd1", None)
    assert "a pickled PyTorch checkpoint" in rows["[old].ckpt"]["problem"]
    assert rows["gone.safetensors"]["problem"]
    text = call("models").stdout
    assert ["tiny.safetensors", "checkpoint", "sd1"] in [line.split() for line in text.splitlines()]
    assert ["[old].ckpt", "checkpoint", "unusable"] in [line.split() for line in text.splitlines()]
    assert text.endswith("or name them by path.\n")
    assert f"below {folder.parent}, into checkpoints, " in text


def test_models_says_what_one_file_can_be_used_as(tmp_path: Path, tiny_sd1: Path, tiny: ModuleType) -> None:
    kinds = {row["kind"]: row["family"] for row in called_json("models", str(tiny_sd1))}
    assert kinds == {"checkpoint": "sd1", "diffusion_model": "sd1", "vae": None, "text_encoder": "clip_l"}
    lora = tiny.write(tmp_path / "style.safetensors", tiny.sd1_lora())
    assert call("models", str(lora)).stdout.split() == ["name", "kind", "family", str(lora), "lora", "sd1"]
    assert [row["kind"] for row in called_json("models", "emoji")] == ["checkpoint", "vae"]


def test_models_says_of_a_file_that_can_be_used_as_nothing_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "old.ckpt").write_bytes(b"PK\x03\x04" + b"\0" * 60)
    for file, words in (
        (tmp_path / "old.ckpt", "a pickled PyTorch checkpoint"),
        ("nowhere", "no checkpoint 'nowhere'"),
    ):
        result = call("models", str(file))
        assert result.exit_code == 2
        assert words in result.stderr


def test_models_lists_a_file_once_and_every_file_of_a_name(tmp_path: Path, tiny_sd1: Path) -> None:
    for folder in ("checkpoints", "diffusion_models", "vae"):
        (tmp_path / "models" / folder).mkdir(parents=True)
        (tmp_path / "models" / folder / "one.safetensors").write_bytes(tiny_sd1.read_bytes())
    rows = json.loads(call("models", "--json").stdout)
    there = [(row["kind"], Path(row["path"]).parent.name) for row in rows if row["name"] == "one.safetensors"]
    assert there == [("checkpoint", "checkpoints"), ("diffusion_model", "diffusion_models"), ("vae", "vae")]
    assert [row["kind"] for row in rows if row["name"] == "emoji"] == ["checkpoint"]


def test_schema_is_a_json_schema_of_every_node() -> None:
    schema = json.loads(call("schema").stdout)
    assert schema["$schema"].endswith("2020-12/schema")
    assert "KSampler" in schema["$defs"]


def test_the_cache_is_told_pruned_and_cleared(square: Path, tmp_path: Path) -> None:
    assert called_json("cache", "info")["results"] == 0
    assert call("run", square).exit_code == 0
    told = called_json("cache", "info")
    assert (told["folder"], told["results"]) == (str(tmp_path / "cache" / "results"), 1)
    assert call("cache", "prune", "1").stdout == "removed 0 results, 0.0 MB\n"
    assert called_json("cache", "clear") == {"results": 1, "bytes": told["bytes"]}
    assert called_json("cache", "info")["bytes"] == 0


def test_the_version_and_the_help_are_there() -> None:
    assert call("--version").stdout.startswith("latentgraph 0.")
    assert "validate" in call("--help").output
    assert "instead of the user's cache folder" in " ".join(call("run", "--help").output.replace("│", " ").split())
    assert call("bogus").exit_code == 2


# in a process of its own

INTERRUPTED = """
import os, signal, sys
from latentgraph.cli import main, show
from latentgraph.graph import NodeProgress

def on_event(bars, event):
    if isinstance(event, NodeProgress) and event.node == "sample" and event.step == 2:
        os.kill(os.getpid(), signal.SIGINT)

show.RunBars.on_event = on_event
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it puts in the background with it ignored
main.main()
"""


def test_control_c_stops_within_a_step_and_leaves_no_half_written_file(paint: Path, here: Path, tmp_path: Path) -> None:
    """Ten thousand steps would take minutes; the second one is interrupted."""
    words = [sys.executable, "-c", INTERRUPTED, "run", str(paint), "--set", "steps=10000", "--json"]
    stopped = subprocess.run(words, timeout=120, check=False, capture_output=True, text=True)
    assert stopped.returncode == 130, stopped.stderr
    assert json.loads(stopped.stdout) == {"error": "interrupted"}
    assert "interrupted" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (here / "output").exists() or not list((here / "output").iterdir())
    assert not list(tmp_path.rglob("*.tmp"))
    resumed = called_json("run", paint, "--set", "steps=1")
    assert resumed["nodes"]["positive"] == {**resumed["nodes"]["positive"], "status": "cached", "tier": "disk"}


def test_a_reader_that_goes_away_sees_no_traceback() -> None:
    """As in `latentgraph schema | head -1`."""
    words = [sys.executable, "-m", "latentgraph.cli", "schema"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert errors == b""
    assert process.returncode != -signal.SIGSEGV
