"""The page over HTTP: its files and nothing else, with a policy that lets nothing else run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from yarl import URL

from latentgraph.server.api import page_routes
from latentgraph.server.api.page_routes import POLICY, read_page

from .page_fakes import serving_page

FOLDER = Path(page_routes.__file__).parent / "page"
SOURCES = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.iterdir())}
ROOT = Path(__file__).parent.parent.parent


async def test_the_page_may_run_its_own_files_alone(tmp_path: Path) -> None:
    async with serving_page(tmp_path) as site, await site.ask("GET", "/") as response:
        assert (response.status, response.content_type) == (200, "text/html")
        policy = dict(part.partition(" ")[::2] for part in response.headers["Content-Security-Policy"].split("; "))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' blob: data:",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
            "require-trusted-types-for": "'script'",
            "trusted-types": "'none'",
        }
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"


@pytest.mark.parametrize("name", SOURCES)
async def test_every_file_is_served_as_what_it_is(tmp_path: Path, name: str) -> None:
    types = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    async with serving_page(tmp_path) as site, await site.ask("GET", f"/page/{name}") as response:
        assert (response.status, response.content_type) == (200, types[Path(name).suffix])
        assert await response.read() == (FOLDER / name).read_bytes()
        assert response.headers["Content-Security-Policy"] == POLICY
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_page_is_for_anybody_and_tells_nothing(tmp_path: Path) -> None:
    async with serving_page(tmp_path) as site:
        await site.new_token("submit")
        await site.parts.tokens.find("")  # the book has looked
        async with await site.ask("GET", "/", headers={"Authorization": "Bearer nonsense"}) as response:
            assert response.status == 200
        async with await site.ask("HEAD", "/") as response:
            assert response.status == 200
        async with await site.ask("GET", "/page/main.js") as response:
            assert response.status == 200


async def test_a_file_that_is_known_is_not_sent_again(tmp_path: Path) -> None:
    async with serving_page(tmp_path) as site:
        async with await site.ask("GET", "/") as response:
            etag = response.headers["ETag"]
            assert response.headers["Cache-Control"] == "no-cache"
        async with await site.ask("GET", "/", headers={"If-None-Match": etag}) as response:
            assert (response.status, await response.read()) == (304, b"")
        async with await site.ask("GET", "/", headers={"If-None-Match": '"another"'}) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/nothing.js",
        "/page/../app.py",
        "/page/..%2fapp.py",
        "/page/%2e%2e/app.py",
        "/page/%2e%2e%2fpy.typed",
        "/page/..%5capp.py",
        "/page/%2fetc%2fpasswd",
        "/page//etc/passwd",
        "/page/main.js%00",
        "/page/main.js/..",
        "/page/sub/main.js",
        "/page/MAIN.JS",
        "/index.html",
    ],
)
async def test_no_other_name_leads_anywhere(tmp_path: Path, path: str) -> None:
    async with serving_page(tmp_path) as site, await site.ask("GET", URL(path, encoded=True)) as response:
        text = await response.text()
        assert (response.status, response.content_type) == (404, "application/problem+json"), text


async def test_the_page_only_answers_to_who_looks(tmp_path: Path) -> None:
    async with serving_page(tmp_path) as site:
        for method in ("POST", "PUT", "DELETE"):
            await site.problem(method, "/", 405, "method-not-allowed")


async def test_the_page_is_not_served_by_another_name_of_the_server(tmp_path: Path) -> None:
    async with serving_page(tmp_path) as site:
        await site.problem("GET", "/", 403, "bad-host", headers={"Host": "evil.example"})


def test_every_file_that_is_referred_to_is_there() -> None:
    referred = {name for text in SOURCES.values() for name in re.findall(r"""["'(]/page/([^"')]+)""", text)}
    for text in SOURCES.values():
        referred |= set(re.findall(r"""from "\./([^"]+)";""", text))
    assert referred <= set(SOURCES)
    assert set(SOURCES) - referred == {"index.html"}, "what nothing refers to is not needed"
    assert set(read_page()) == set(SOURCES)


def test_nothing_comes_from_elsewhere() -> None:
    """Links of XML's namespaces are names and are never fetched."""
    for name, text in SOURCES.items():
        found = set(
            re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z][^\s\"')]*", text.replace("http://www.w3.org/2000/svg", ""))
        )
        assert not found, name


def test_no_script_and_no_style_is_inline() -> None:
    markup = SOURCES["index.html"]
    assert re.findall(r"<script(?![^>]*\bsrc=)", markup) == []
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", markup) == []


def test_no_text_is_ever_made_markup() -> None:
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|\beval\(|new Function"
    for name, text in SOURCES.items():
        assert re.findall(ways, text) == [], name


def test_the_token_is_kept_for_the_tab_alone() -> None:
    for name, text in SOURCES.items():
        assert "localStorage" not in text, name
        assert "document.cookie" not in text, name


def test_the_page_travels_with_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert "page/*" in settings["package-data"]["latentgraph.server.api"]
