"""Client: what a program asks of a latentgraph server, without knowing HTTP.

    with Client("http://127.0.0.1:8188") as client:
        job = client.submit(Path("portrait.yaml"), {"prompt": "a red apple"})
        job = client.wait(job.id)
        files = client.download(job, Path("output"))

A server may restart at any moment: requests and streams are tried again within the bounds of `Patience`. A submit carries a
key, so that one that is sent twice is one job; events come in order, each once. No torch, and nothing beyond the standard
library for HTTP. A client may be used from several threads.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from latentgraph.graph import Document

from ..api.catalogue_views import NodeTypesView
from ..api.job_views import EventView, JobPage, JobView, PreviewView
from ..api.views import ProblemView, UploadView, ValidationView, WorkflowPage, WorkflowView
from ..jobs.states import JobState
from .attachments import Sent, find_pictures, pictures_of, read_document, read_picture
from .downloads import fetch_files
from .errors import ClientError, DamagedDownload, NotThere, NotUnderstood, WorkflowRefused
from .following import follow
from .packing import FileKinds, pack, placed
from .transport import Patience, Reply, Transport

M = TypeVar("M", bound=BaseModel)

_POLL_SECONDS = 30.0
_SHORTEST_POLL_SECONDS = 0.2  # between two polls of a server that does not wait


class Client:
    """A latentgraph server. token: needed unless the server runs on this machine for everybody on it."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = Transport(url, token, patience, sleep=sleep, now=now)
        self.url = self._transport.url

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections. It may be repeated, and the client be used again."""
        self._transport.close()

    # Jobs

    def submit(
        self,
        workflow: str | Path | Mapping[str, Any] | Document,
        params: Mapping[str, Any] | None = None,
        *,
        files: Mapping[str, Path | bytes] | None = None,
        outputs: Sequence[str] = (),
        priority: int = 0,
        deadline_seconds: float | None = None,
        max_attempts: int | None = None,
        webhook: str | None = None,
        key: str | None = None,
    ) -> JobView:
        """Submits a job and returns it once the server keeps it, whatever dies then.

        workflow: the name of a stored workflow (a text), a file (a path), or a document; pictures here that its nodes name, and
        the documents that it uses, are sent with it. params: values for its parameters; local pictures that they name are sent,
        too. files: pictures by the parameter that gets them. key: what makes this submit one job however often it is sent; one
        is made for each call. Raises WorkflowRefused with the whole report, InvalidWorkflow for a document that is not here.
        """
        sent, source = self._source(workflow, params or {}, files or {})
        wanted = {
            **source,
            "outputs": list(outputs),
            "priority": priority,
            "deadline_seconds": deadline_seconds,
            "webhook": webhook,
            **({} if max_attempts is None else {"max_attempts": max_attempts}),
        }
        headers = {"Idempotency-Key": secrets.token_hex(16) if key is None else _checked_key(key)}
        return self._parsed(JobView, self._post("/v1/jobs", wanted, sent, headers=headers))

    def job(self, id: str) -> JobView:
        """Returns a job as it stands. Raises NotThere."""
        return self._get(JobView, f"/v1/jobs/{_name(id)}")

    def jobs(self, states: Sequence[JobState] = (), workflow: str | None = None) -> Iterator[JobView]:
        """Yields jobs, the newest first: in some states, or of a stored workflow, or all."""
        query: dict[str, object] = {"state": [state.value for state in states]} if states else {}
        if workflow is not None:
            query["workflow"] = workflow
        while True:
            page = self._get(JobPage, "/v1/jobs", query)
            yield from page.items
            if page.next is None:
                return
            query = {**query, "before": page.next}

    def cancel(self, id: str) -> JobView:
        """Cancels a job and returns it: one that runs stops within a step. It may be repeated."""
        return self._parsed(JobView, self._transport.call("DELETE", f"/v1/jobs/{_name(id)}"))

    def wait(self, id: str, timeout_seconds: float | None = None) -> JobView:
        """Returns a job once it has ended, or as it is when the time is up."""
        until = None if timeout_seconds is None else self._transport.now() + timeout_seconds
        while True:
            begun = self._transport.now()
            left = _POLL_SECONDS if until is None else min(max(until - begun, 0.0), _POLL_SECONDS)
            job = self._get(JobView, f"/v1/jobs/{_name(id)}", {"wait": f"{left:.3f}"}, later_seconds=left)
            now = self._transport.now()
            if job.ended or (until is not None and now >= until):
                return job
            if now - begun < _SHORTEST_POLL_SECONDS:
                self._transport.sleep(_SHORTEST_POLL_SECONDS)

    def events(self, id: str, after: int = 0, *, previews: bool = False) -> Iterator[EventView | PreviewView]:
        """Yields what happens to a job, from event `after` on to its end: every event once, in order, as it happens.

        After a connection that breaks, or a server that restarts, it goes on where it was. previews: pictures of a node's
        state so far, too; they have no number, and those that are missed are not shown again.
        """
        return follow(self._transport, id, after, previews=previews)

    def download(self, job: JobView | str, folder: Path) -> dict[str, tuple[Path, ...]]:
        """Fetches the files of a job into a folder and returns them by output. It may be repeated; nothing is replaced.

        Each is checked against the size and digest that the server tells, and appears under its name once it is whole.
        """
        return fetch_files(self._transport, self.job(job) if isinstance(job, str) else job, folder)

    # Files and workflows

    def upload(self, picture: Path | bytes) -> str:
        """Sends a picture, unless the server has it, and returns its content id, which parameters take."""
        data, id = read_picture(picture)
        digest = id.partition(":")[2]
        try:
            known = self._transport.call(
                "GET", f"/v1/files/{id}", headers={"If-None-Match": f'"{digest}"'}, also=frozenset((304,))
            )
            if known.status == 304:
                return id
        except NotThere:
            pass
        headers = {"Content-Type": "application/octet-stream", "Connection": "close"}
        view = self._parsed(UploadView, self._transport.call("POST", "/v1/files", headers=headers, body=data))
        if view.id != id:
            raise DamagedDownload(f"the picture arrived as {view.id}, and was sent as {id}; send it again")
        return id

    def workflows(self) -> Iterator[WorkflowView]:
        """Yields the stored workflows, by name."""
        query: dict[str, object] = {}
        while True:
            page = self._get(WorkflowPage, "/v1/workflows", query)
            yield from page.items
            if page.next is None:
                return
            query = {"after": page.next}

    def workflow(self, name: str) -> WorkflowView:
        """Returns what is known of a stored workflow. Raises NotThere."""
        return self._get(WorkflowView, f"/v1/workflows/{_name(name)}")

    def store_workflow(self, name: str, workflow: Path | Mapping[str, Any] | Document) -> WorkflowView:
        """Stores a workflow under a name, in place of the one it had. Raises WorkflowRefused.

        It can be run without what is here: local pictures that it names are sent, and the documents that it uses go with it.
        """
        sent = self._packed(read_document(workflow), with_defaults=True)
        text = sent.body if isinstance(sent.body, str) else _json(sent.body)
        headers = {"Content-Type": "application/yaml" if isinstance(sent.body, str) else "application/json"}
        return self._parsed(WorkflowView, self._send("PUT", f"/v1/workflows/{_name(name)}", text, sent, headers))

    def remove_workflow(self, name: str) -> None:
        """Removes a stored workflow. Raises NotThere."""
        self._transport.call("DELETE", f"/v1/workflows/{_name(name)}")

    def validate(
        self, workflow: str | Path | Mapping[str, Any] | Document, params: Mapping[str, Any] | None = None
    ) -> ValidationView:
        """Returns what the server finds in a workflow; nothing runs. Local pictures that it names are sent first."""
        sent, source = self._source(workflow, params or {}, {})
        view = self._parsed(ValidationView, self._post("/v1/validate", source, sent))
        if sent is None:
            return view
        told = [placed(problem.as_problem(), sent) for problem in view.problems]
        return view.model_copy(update={"problems": [ProblemView.of(problem) for problem in told]})

    def _source(
        self,
        workflow: str | Path | Mapping[str, Any] | Document,
        params: Mapping[str, Any],
        files: Mapping[str, Path | bytes],
    ) -> tuple[Sent | None, dict[str, Any]]:
        """Returns the document to send, None for a stored one, and what names it with its values; sends their pictures."""
        sent = None if isinstance(workflow, str) else self._packed(read_document(workflow))
        named: dict[str, Path] = {}
        if sent is not None:
            named = pictures_of(sent.document, params)
        elif isinstance(workflow, str) and find_pictures(dict.fromkeys(params, "image"), params, None):
            kinds = {name: param.type.removesuffix("_file") for name, param in self.workflow(workflow).params.items()}
            named = find_pictures(kinds, params, None)
        sources = {**named, **files}
        values = {**params, **{name: self.upload(picture) for name, picture in sources.items()}}
        return sent, {**({"workflow": workflow} if sent is None else {"document": sent.body}), "params": values}

    def _packed(self, sent: Sent, *, with_defaults: bool = False) -> Sent:
        """Returns a document with all that it names, pictures sent."""
        return pack(sent, self._file_kinds, self.upload, with_defaults=with_defaults)

    def _file_kinds(self) -> FileKinds:
        """Returns which inputs of the server's node types take files."""
        types = self._get(NodeTypesView, "/v1/nodes").items
        return {one.type: {name: input.file for name, input in one.inputs.items()} for one in types}

    def _post(self, path: str, body: Any, sent: Sent | None, headers: Mapping[str, str] | None = None) -> Reply:
        try:
            return self._send("POST", path, _json(body), sent, {"Content-Type": "application/json", **(headers or {})})
        except NotThere as error:
            if sent is not None:
                raise
            raise NotThere(error.status, error.code, f"{error} (A file is given as a Path, not as a text.)") from None

    def _send(self, method: str, path: str, text: str, sent: Sent | None, headers: Mapping[str, str]) -> Reply:
        """Sends a document. A report on it names the files that it came from."""
        try:
            return self._transport.call(method, path, headers=headers, body=text.encode())
        except WorkflowRefused as error:
            if sent is None:
                raise
            problems = [placed(problem, sent) for problem in error.problems]
            raise WorkflowRefused(error.status, error.code, problems) from None

    def _get(
        self, view: type[M], path: str, query: Mapping[str, object] | None = None, *, later_seconds: float = 0.0
    ) -> M:
        return self._parsed(view, self._transport.call("GET", path, query=query, later_seconds=later_seconds))

    def _parsed(self, view: type[M], reply: Reply) -> M:
        try:
            return view.model_validate_json(reply.data)
        except ValidationError as error:
            raise NotUnderstood(self.url, "an answer that can't be read") from error


def _json(tree: Any) -> str:
    try:
        return json.dumps(tree, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise ClientError(f"the workflow or a value of a parameter can't be written as JSON: {error}") from error


def _name(text: str) -> str:
    """Returns a name as a part of a path."""
    return quote(text, safe="")


def _checked_key(key: str) -> str:
    if not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise ClientError(f"the key {key[:40]!r} has not 1 to 255 printable ASCII characters")
    return key
