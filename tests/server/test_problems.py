"""Problems: every refusal has a code, a status and words, and what went wrong inside is never told."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from aiohttp import web

from latentgraph.server import errors
from latentgraph.server.api import problems
from latentgraph.server.api.problems import TITLES, Refusal, as_refusal, problem_response
from latentgraph.server.api.routing import Answer, Route

from .web_fakes import serving


def test_every_code_has_a_status_of_a_refusal_and_a_title() -> None:
    for code, (status, title) in TITLES.items():
        assert 400 <= status < 600, code
        assert title
        assert not title.endswith(".")


def test_no_two_titles_are_alike() -> None:
    titles = [title for _, title in TITLES.values()]
    assert len(set(titles)) == len(titles)


def test_what_callers_cause_is_never_the_servers_fault() -> None:
    """Of the exceptions of the server those that a request may cause are answered with 4xx."""
    by_callers = (
        errors.UnknownJob("x"),
        errors.UnknownWorkflow("x"),
        errors.UnknownFile("x"),
        errors.IdempotencyConflict("k", "j"),
        errors.JobIdTaken("x"),
        errors.InvalidDraft("x"),
        errors.QueueFull(3, 7),
        errors.QuotaExceeded("jobs", 3, 7),
        errors.StorageFull("x"),
        errors.ContentRefused("x"),
        errors.DamagedFile("x"),
        errors.FileTooLarge("pixels", "x"),
    )
    for error in by_callers:
        assert 400 <= as_refusal(error).status < 500, error
    assert as_refusal(errors.QueueFull(3, 7)).headers == {"Retry-After": "7"}
    assert as_refusal(errors.StoreUnavailable("x")).status == 503


def test_a_problem_is_ascii_whatever_its_words_hold() -> None:
    response = problem_response(Refusal("malformed", "half a \ud800 character"), instance="/x\ud800")
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["code"] == "malformed"


async def test_what_goes_wrong_inside_is_logged_and_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        """Fail."""
        raise RuntimeError("the secret of /etc/passwd")

    async def break_off(request: web.Request) -> web.StreamResponse:
        """Break off."""
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        raise RuntimeError("the other secret")

    routes = [
        Route("GET", "/fail", fail, "x", None, {200: Answer("x")}),
        Route("GET", "/break", break_off, "x", None, {200: Answer("x")}),
    ]
    async with serving(tmp_path, more_routes=routes) as site:
        problem = await site.problem("GET", "/fail", 500, "internal")
        assert "secret" not in json.dumps(problem)
        assert "the secret of /etc/passwd" in caplog.text
        async with await site.ask("GET", "/break") as response:
            with pytest.raises(Exception, match="payload"):
                await response.read()
        assert "the other secret" in caplog.text
        assert await site.json("GET", "/healthz")


def test_codes_that_are_used_are_declared() -> None:
    folder = Path(inspect.getfile(problems)).parent
    import re

    used = {
        code for path in folder.glob("*.py") for code in re.findall(r'Refusal\(\s*"([a-z-]+)"', path.read_text("utf-8"))
    }
    assert used <= set(TITLES)
