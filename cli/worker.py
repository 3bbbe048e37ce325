"""The worker program: runs the jobs of a server on an Engine. The server starts it, with a channel to talk through.

What it tells goes to whoever sent the job, so it names no folder of this machine. Only here, in a process of its own, does a
server import torch; if that process breaks, the server starts another.
"""

from __future__ import annotations

import argparse
import errno
import faulthandler
import io
import json
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from latentgraph.diffusion.names import Precision
from latentgraph.graph import (
    Event,
    InvalidWorkflow,
    LatentGraphError,
    NodeErred,
    NodeFailed,
    NodeFinished,
    NodeProgress,
    NodeReused,
    NodeSaved,
    NodeStarted,
    NodeWarned,
    RunStarted,
    document_from_tree,
)
from latentgraph.server.jobs.values import EventKind
from latentgraph.server.workers.messages import Done, Failure, NodeReport, Ready, RunJob
from latentgraph.server.workers.worker import Cancellation, Report, failed, serve_jobs

from .engine import DISK_CAP_BYTES, Engine
from .execution import Outcome
from .folders import make_server_resolver
from .provenance import versions
from .sources import Source

EXIT_BROKEN_DEVICE = 71
"""The exit code of a worker whose device can't be used any more."""

_PREVIEW_SECONDS = 0.25  # between previews of a job
_PREVIEW_PIXELS = 1024  # the longer side, at most
_FLEETING = frozenset(
    (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
        errno.EAGAIN,
        errno.ETIMEDOUT,
        errno.ESTALE,
    )
)
"""What may be otherwise another time."""

_log = logging.getLogger(__name__)


class EngineRunner:
    """Runs jobs on an engine; see `server.worker.Runner`. private: folders of this machine, with what they are told as."""

    def __init__(self, engine: Engine, private: Mapping[Path, str]) -> None:
        self._engine, self._private = engine, private

    def warm_up(self) -> Ready:
        """Imports torch and the networks, and makes the device ready."""
        self._engine.warm_up()
        device = str(self._engine.memory.policy.device)
        return Ready(device=device, versions=versions(), environment=self._engine.environment)

    def memory(self) -> Mapping[str, int]:
        """Returns the bytes in use by weights and by results."""
        return self._engine.memory_use

    def close(self) -> None:
        """Ends the engine's threads."""
        self._engine.close()

    def run(self, job: RunJob, report: Report, cancellation: Cancellation) -> Done:
        """Runs a job to its end. Raises SystemExit where the device is broken: the process is of no use any more."""
        begun = time.perf_counter()
        folder = Path(job.output_dir).resolve()
        words = _Words({folder: "output", **self._private})
        try:
            source = Source(document_from_tree(json.loads(job.document)))
            workflow = self._engine.load(source, dict(job.params))
            execution = self._engine.start(
                workflow,
                output_dir=folder,
                on_event=_Teller(report, folder, words, previews=job.previews),
                outputs=job.outputs,
            )
            cancellation.call(execution.cancel)
            outcome = execution.wait()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the job's end and not the worker's
            return failed(job, self._failure(error, words), time.perf_counter() - begun)
        failures = list(outcome.result.failures.values())
        if failures:
            return failed(job, self._failure(failures[0], words), time.perf_counter() - begun)
        if outcome.result.status == "cancelled":
            return Done(job=job.job, attempt=job.attempt, status="cancelled", seconds=time.perf_counter() - begun)
        return Done(
            job=job.job,
            attempt=job.attempt,
            status="succeeded",
            files=_files(outcome, workflow.graph.outputs, folder),
            values=_values(outcome, report),
            nodes={
                id: NodeReport(status=node.status, tier=node.tier or "", seconds=node.seconds)
                for id, node in outcome.result.nodes.items()
            },
            seconds=time.perf_counter() - begun,
        )

    def _failure(self, error: BaseException, words: _Words) -> Failure:
        """Returns why a job failed; what the person who sent it can't mend is logged with its trace."""
        cause = error.cause if isinstance(error, NodeFailed) else error
        if not isinstance(cause, LatentGraphError):
            _log.error("a job failed", exc_info=cause)
        if _is_broken_device(cause):
            _log.critical("the device can't be used any more; the worker ends")
            raise SystemExit(EXIT_BROKEN_DEVICE)
        no_memory = _is_out_of_memory(cause)
        if no_memory:
            self._engine.free_memory()
        retry = no_memory or (isinstance(cause, OSError) and cause.errno in _FLEETING)
        if isinstance(error, NodeFailed):
            message = words.told(str(error))
            return Failure(code="node_failed", message=message, node=error.node, node_type=error.node_type, retry=retry)
        code = "invalid_workflow" if isinstance(error, InvalidWorkflow) else "run_failed"
        message = str(error) if isinstance(error, LatentGraphError) else f"{type(error).__name__}: {error}"
        return Failure(code=code, message=words.told(message), retry=retry)


class _Words:
    """Puts texts into words for others: folders of this machine by the names that they are told as."""

    def __init__(self, private: Mapping[Path, str]) -> None:
        named = {str(path): name for folder, name in private.items() for path in (folder, folder.resolve())}
        self._named = sorted(named.items(), key=lambda item: -len(item[0]))

    def told(self, text: str) -> str:
        """Returns a text without the folders."""
        for path, name in self._named:
            text = text.replace(path, name)
        return text


class _Teller:
    """Passes the events of a run on as a job's."""

    def __init__(self, report: Report, folder: Path, words: _Words, *, previews: bool) -> None:
        self._report, self._folder, self._words, self._previews = report, folder, words, previews
        self._next_preview = 0.0

    def __call__(self, event: Event) -> None:
        tell, where = self._report.event, (event.node, event.node_type)
        match event:
            case RunStarted():
                tell(EventKind.PLANNED, nodes=event.nodes)
            case NodeStarted():
                tell(EventKind.NODE_STARTED, *where)
            case NodeReused():
                tell(EventKind.NODE_CACHED, *where, tier=event.tier, seconds_saved=event.seconds_saved)
            case NodeProgress():
                tell(EventKind.PROGRESS, *where, step=event.step, total=event.total, seconds_left=event.seconds_left)
                self._show(event)
            case NodeWarned():
                tell(EventKind.WARNING, *where, message=self._words.told(event.message))
            case NodeSaved():
                tell(EventKind.SAVED, *where, name=_name(event.path, self._folder))
            case NodeFinished():
                tell(EventKind.NODE_FINISHED, *where, seconds=event.seconds)
            case NodeErred():
                tell(EventKind.NODE_FAILED, *where, message=self._words.told(str(event.error)))

    def _show(self, event: NodeProgress) -> None:
        """Shows what a node has so far, a few times a second."""
        if not self._previews or event.preview is None or time.monotonic() < self._next_preview:
            return
        from PIL import Image as Pillow

        picture = Pillow.fromarray(event.preview().numpy())
        picture.thumbnail((_PREVIEW_PIXELS, _PREVIEW_PIXELS))
        jpeg = io.BytesIO()
        picture.save(jpeg, "JPEG", quality=85)
        self._report.preview(event.node, jpeg.getvalue())
        self._next_preview = time.monotonic() + _PREVIEW_SECONDS


def _files(outcome: Outcome, outputs: Mapping[str, Any], folder: Path) -> dict[str, tuple[str, ...]]:
    """Returns the names of the saved files by output; those that belong to none go by the node that saved them."""
    named = {output: tuple(_name(path, folder) for path in paths) for output, paths in outcome.files.items() if paths}
    known = {name for names in named.values() for name in names}
    for id, node in outcome.result.nodes.items():
        others = tuple(name for path in node.files if (name := _name(path, folder)) not in known)
        if others:
            named[f"{id}.saved" if id in outputs else id] = others
    return named


def _name(path: Path, folder: Path) -> str:
    """Returns the name of a file below the output folder; of one that is not, its last part, which no output has."""
    path = path.resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _values(outcome: Outcome, report: Report) -> dict[str, Any]:
    """Returns the outputs that are JSON; says of one that is neither that nor a picture that it is not kept."""
    values: dict[str, Any] = {}
    for name, value in outcome.result.outputs.items():
        if outcome.files.get(name):
            continue
        try:
            values[name] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            kind = type(value).__name__
            message = f"the output {name!r} is a {kind}, which is neither picture nor JSON; it is not kept"
            report.event(EventKind.WARNING, message=message)
    return values


def _is_out_of_memory(error: BaseException | None) -> bool:
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError)


def _is_broken_device(error: BaseException | None) -> bool:
    """Returns whether an error says that nothing more can be computed on the device by this process."""
    return isinstance(error, RuntimeError) and not _is_out_of_memory(error) and "CUDA error" in str(error)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the worker until its server has no more jobs for it."""
    parser = argparse.ArgumentParser(prog="python -m latentgraph.cli.worker", description=__doc__)
    parser.add_argument("--channel-fd", type=int, required=True, help="the socket to the server")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    parser.add_argument("--models", type=Path, required=True, help="the folder of model files")
    parser.add_argument("--uploads", type=Path, required=True, help="the folder of the server's uploads")
    parser.add_argument("--cache-dir", type=Path, required=True, help="where results are kept")
    parser.add_argument("--cache-bytes", type=int, default=DISK_CAP_BYTES, help="how much is kept there")
    parser.add_argument("--memory-bytes", type=int, help="the budget for loaded weights")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    engine = Engine(
        precision=options.precision,
        device=options.device,
        cache_dir=options.cache_dir,
        cache_bytes=options.cache_bytes,
        models=options.models,
        memory_bytes=options.memory_bytes,
        resolver=make_server_resolver(options.models, options.uploads),
    )
    private = {
        options.models: "models",
        options.uploads: "uploads",
        options.cache_dir: "cache",
        Path(str(files("latentgraph.models"))): "models",
    }
    serve_jobs(socket.socket(fileno=options.channel_fd), EngineRunner(engine, private))


if __name__ == "__main__":
    main()
    os._exit(0)  # all is done and written; Python's own end now and then aborts on what libraries leave behind
