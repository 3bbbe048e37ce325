"""Engine: latentgraph as a Python program uses it, and what every command runs on.

It holds what runs share (node types, caches, loaded weights, worker threads) and puts the engine and the nodes together. No
torch is imported before something is computed or keyed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latentgraph.graph import (
    DiskCache,
    Document,
    Explanation,
    Fingerprints,
    Graph,
    History,
    LatentGraphError,
    Link,
    MemoryCache,
    NoCache,
    OnEvent,
    PlainCodec,
    Plan,
    Registry,
    RunResult,
    Scheduler,
    TieredCache,
    all_key_parts,
    build_graph,
    cache_keys,
    document_from_tree,
    explain,
    load_document,
    make_plan,
)
from latentgraph.nodes import default_registry
from latentgraph.nodes.codec import TensorCodec

from .folders import cache_folder, make_resolver, models_folder
from .provenance import KEYWORD, Provenance, describe_making, read_provenance

if TYPE_CHECKING:
    from latentgraph.diffusion.memory import WeightMemory

Precision = Literal["auto", "exact"]
GIB = 1 << 30
DISK_CAP_BYTES = 10 * GIB
"""How much the disk cache holds unless told otherwise."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workflow:
    """A document that is checked and ready to run. made_as: how the picture was made that the document came from."""

    document: Document
    graph: Graph
    made_as: Provenance | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run gave: its result, and the files by output name for those outputs that were saved."""

    result: RunResult
    files: Mapping[str, tuple[Path, ...]]


class Engine:
    """Runs workflows. Keep one for many runs: what it loaded and computed is used again.

    precision: "auto" is fast, "exact" is float32 with a fixed order of operations. device: "auto", "cpu", "cuda" or
    "cuda:N". cache_dir: where results are kept on disk (the user's cache folder if None). cache: False keeps nothing
    between runs. models: the folder with `checkpoints/` and `vae/`. memory_bytes: the budget for loaded weights.
    """

    def __init__(
        self,
        *,
        precision: Precision = "auto",
        device: str = "auto",
        cache: bool = True,
        cache_dir: Path | str | None = None,
        cache_bytes: int = DISK_CAP_BYTES,
        models: Path | str | None = None,
        memory_bytes: int | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.precision, self.device = precision, device
        self.registry = registry or default_registry()
        self.models = Path(models) if models else models_folder()
        self.resolver = make_resolver(self.models)
        self._memory_bytes = memory_bytes
        folder = Path(cache_dir) if cache_dir else cache_folder()
        self._codec = PlainCodec(TensorCodec())
        self.fingerprints = Fingerprints(folder / "fingerprints" if cache else None)
        self._history = History(folder / "history" if cache else None)
        self.disk_cache = DiskCache(folder / "results", self._codec, cache_bytes)
        tiers = (MemoryCache(self._codec, _memory_cache_bytes()), self.disk_cache)
        self.cache = TieredCache(tiers) if cache else NoCache()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker threads. Safe to repeat; an engine that is closed can't run."""
        if "_scheduler" in self.__dict__:
            self._scheduler.close()

    def run(
        self,
        workflow: Path | str | Mapping[str, Any],
        *,
        output_dir: Path | str = "output",
        on_event: OnEvent | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        """Runs a workflow and returns its outputs by name, pictures and masks as Pillow images (a list for several).

        workflow: a file, a picture that latentgraph saved, or a document as a mapping. params: values for its parameters.
        Raises InvalidWorkflow before anything runs, NodeFailed, or RunCancelled.
        """
        outcome = self.execute(self.load(workflow, params), output_dir=Path(output_dir), on_event=on_event)
        outcome.result.raise_failure()
        return {name: _for_people(value) for name, value in outcome.result.outputs.items()}

    def load(self, workflow: Path | str | Mapping[str, Any], params: Mapping[str, Any] | None = None) -> Workflow:
        """Returns a workflow, checked. Raises InvalidWorkflow with every problem found, or LatentGraphError."""
        made_as: Provenance | None = None
        if isinstance(workflow, Mapping):
            document = document_from_tree(dict(workflow))
        elif Path(workflow).suffix.lower() == ".png":
            made_as = read_provenance(Path(workflow))
            document = document_from_tree(dict(made_as.document), file=_base_file(made_as, Path(workflow)))
            params = {**made_as.params, **(params or {})}
        else:
            document = load_document(workflow)
        graph = build_graph(document, self.registry, params=params, resolver=self.resolver)
        if made_as is not None:
            made_as.check_files(graph, self.fingerprints)
        return Workflow(document, graph, made_as)

    def plan(self, workflow: Workflow) -> Plan:
        """Returns what a run would do now."""
        keys = cache_keys(workflow.graph, self.fingerprints, self.environment)
        return make_plan(workflow.graph, keys, self.cache.tier)

    def explain(self, workflow: Workflow) -> tuple[Explanation, ...]:
        """Returns for each node whether it would be reused or run, and what changed since the last run of the document."""
        plan = self.plan(workflow)
        parts = all_key_parts(workflow.graph, plan.keys, self.fingerprints, self.environment)
        return explain(plan, parts, self._history.last(workflow.graph))

    def execute(
        self, workflow: Workflow, *, output_dir: Path = Path("output"), on_event: OnEvent | None = None
    ) -> Outcome:
        """Runs a checked workflow to its end and returns what came of it, failures included.

        An output picture that no node of the document saves is saved here under the output's name. Interrupted
        (KeyboardInterrupt), the run is cancelled within a step and the interrupt is raised on.
        """
        plan = self.plan(workflow)
        parts = all_key_parts(workflow.graph, plan.keys, self.fingerprints, self.environment)
        self._history.remember(workflow.graph, parts)
        making = describe_making(
            workflow.document,
            workflow.graph,
            precision=self.precision,
            environment=self.environment,
            fingerprints=self.fingerprints,
        )
        provenance = {KEYWORD: making.as_text()}
        result = self._scheduler.run(plan, on_event=on_event, output_dir=output_dir, provenance=provenance)
        return Outcome(result, _output_files(workflow.graph, result, output_dir, provenance))

    @cached_property
    def environment(self) -> str:
        """What changes pixels apart from the document: precision, device class, number format, and torch's version."""
        import torch

        return f"{self.memory.policy.cache_token}/torch-{torch.__version__}"

    @cached_property
    def memory(self) -> WeightMemory:
        """The loaded weights."""
        import torch

        from latentgraph.diffusion.memory import WeightMemory

        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            return WeightMemory(budget_bytes=self._memory_bytes, device=device, precision=self.precision)
        except RuntimeError as error:
            raise LatentGraphError(f"the device {self.device!r} can't be used: {error}") from None

    @cached_property
    def _scheduler(self) -> Scheduler:
        memory = self.memory
        resources = {type(memory): memory}
        return Scheduler(self.cache, self._codec, fingerprints=self.fingerprints, resources=resources)


def _base_file(made_as: Provenance, picture: Path) -> Path:
    """Returns the file that names in a picture's document are relative to: the document's own if it is there."""
    if made_as.file and Path(made_as.file).parent.is_dir():
        return Path(made_as.file)
    return picture


def _memory_cache_bytes() -> int:
    """Returns the budget for results in memory: an eighth of the machine's, at most 2 GiB."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        total = 8 * GIB
    return min(total // 8, 2 * GIB)


def _output_files(
    graph: Graph, result: RunResult, output_dir: Path, provenance: Mapping[str, str]
) -> dict[str, tuple[Path, ...]]:
    """Returns the files of each output: what a node of the document saved of it, or what is saved here."""
    saved: dict[Link | tuple[Link, ...], tuple[Path, ...]] = {}
    for id, node in graph.nodes.items():
        report = result.nodes[id]
        if report.files:
            for links in node.links.values():
                if not isinstance(links, Mapping):
                    saved[links] = saved.get(links, ()) + report.files
    files: dict[str, tuple[Path, ...]] = {}
    for name, value in result.outputs.items():
        links = graph.outputs[name]
        if links in saved:
            files[name] = saved[links]
        elif pictures := _pictures(value):
            from latentgraph.diffusion.saving import save_pictures

            files[name] = tuple(
                path
                for picture in pictures
                for path in save_pictures(picture, output_dir, prefix=name, text=provenance)
            )
    return files


def _pictures(value: Any) -> list[Any]:
    """Returns a value's pictures; masks become grey pictures; anything else has none."""
    from latentgraph.diffusion.types import Image, Mask

    if isinstance(value, list):
        return [picture for item in value for picture in _pictures(item)]
    if isinstance(value, Mask):
        return [Image(value.values.unsqueeze(-1))]
    return [value] if isinstance(value, Image) else []


def _for_people(value: Any) -> Any:
    """Returns pictures and masks as Pillow images, a list for several; anything else as it is."""
    pictures = _pictures(value)
    if not pictures:
        return value
    from PIL import Image as Pillow

    from latentgraph.diffusion.pictures import to_8bit

    arrays = [array for picture in pictures for array in to_8bit(picture.pixels)]
    images = [Pillow.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array) for array in arrays]
    return images[0] if len(images) == 1 and not isinstance(value, list) else images
