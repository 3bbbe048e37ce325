"""Job requests: what a request asks for, in any of the forms that one may come in. Whether it can be done is not known here.

A form may bring files along: each is kept as an upload of the caller's, and its content id is the value of the parameter that
its field names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from latentgraph.graph import Param

from .bodies import Part, field_of, form_of, parts_in, read_bytes, read_json_body, refuse_form, text_of, tree_of
from .parts import caller_of, parts_of
from .problems import Refusal
from .routing import JSON, MULTIPART, YAML, validated
from .schemas import JobOptions, JobRequest, Source
from .uploading import take_upload

_OPTIONS = ("priority", "deadline_seconds", "max_attempts", "webhook")


async def read_job_request(request: web.Request, options: JobOptions) -> JobRequest:
    """Returns the job that a request asks for: JSON, a document as YAML, or a form with files."""
    beside = options.model_dump(include=set(_OPTIONS) & options.model_fields_set)
    form = form_of(request)
    if form == "json":
        values = await read_json_body(request)
        if not isinstance(values, dict):
            raise Refusal("invalid-request", "The body is no JSON object; expected one with 'document' or 'workflow'.")
    elif form == "yaml":
        values = {"document": _text(await read_bytes(request, parts_of(request).settings.document.bytes))}
    elif form == "multipart":
        values = await _read_form(request, options.strip_metadata)
    else:
        raise refuse_form(request, JSON, YAML, MULTIPART)
    return validated(JobRequest, {**beside, **values}, "the body")


async def read_source(request: web.Request) -> Source:
    """Returns the workflow that a request wants looked at."""
    form = form_of(request)
    if form == "json":
        return validated(Source, await read_json_body(request), "the body")
    if form == "yaml":
        text = _text(await read_bytes(request, parts_of(request).settings.document.bytes))
        return validated(Source, {"document": text}, "the body")
    raise refuse_form(request, JSON, YAML)


async def read_params(request: web.Request, params: Mapping[str, Param], strip: bool) -> dict[str, Any]:
    """Returns the values of parameters that a request gives: a JSON object, or a form with texts and files."""
    if not request.can_read_body:
        return {}
    form = form_of(request)
    if form == "json":
        values = await read_json_body(request)
        if not isinstance(values, dict):
            raise Refusal("invalid-request", "The body is no JSON object; expected the workflow's parameters by name.")
        return values
    if form != "multipart":
        raise refuse_form(request, JSON, MULTIPART)
    given: dict[str, Any] = {}
    async for part in parts_in(request):
        if part.filename is not None:
            given[part.name] = await _take_file(request, part, strip)
        else:
            text = text_of(part, await field_of(part, parts_of(request).settings.body_bytes))
            given[part.name] = await _value(request, params.get(part.name), text)
    return given


async def _read_form(request: web.Request, strip: bool) -> dict[str, Any]:
    """Returns the values of a form: `request` or `document`, `workflow` and `params`; files give parameters by their names."""
    values: dict[str, Any] = {}
    files: dict[str, str] = {}
    settings = parts_of(request).settings
    async for part in parts_in(request):
        if part.name in ("document", "workflow"):
            values[part.name] = text_of(part, await field_of(part, settings.document.bytes))
        elif part.name in ("params", "request"):
            tree = await tree_of(request, await field_of(part, settings.body_bytes))
            if not isinstance(tree, dict):
                raise Refusal("invalid-request", f"The field {part.name!r} is no JSON object.")
            values |= tree if part.name == "request" else {"params": tree}
        elif part.filename is not None:
            files[part.name] = await _take_file(request, part, strip)
        else:
            known = "document, workflow, params, request, and files by the name of their parameter"
            raise Refusal("invalid-request", f"There is no field {part.name[:40]!r}; known: {known}.")
    if files:
        params = values.get("params", {})
        values["params"] = {**params, **files} if isinstance(params, dict) else params
    return values


async def _take_file(request: web.Request, part: Part, strip: bool) -> str:
    received, _ = await take_upload(parts_of(request), caller_of(request), part.chunks, strip=strip)
    return received.id


async def _value(request: web.Request, param: Param | None, text: str) -> Any:
    """Returns what the text of a form stands for; a list is written as JSON."""
    if param is None:
        return text
    return await tree_of(request, text.encode()) if param.type == "list" else param.from_text(text)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refusal("malformed", f"The document is not UTF-8: byte {error.start + 1}.") from error
