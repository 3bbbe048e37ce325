"""The command `latentgraph`. Each command is a thin layer over `Engine` or the graph package.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 a node failed, 2 the command or the
document is wrong, 3 latentgraph itself failed, 130 interrupted.
"""

from __future__ import annotations

import logging
import signal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentgraph.graph import LatentGraphError

from .cache import cache_app
from .exits import ending, print_json
from .options import AsJson, CacheDir, File, Models, OutputFolder, PrecisionName, PrecisionOption, Settings
from .serve import serve
from .show import make_console, show_message, show_problems
from .submit import submit
from .token import token_app
from .webhook import webhook_secret

if TYPE_CHECKING:
    from .engine import Engine, Workflow
    from .execution import Outcome
    from .sources import Source

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Pictures from workflow graphs for latent diffusion.",
)
app.add_typer(cache_app, name="cache")
app.add_typer(token_app, name="token")


def main() -> None:
    """Runs the command line; the entry point of the script `latentgraph`."""
    signal.signal(signal.SIGTERM, _interrupt)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    app()


@app.command()
def run(
    file: File,
    settings: Settings = None,
    output: OutputFolder = Path("output"),
    precision: PrecisionOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep and reuse nothing.")] = False,
    cache_dir: CacheDir = None,
    models: Models = None,
    as_json: AsJson = False,
) -> None:
    """Run a workflow and print the files that it made."""
    from .engine import Engine
    from .sources import read_source

    with ending(as_json):
        source = read_source(file)
        chosen = _precision(precision, source)
        engine = Engine(precision=chosen, device=device, cache=not no_cache, cache_dir=cache_dir, models=models)
        with engine:
            outcome = _execute(engine, _load(engine, source, settings, warn=True), output)
            _show_outcome(outcome, as_json)
            outcome.result.raise_failure()


app.command()(submit)
app.command()(serve)
app.command()(webhook_secret)


@app.command()
def validate(file: File, settings: Settings = None, models: Models = None, as_json: AsJson = False) -> None:
    """Check a workflow without running it: every problem with file, line and column."""
    from .engine import Engine
    from .sources import read_source

    with ending(as_json), Engine(models=models) as engine:
        graph = _load(engine, read_source(file), settings, warn=not as_json).graph
        if as_json:
            print_json({"valid": True, "nodes": len(graph.nodes), "problems": [w.as_json() for w in graph.warnings]})
        else:
            count = len(graph.nodes)
            typer.echo(f"{file}: {count} node{'s' * (count != 1)}, no error")


@app.command()
def explain(
    file: File,
    settings: Settings = None,
    precision: PrecisionOption = None,
    device: Annotated[str, typer.Option(help="As for run.")] = "auto",
    cache_dir: CacheDir = None,
    models: Models = None,
    as_json: AsJson = False,
) -> None:
    """Say for each node whether a run would reuse or compute it, and what changed since the last run."""
    from .engine import Engine
    from .show import show_explanations
    from .sources import read_source

    with ending(as_json):
        source = read_source(file)
        chosen = _precision(precision, source)
        with Engine(precision=chosen, device=device, cache_dir=cache_dir, models=models) as engine:
            explanations = engine.explain(_load(engine, source, settings, warn=not as_json))
        if as_json:
            print_json(
                {one.node: {"status": one.status, "tier": one.tier, "changes": one.changes} for one in explanations}
            )
        else:
            show_explanations(make_console(), explanations)


class DrawFormat(StrEnum):
    """What `draw` writes."""

    svg = "svg"
    mermaid = "mermaid"


@app.command()
def draw(
    file: File,
    settings: Settings = None,
    format: Annotated[DrawFormat, typer.Option(help="The kind of picture.")] = DrawFormat.svg,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file, instead of standard output.")] = None,
    models: Models = None,
) -> None:
    """Draw a workflow as SVG or Mermaid."""
    from latentgraph.graph.draw import mermaid, svg

    from .engine import Engine
    from .folders import check_writable
    from .sources import read_source

    with ending(), Engine(models=models) as engine:
        graph = _load(engine, read_source(file), settings, warn=True).graph
        text = svg(graph) if format is DrawFormat.svg else mermaid(graph)
        if output is None:
            typer.echo(text, nl=False)
        else:
            check_writable(output.parent, "folder", "name another file with --output")
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(text, encoding="utf-8")


@app.command()
def workflows(
    file: Annotated[
        Path | None, typer.Argument(help="A workflow, the name of one of the package's, or a picture that was saved.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the workflows of the package, or show the parameters of one, which --set gives, and its outputs."""
    from .describe import show_workflow, show_workflows, workflow_json
    from .folders import bundled_workflows
    from .sources import read_source

    with ending(as_json):
        if file is None:
            documents = {name: read_source(path).document for name, path in bundled_workflows().items()}
            if as_json:
                print_json({name: workflow_json(document) for name, document in documents.items()})
            else:
                show_workflows(make_console(), documents)
            return
        document = read_source(file).document
        document.raise_errors()
        if as_json:
            print_json(workflow_json(document))
        else:
            show_workflow(make_console(), document)


@app.command()
def nodes(
    name: Annotated[
        str | None, typer.Argument(help="A node type, ComfyUI's name for one, or a word to look for.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the node types, all or those about something, or show the inputs, outputs and documentation of one."""
    from latentgraph.nodes import default_registry, node_groups

    from .describe import matching, node_json, show_node, show_nodes

    registry, groups = default_registry(), node_groups()
    with ending(as_json):
        one = None if name is None else registry.get(registry.by_comfy.get(name, name))
        wanted = groups if name is None else {"": (one,)} if one else matching(groups, name)
        if not wanted:
            near = registry.near(name or "")
            hint = f" Did you mean {near!r}?" if near else " `latentgraph nodes` lists what there is."
            raise LatentGraphError(f"there is no node type {name!r}, and none about it.{hint}")
        if as_json:
            print_json({cls.spec.type: node_json(cls.spec) for classes in wanted.values() for cls in classes})
        elif one:
            show_node(make_console(), one.spec)
        else:
            show_nodes(make_console(), wanted)


@app.command()
def models(
    file: Annotated[
        str | None, typer.Argument(help="A path or name, to see what this file alone can be used as.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--models", help="The folder to look in, instead of the one in the user's data folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the model files that documents can name (checkpoints, VAEs, LoRAs and so on), with the family of each."""
    from .folders import make_resolver, models_folder
    from .model_files import model_rows, rows_of, show_models, show_rows

    with ending(as_json):
        place = folder or models_folder()
        resolver = make_resolver(place)
        rows = model_rows(resolver) if file is None else rows_of(resolver, file)
        if as_json:
            print_json(rows)
        elif file is None:
            show_models(make_console(), rows, place)
        else:
            show_rows(make_console(), rows)


@app.command()
def schema() -> None:
    """Print the JSON Schema of workflows, for editors."""
    from latentgraph.graph import json_schema
    from latentgraph.nodes import default_registry

    print_json(json_schema(default_registry()))


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Pictures from workflow graphs for latent diffusion."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"latentgraph {installed('latentgraph')}")
        raise typer.Exit


def _load(engine: Engine, source: Source, settings: list[str] | None, *, warn: bool) -> Workflow:
    """Returns the checked workflow with the values of `--set`; shows its warnings if asked to."""
    from .settings import read_settings, telling_how

    given = read_settings(source.document.params, settings or []) if settings else {}
    with telling_how(source.document.params):
        workflow = engine.load(source, given)
    if warn:
        console = make_console(stderr=True)
        show_problems(console, workflow.graph.warnings)
        for sentence in source.made_as.differences(precision=engine.precision) if source.made_as else ():
            show_message(console, "warning", f"{sentence}; the pixels may differ")
    return workflow


def _precision(chosen: PrecisionName | None, source: Source) -> Any:
    """Returns the precision to run in: the one asked for, else the one that the picture was made with, else auto."""
    if chosen is not None:
        return chosen.value
    return source.made_as.precision if source.made_as else "auto"


def _execute(engine: Engine, workflow: Workflow, output: Path) -> Outcome:
    from .show import RunBars

    with RunBars(make_console(stderr=True)) as bars:
        return engine.execute(workflow, output_dir=output, on_event=bars.on_event)


def _show_outcome(outcome: Outcome, as_json: bool) -> None:
    from .show import show_summary

    show_summary(make_console(stderr=True), outcome.result)
    if as_json:
        print_json(outcome.as_json())
        return
    for files in outcome.files.values():
        for file in files:
            typer.echo(str(file))


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
