"""Logs: one line a record, found by the job, and nothing in it that is secret."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest

from latentgraph.server.logs import JsonFormatter, logging_json

from .web_fakes import DOCUMENT, serving


def test_a_line_holds_what_it_was_given() -> None:
    extra = {"job": "a" * 32, "attempt": 2, "path": Path("p")}
    message, values = "job %s\nends", ("a\u2028b",)
    record = logging.getLogger("x").makeRecord("x", logging.WARNING, "f", 1, message, values, None, extra=extra)
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert "\n" not in line
    found = json.loads(line)
    assert (found["message"], found["level"], found["logger"]) == ("job a\u2028b\nends", "warning", "x")
    assert (found["job"], found["attempt"]) == ("a" * 32, 2)
    assert found["path"] == "p"
    assert found["time"].endswith("Z")


def test_an_exception_is_on_the_line() -> None:
    try:
        raise ValueError("why")
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "x", "exc_info": (type(error), error, error.__traceback__)})
    assert json.loads(JsonFormatter().format(record))["exception"].endswith("ValueError: why")


async def test_a_request_leaves_a_line_with_its_job_and_without_its_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "latentgraph.server.requests")
    async with serving(tmp_path) as site:
        user = await site.new_token("submit")
        job = await user.submit(DOCUMENT)
        await user.problem("GET", f"/v1/jobs/{'0' * 32}?x=secret", 422, "invalid-request")
        lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
        owner = (await site.store.get(job["id"])).owner
    assert [line["message"] for line in lines] == ["POST /v1/jobs 202", "GET /v1/jobs/{id} 422"]
    assert (lines[0]["job"], lines[0]["owner"]) == (job["id"], owner)
    assert user.token is not None
    assert user.token not in json.dumps(lines)
    assert "secret" not in json.dumps(lines)


def test_what_was_set_up_before_json_is_logged_stands_again_behind_it() -> None:
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers[:], root.level
    with logging_json(stream):
        logging.getLogger("latentgraph.test").info("said", extra={"job": "j1"})
    logging.getLogger("latentgraph.test").warning("said elsewhere")
    assert (root.handlers, root.level) == before
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["message"], line["job"], line["level"]) == ("said", "j1", "info")
