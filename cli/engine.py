"""Engine: latentgraph as a Python program uses it, and what every command runs on.

It holds what runs share (node types, caches, loaded weights, worker threads) and puts the engine and the nodes together. No
torch is imported before something is computed or keyed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentgraph.diffusion.names import Precision
from latentgraph.graph import (
    Cache,
    DiskCache,
    Explanation,
    Fingerprints,
    FolderResolver,
    Graph,
    History,
    LatentGraphError,
    MemoryCache,
    NoCache,
    OnEvent,
    PlainCodec,
    Plan,
    Registry,
    Scheduler,
    TieredCache,
    all_key_parts,
    build_graph,
    cache_keys,
    explain,
    make_plan,
)
from latentgraph.graph.dag import each_link
from latentgraph.graph.wording import names
from latentgraph.nodes import default_registry
from latentgraph.nodes.codec import TensorCodec

from .execution import Execution, Outcome
from .folders import PREVIEW_FOLDER, cache_folder, check_writable, make_resolver, models_folder
from .outputs import as_pillow
from .provenance import KEYWORD, describe_making
from .sources import Source, read_source

if TYPE_CHECKING:
    from latentgraph.diffusion.networks.memory import WeightMemory
    from latentgraph.server.files.resolving import ServerResolver

GIB = 1 << 30
DISK_CAP_BYTES = 10 * GIB
"""How much the disk cache holds unless told otherwise."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workflow:
    """A document that is checked and ready to run."""

    source: Source
    graph: Graph


class Engine:
    """Runs workflows. Keep one for many runs: what it loaded and computed is used again.

    precision: "auto" is fast, "exact" is float32 with a fixed order of operations, the others are a format for all networks.
    device: "auto", "cpu", "cuda" or "cuda:N". cache_dir: where results are kept on disk (the user's cache folder if None).
    cache: False keeps nothing between runs. models: the folder with `checkpoints/` and `vae/`. memory_bytes: the budget for
    loaded weights. resolver: what the names of files stand for (names below `models`, and paths, if None).
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
        resolver: FolderResolver | ServerResolver | None = None,
    ) -> None:
        self.precision, self.device = precision, device
        self.registry = registry or default_registry()
        self.models = Path(models) if models else models_folder()
        self.resolver = resolver or make_resolver(self.models)
        self._memory_bytes = memory_bytes
        folder = Path(cache_dir) if cache_dir else cache_folder()
        self._cache_was_named = cache and cache_dir is not None
        self._codec = PlainCodec(TensorCodec())
        self.fingerprints = Fingerprints(folder / "fingerprints" if cache else None)
        self._history = History(folder / "history" if cache else None)
        self.disk_cache = DiskCache(folder / "results", self._codec, cache_bytes)
        self._memory_cache = MemoryCache(self._codec, _memory_cache_bytes())
        self.cache: Cache = TieredCache((self._memory_cache, self.disk_cache)) if cache else NoCache()

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
        outcome = self.execute(
            self.load(workflow, params), output_dir=Path(output_dir), on_event=on_event, save_outputs=False
        )
        outcome.result.raise_failure()
        return {name: as_pillow(value) for name, value in outcome.result.outputs.items()}

    def load(
        self, workflow: Source | Path | str | Mapping[str, Any], params: Mapping[str, Any] | None = None
    ) -> Workflow:
        """Returns a workflow, checked. Raises InvalidWorkflow with every problem found, or LatentGraphError."""
        source = workflow if isinstance(workflow, Source) else read_source(workflow)
        graph = build_graph(source.document, self.registry, params=params, resolver=self.resolver)
        other_files = any(source.document.params[name].file_kind for name in params or {})
        if source.made_as is not None and not other_files:
            source.made_as.check_files(graph, self.fingerprints)
        return Workflow(source, graph)

    def plan(self, workflow: Workflow, outputs: Collection[str] = ()) -> Plan:
        """Returns what a run would do now; with `outputs`, one that is for these alone."""
        graph = workflow.graph
        if unknown := sorted(set(outputs) - set(graph.outputs)):
            known = names(graph.outputs)
            raise LatentGraphError(f"there is no output {unknown[0]!r} in {graph.name!r}; known: {known}")
        targets = {link.node for name in outputs for link in each_link(graph.outputs[name])}
        keys = cache_keys(graph, self.fingerprints, self.environment)
        return make_plan(graph, keys, self.cache.tier, sorted(targets) if outputs else None)

    def explain(self, workflow: Workflow) -> tuple[Explanation, ...]:
        """Returns for each node whether it would be reused or run, and what changed since the last run of the document."""
        plan = self.plan(workflow)
        parts = all_key_parts(plan, self.environment)
        return explain(plan, parts, self._history.last(workflow.graph))

    def execute(
        self,
        workflow: Workflow,
        *,
        output_dir: Path = Path("output"),
        on_event: OnEvent | None = None,
        save_outputs: bool = True,
    ) -> Outcome:
        """Runs a checked workflow to its end and returns what came of it, failures included; see `start`."""
        return self.start(workflow, output_dir=output_dir, on_event=on_event, save_outputs=save_outputs).wait()

    def start(
        self,
        workflow: Workflow,
        *,
        output_dir: Path = Path("output"),
        on_event: OnEvent | None = None,
        save_outputs: bool = True,
        outputs: Collection[str] = (),
    ) -> Execution:
        """Starts to run a checked workflow.

        save_outputs: whether an output picture that no node of the document saves is saved here, under the output's name.
        outputs: the names of those that are wanted; without any, all are, and what nodes save.
        """
        check_writable(output_dir, "output folder", "name another one with --output (output_dir)")
        self._prepare_cache()
        plan = self.plan(workflow, outputs)
        parts = all_key_parts(plan, self.environment)
        self._history.remember(workflow.graph, parts)
        making = describe_making(
            workflow.source.document,
            plan,
            precision=self.precision,
            environment=self.environment,
            resolver=self.resolver,
            output_dir=output_dir,
        )
        provenance = {KEYWORD: making.as_text()}
        run = self._scheduler.start(plan, on_event=on_event, output_dir=output_dir, provenance=provenance)
        return Execution(self._scheduler, run, output_dir if save_outputs else None)

    def warm_up(self) -> None:
        """Imports what computing takes, torch and the networks among it, and makes the device ready. No weight is loaded."""
        import torch

        torch.zeros(1, device=self.memory.policy.device)
        _ = self._scheduler

    def free_memory(self) -> None:
        """Lets go of all results and weights that are held in memory and not in use."""
        import torch

        self._memory_cache.clear()
        self.memory.evict_unused()
        torch.cuda.empty_cache()

    @property
    def memory_use(self) -> Mapping[str, int]:
        """The bytes that are held, by what they are. Nothing is loaded to find out."""
        weights = self.memory.resident_bytes if "memory" in self.__dict__ else 0
        return {"weights": weights, "results": self._memory_cache.used_bytes}

    def _prepare_cache(self) -> None:
        """Finds out before a run whether results can be kept: a folder that was named must do, the user's own may not."""
        if not isinstance(self.cache, TieredCache):
            return
        try:
            check_writable(
                self.disk_cache.folder, "cache folder", "name another one, or run with --no-cache (cache=False)"
            )
        except LatentGraphError as error:
            if self._cache_was_named:
                raise
            _log.warning("%s; nothing is kept on disk", error)
            self.cache = self._memory_cache

    @cached_property
    def environment(self) -> str:
        """What changes pixels apart from the document: precision, device class, number format, and torch's version."""
        import torch

        return f"{self.memory.policy.cache_token}/torch-{torch.__version__}"

    @cached_property
    def memory(self) -> WeightMemory:
        """The loaded weights."""
        import torch

        from latentgraph.diffusion.networks.memory import WeightMemory

        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        _check_device(device)
        return WeightMemory(budget_bytes=self._memory_bytes, device=device, precision=self.precision)

    @cached_property
    def _scheduler(self) -> Scheduler:
        from latentgraph.diffusion.latents.preview_decoders import PreviewDecoders

        memory = self.memory
        resources: dict[type, Any] = {type(memory): memory}
        resources[PreviewDecoders] = PreviewDecoders(self.models / PREVIEW_FOLDER, memory)
        return Scheduler(self.cache, self._codec, fingerprints=self.fingerprints, resources=resources)


def _check_device(device: str) -> None:
    """Raises LatentGraphError for a device that is not there."""
    import torch

    kind, _, index = device.partition(":")
    if device == "cpu":
        return
    if kind != "cuda" or (index and not index.isdecimal()):
        raise LatentGraphError(f"there is no device {device!r}; expected auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        reason = "no NVIDIA GPU or driver was found" if torch.version.cuda else "this build of torch is for CPUs alone"
        raise LatentGraphError(f"the device {device!r} can't be used: {reason} (torch {torch.__version__}); use cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise LatentGraphError(f"there is no device {device!r}; GPUs here: {torch.cuda.device_count()}, from cuda:0 on")


def _memory_cache_bytes() -> int:
    """Returns the budget for results in memory: an eighth of the machine's, at most 2 GiB."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        total = 8 * GIB
    return min(total // 8, 2 * GIB)
