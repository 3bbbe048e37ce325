"""OpenAPI 3.1, made from the declared routes and the models that they check and answer with; nothing is written twice.

Each stored workflow is a path of its own, whose body is typed from the workflow's parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from .problems import MEDIA_TYPE, TITLES
from .routing import EVENT_STREAM, JSON, MULTIPART, Answer, Body, Route
from .views import ErrorView, ParamView, WorkflowView

VERSION = "3.1.0"
RUN_PATH = "/v1/workflows/{name}"
"""The path whose POST runs a stored workflow."""

_REFS = "#/components/schemas/{model}"
_ALWAYS = ("malformed", "bad-host", "not-found", "too-many-requests", "url-too-long", "headers-too-large", "internal")
_WITH_TOKEN = ("no-token", "wrong-token", "missing-scope")
_PARAM_TYPES: Mapping[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "seed": {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1},
    "list": {"type": "array"},
}


def openapi_document(routes: Sequence[Route]) -> dict[str, Any]:
    """Returns the description of an API that has these routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": VERSION,
        "info": {
            "title": "latentgraph",
            "version": _version(),
            "description": "Jobs that run workflow graphs for latent diffusion. A job that is accepted is kept.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(routes),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "lg_..."}},
        },
    }


def with_workflows(document: Mapping[str, Any], workflows: Sequence[WorkflowView]) -> dict[str, Any]:
    """Returns the description of an API with a path for each stored workflow."""
    run = document["paths"][RUN_PATH]["post"]
    own = {f"/v1/workflows/{workflow.name}": {"post": _workflow_operation(run, workflow)} for workflow in workflows}
    return {**document, "paths": {**document["paths"], **own}}


def param_schema(param: ParamView) -> dict[str, Any]:
    """Returns the JSON Schema of a parameter's values."""
    schema = dict(_PARAM_TYPES.get(param.type, {"type": "string"}))
    if param.type.endswith("_file"):
        schema["format"] = "latentgraph-file"
    if param.choices is not None:
        schema = {"enum": param.choices}
    limits = {"minimum": param.min, "maximum": param.max, "multipleOf": param.multiple_of}
    schema.update({name: value for name, value in limits.items() if value is not None})
    if param.description:
        schema["description"] = param.description
    if not param.required:
        schema["default"] = param.default
    return schema


def params_schema(params: Mapping[str, ParamView]) -> dict[str, Any]:
    """Returns the JSON Schema of the values of a workflow's parameters."""
    return {
        "type": "object",
        "properties": {name: param_schema(param) for name, param in params.items()},
        "required": [name for name, param in params.items() if param.required],
        "additionalProperties": False,
    }


def _schemas(routes: Iterable[Route]) -> dict[str, Any]:
    takes: dict[type[BaseModel], None] = {}
    gives: dict[type[BaseModel], None] = {ErrorView: None}
    for route in routes:
        if route.body and route.body.model:
            takes[route.body.model] = None
        gives.update({answer.model: None for answer in route.answers.values() if answer.model})
    inputs = [(model, "validation") for model in takes]
    outputs = [(model, "serialization") for model in gives]
    _, found = models_json_schema([*inputs, *outputs], ref_template=_REFS, schema_generator=GenerateJsonSchema)  # type: ignore[list-item]
    defined: dict[str, Any] = found.get("$defs", {})
    return defined


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": _responses(route),
        "security": [{"token": []}, {}] if route.scope else [{}],
    }
    words = (route.handler.__doc__ or "").strip().partition("\n")[2]
    if words.strip():
        operation["description"] = " ".join(words.split())
    if route.scope:
        operation["x-scope"] = route.scope
    if route.body is not None:
        operation["requestBody"] = _request_body(route.body)
    return operation


def _workflow_operation(run: Mapping[str, Any], workflow: WorkflowView) -> dict[str, Any]:
    """Returns the operation that runs any workflow as the one that runs this."""
    schema = params_schema(workflow.params)
    content: dict[str, Any] = {JSON: {"schema": schema}}
    files = [name for name, param in workflow.params.items() if param.type.endswith("_file")]
    if files:
        binary = {name: {"type": "string", "contentMediaType": "application/octet-stream"} for name in files}
        content[MULTIPART] = {"schema": {**schema, "properties": {**schema["properties"], **binary}}}
    return {
        **run,
        "operationId": "run_" + re.sub(r"[^A-Za-z0-9_]", "_", workflow.name),
        "summary": workflow.description or f"Run the workflow {workflow.name}.",
        "parameters": [one for one in run["parameters"] if one["in"] != "path"],
        "requestBody": {"required": bool(schema["required"]), "content": content},
    }


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    names = re.findall(r"{([a-z_]+)}", route.path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema(ref_template=_REFS)
    defined = schema.get("$defs", {})
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": _inlined({key: value for key, value in one.items() if key != "description"}, defined),
            **({"description": one["description"]} if "description" in one else {}),
        }
        for name, one in schema.get("properties", {}).items()
    ]


def _inlined(schema: Any, defined: Mapping[str, Any]) -> Any:
    """Returns a schema with what it refers to in place, since the schemas of queries are no components."""
    if isinstance(schema, list):
        return [_inlined(item, defined) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(defined[schema["$ref"].rpartition("/")[2]], defined)
    return {key: _inlined(value, defined) for key, value in schema.items()}


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "required": False, "description": words, "schema": {"type": "string"}}
        for name, words in route.headers.items()
    ]


def _request_body(body: Body) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if body.model is not None:
        content[JSON] = {"schema": {"$ref": _REFS.format(model=body.model.__name__)}}
    for media_type, words in body.others.items():
        schema = {"type": "object"} if media_type in (JSON, MULTIPART) else {"type": "string"}
        content[media_type] = {"schema": {**schema, "description": words}}
    return {"required": True, "content": content}


def _responses(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = {str(status): _response(answer) for status, answer in sorted(route.answers.items())}
    codes: dict[int, list[str]] = {}
    by_query = ("invalid-request",) if route.query is not None else ()
    for code in dict.fromkeys((*_ALWAYS, *(_WITH_TOKEN if route.scope else ()), *by_query, *route.problems)):
        codes.setdefault(TITLES[code][0], []).append(code)
    for status, several in sorted(codes.items()):
        if str(status) not in found:
            found[str(status)] = {
                "description": "; ".join(f"{TITLES[code][1]} ({code})" for code in several) + ".",
                "content": {MEDIA_TYPE: {"schema": {"$ref": _REFS.format(model=ErrorView.__name__)}}},
            }
    return found


def _response(answer: Answer) -> dict[str, Any]:
    response: dict[str, Any] = {"description": answer.words}
    content: dict[str, Any] = {media_type: {"schema": {}} for media_type in answer.types}
    if answer.model is not None:
        schema: dict[str, Any] = {"$ref": _REFS.format(model=answer.model.__name__)}
        if EVENT_STREAM in answer.types:
            content[EVENT_STREAM] = {"schema": _event_schema(schema)}
        else:
            content[JSON] = {"schema": schema}
    if content:
        response["content"] = content
    if answer.headers:
        response["headers"] = {
            name: {"description": words, "schema": {"type": "string"}} for name, words in answer.headers.items()
        }
    return response


def _event_schema(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the schema of each event of a stream, by its fields."""
    text = {"type": "string", "contentMediaType": JSON, "contentSchema": data}
    fields = {"id": {"type": "string"}, "event": {"type": "string"}, "data": text}
    return {"type": "object", "description": "An event of the stream.", "properties": fields, "required": ["data"]}


def _version() -> str:
    try:
        return version("latentgraph")
    except PackageNotFoundError:  # run from a folder, without being installed
        return "0"
