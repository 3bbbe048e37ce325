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
    Cache,
    DiskCache,
    Explanation,
    Fingerprints,
    Graph,
    History,
    LatentGraphError,
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
    explain,
    make_plan,
)
from latentgraph.nodes import default_registry
from latentgraph.nodes.codec import TensorCodec

from .folders import cache_folder, check_writable, make_resolver, models_folder
from .outputs import as_pillow, save_output, saved_files
from .provenance import KEYWORD, describe_making
from .sources import Source, read_source

if TYPE_CHECKING:
    from latentgraph.diffusion.memory import WeightMemory

Precision = Literal["auto", "exact"]
GIB = 1 << 30
DISK_CAP_BYTES = 10 * GIB
"""How much the disk cache holds unless told otherwise."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workflow:
    """A document that is checked and ready to run."""

    source: Source
    graph: Graph


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
        self._cache_was_named = cache and cache_dir is not None
        self._codec = PlainCodec(TensorCodec())
        self.fingerprints = Fingerprints(folder / "fingerprints" if cache else None)
        self._history = History(folder / "history" if cache else None)
        self.disk_cache = DiskCache(folder / "results", self._codec, cache_bytes)
        tiers = (MemoryCache(self._codec, _memory_cache_bytes()), self.disk_cache)
        self.cache: Cache = TieredCache(tiers) if cache else NoCache()

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

    def plan(self, workflow: Workflow) -> Plan:
        """Returns what a run would do now."""
        keys = cache_keys(workflow.graph, self.fingerprints, self.environment)
        return make_plan(workflow.graph, keys, self.cache.tier)

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
        """Runs a checked workflow to its end and returns what came of it, failures included.

        save_outputs: whether an output picture that no node of the document saves is saved here, under the output's name.
        Interrupted (KeyboardInterrupt), the run is cancelled within a step and the interrupt is raised on.
        """
        check_writable(output_dir, "output folder", "name another one with --output (output_dir)")
        self._prepare_cache()
        plan = self.plan(workflow)
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
        result = self._scheduler.run(plan, on_event=on_event, output_dir=output_dir, provenance=provenance)
        files = saved_files(workflow.graph, result)
        for name, value in result.outputs.items() if save_outputs else ():
            if name not in files:
                files[name] = save_output(name, value, output_dir, provenance)
        return Outcome(result, files)

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
            self.cache = MemoryCache(self._codec, _memory_cache_bytes())

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
        _check_device(device)
        return WeightMemory(budget_bytes=self._memory_bytes, device=device, precision=self.precision)

    @cached_property
    def _scheduler(self) -> Scheduler:
        memory = self.memory
        resources = {type(memory): memory}
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
