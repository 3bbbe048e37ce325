"""Who may reach the server and as whom: names, origins, tokens, scopes, rates, and what each caller sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from latentgraph.server.api.app import make_app
from latentgraph.server.api.routing import Handle
from latentgraph.server.api.settings import Settings
from latentgraph.server.files.resolving import ServerResolver
from latentgraph.server.jobs.store import JobStore

from .web_fakes import DOCUMENT, REGISTRY, YAML, FakeSupervisor, png, serving

STUDIO = "https://studio.example"


OWN = ["localhost", "LOCALHOST:8188", "localhost.:1", "127.0.0.1:8188", "[::1]:80", "192.168.1.7", "me.example"]
REBOUND = ["evil.example", "evil.example:8188", "localhost.evil.example", "127.0.0.1.nip.io", "me.example"]


@pytest.mark.parametrize("host", OWN)
async def test_a_server_goes_by_these_names(tmp_path: Path, host: str) -> None:
    async with serving(tmp_path, Settings(hosts=frozenset(("me.example",)))) as site:
        assert await site.json("GET", "/v1/queue", headers={"Host": host})


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8188",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io",
        "me.example",
    ],
)
async def test_another_name_may_be_a_rebound_one(tmp_path: Path, host: str) -> None:
    """DNS rebinding: a page's own name that was made to point here; a browser tells it in Host, whatever the method."""
    forged = {"Host": host, "X-Forwarded-Host": "localhost", "Forwarded": "host=localhost"}
    async with serving(tmp_path) as site:
        for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", "/healthz"), ("GET", "/nothing")):
            await site.problem(method, path, 403, "bad-host", headers=forged)


@pytest.mark.parametrize(
    "host", ["", "a b", "localhost:x", "user@localhost", "localhost/", "local host", "[::1", "\u00e9"]
)
async def test_a_host_that_is_none_is_malformed(tmp_path: Path, host: str) -> None:
    async with serving(tmp_path) as site, await site.ask("GET", "/v1/jobs", headers={"Host": host}) as response:
        assert response.status == 400


CROSS: dict[str, dict[str, str]] = {
    "another site": {"Origin": "https://evil.example"},
    "a sandboxed frame": {"Origin": "null"},
    "another port": {"Origin": "http://localhost:9999"},
    "a name that looks alike": {"Origin": "http://localhost.evil.example:8188"},
    "another site, by its fetch": {"Sec-Fetch-Site": "cross-site"},
    "a neighbour, by its fetch": {"Sec-Fetch-Site": "same-site"},
}


@pytest.mark.parametrize("name", CROSS)
async def test_a_page_of_another_origin_changes_nothing(tmp_path: Path, name: str) -> None:
    headers = {"Host": "localhost:8188", **CROSS[name]}
    async with serving(tmp_path) as site:
        job = await site.submit()
        for method, path in (
            ("POST", "/v1/jobs"),
            ("DELETE", job["href"]),
            ("PUT", "/v1/workflows/x"),
            ("POST", "/v1/queue/pause"),
            ("POST", "/v1/files"),
        ):
            await site.problem(method, path, 403, "bad-origin", headers=headers, data=b"x")
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        await site.problem("GET", f"{job['href']}/events", 403, "bad-origin", headers={**headers, **upgrade})
        assert (await site.store.get(job["id"])).state == "queued"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8188", "http://localhost:8188"),
        ("me.example", "https://me.example"),
        ("me.example:443", "https://me.example"),
        ("[::1]:8188", "http://[::1]:8188"),
        ("localhost:8188", STUDIO),
    ],
)
async def test_pages_of_the_server_itself_and_of_named_origins_may(tmp_path: Path, host: str, origin: str) -> None:
    settings = Settings(hosts=frozenset(("me.example",)), origins=frozenset((STUDIO,)))
    async with serving(tmp_path, settings) as site:
        await site.json("POST", "/v1/jobs", 202, json={"document": DOCUMENT}, headers={"Host": host, "Origin": origin})


async def test_answers_are_for_other_origins_only_if_they_are_named(tmp_path: Path) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with serving(tmp_path, Settings(origins=frozenset((STUDIO,)))) as site:
        for origin, named in ((STUDIO, True), ("https://evil.example", False)):
            async with await site.ask("OPTIONS", "/v1/jobs", headers={"Origin": origin, **preflight}) as response:
                assert (response.status == 204) is named
                assert response.headers.get("Access-Control-Allow-Origin") == (origin if named else None)
                assert ("Authorization" in response.headers.get("Access-Control-Allow-Headers", "")) is named
                assert "Access-Control-Allow-Credentials" not in response.headers
            async with await site.ask("GET", "/v1/jobs", headers={"Origin": origin}) as response:
                assert response.headers.get("Access-Control-Allow-Origin") == (origin if named else None)
                assert response.headers["Cross-Origin-Resource-Policy"] == ("cross-origin" if named else "same-origin")


async def test_answers_carry_what_keeps_browsers_from_mischief_and_no_cookie(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        job = await site.submit()
        for path in ("/v1/jobs", "/nothing", "/healthz", "/v1/docs", f"{job['href']}/events"):
            async with await site.ask("GET", path) as response:
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Cache-Control"] == "no-store"
                assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
                assert response.headers["Server"] == "latentgraph"
                assert "Set-Cookie" not in response.headers


async def test_without_a_token_nothing_is_done_where_there_are_any(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await site.submit()
        admin = await site.new_token("admin")
        async with await site.ask("GET", "/v1/jobs") as response:
            assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
        await site.store.tokens.revoke((await site.store.tokens.list())[0].id)
        await admin.problem("GET", "/v1/jobs", 401, "wrong-token")
        await site.problem("GET", "/v1/jobs", 401, "no-token")


async def test_a_server_that_others_reach_is_never_open(tmp_path: Path) -> None:
    async with serving(tmp_path, Settings(open_on_loopback=False)) as site:
        await site.problem("POST", "/v1/jobs", 401, "no-token", json={"document": DOCUMENT})


NEVER = "lg_" + "a" * 43
WRONG = [
    "Bearer",
    "Bearer ",
    "Bearer x",
    "Bearer lg_",
    "Basic eDp4",
    NEVER,
    f"Bearer {NEVER}",
    "Bearer lg_" + "\u00e9" * 43,
]


@pytest.mark.parametrize("header", WRONG)
async def test_what_is_no_token_is_refused_and_not_repeated(tmp_path: Path, header: str) -> None:
    async with serving(tmp_path) as site:
        await site.new_token("admin")
        problem = await site.problem("GET", "/v1/jobs", 401, "wrong-token", headers={"Authorization": header})
        assert "aaa" not in str(problem)


async def test_wrong_tokens_are_counted_and_right_ones_pass(tmp_path: Path) -> None:
    async with serving(tmp_path, Settings(wrong_tokens_per_minute=3)) as site:
        user = await site.new_token("read")
        wrong = site.of("lg_" + "a" * 43)
        for _ in range(3):
            await wrong.problem("GET", "/v1/jobs", 401, "wrong-token")
        async with await wrong.ask("GET", "/v1/jobs") as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "20")
        await user.json("GET", "/v1/jobs")


async def test_a_token_may_do_what_its_scopes_say(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        reader, user, admin = [await site.new_token(scope) for scope in ("read", "submit", "admin")]  # type: ignore[arg-type]
        body = {"document": DOCUMENT}
        problem = await reader.problem("POST", "/v1/jobs", 403, "missing-scope", json=body)
        assert "no scope 'submit'; it has read" in problem["detail"]
        await reader.json("POST", "/v1/validate", json=body)
        job = await user.json("POST", "/v1/jobs", 202, json=body)
        await user.json("GET", job["href"])
        await reader.problem("DELETE", job["href"], 403, "missing-scope")
        for path in ("/v1/queue/pause", "/v1/queue/resume"):
            await user.problem("POST", path, 403, "missing-scope")
            await admin.json("POST", path)


async def test_each_token_sees_its_own_jobs_and_files_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        one, two, admin = await site.new_token("submit"), await site.new_token("submit"), await site.new_token("admin")
        job, file = await one.submit(), await one.upload(png())
        await site.run_next({"image": {"a.png": png()}})
        for path in ("", "/events", "/document", "/outputs/image", "?wait=1"):
            await two.problem("GET", job["href"] + path, 404, "unknown-job")
            async with await admin.ask("GET", job["href"] + path) as response:
                assert response.status == 200
        await two.problem("DELETE", job["href"], 404, "unknown-job")
        for method in ("GET", "DELETE"):
            await two.problem(method, f"/v1/files/{file}", 404, "unknown-file")
        assert (await two.json("GET", "/v1/jobs"))["items"] == []
        assert len((await admin.json("GET", "/v1/jobs"))["items"]) == 1


async def test_a_document_can_not_use_what_somebody_else_has_sent(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        one, two, admin = await site.new_token("submit"), await site.new_token("submit"), await site.new_token("admin")
        file = await one.upload(png())
        plain: dict[str, Any] = {"load": {"type": "LoadPicture", "file": file}}
        hidden: dict[str, Any] = {"load": {"type": "LoadPicture", "file": "sha256:${params.rest}"}}
        documents = [
            {"latentgraph": 1, "nodes": plain, "outputs": {"x": "$load"}},
            {"latentgraph": 1, "params": {"rest": file[7:]}, "nodes": hidden, "outputs": {"x": "$load"}},
        ]
        for document in documents:
            problem = await two.problem("POST", "/v1/jobs", 422, "invalid-workflow", json={"document": document})
            assert "there is no upload" in problem["detail"]
        await one.submit(documents[0])
        await admin.submit(documents[0])


async def test_headers_that_say_who_somebody_is_are_not_believed(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        one, two = await site.new_token("submit"), await site.new_token("submit")
        job = await one.submit()
        owner = (await site.store.get(job["id"])).owner
        names = (
            "X-User",
            "X-Forwarded-User",
            "X-Remote-User",
            "Remote-User",
            "Comfy-User",
            "X-Real-IP",
            "X-Original-URL",
        )
        forged = {**dict.fromkeys(names, owner), "X-Forwarded-For": "127.0.0.1", "Cookie": f"token={one.token}"}
        await two.problem("GET", job["href"], 404, "unknown-job", headers=forged)
        await site.problem("GET", job["href"], 401, "no-token", headers=forged)
        await site.problem("GET", f"{job['href']}?token={one.token}", 401, "no-token")


async def test_each_token_has_a_rate(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        slow, fast = await site.new_token("read", requests_per_minute=20), await site.new_token("read")
        for _ in range(2):
            await slow.json("GET", "/v1/jobs")
        async with await slow.ask("GET", "/v1/jobs") as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "3")
        await fast.json("GET", "/v1/jobs")


async def test_each_token_has_a_quota_of_waiting_jobs(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        user = await site.new_token("submit", max_waiting=1, max_upload_bytes=10)
        await user.submit()
        async with await user.ask("POST", "/v1/jobs", json={"document": DOCUMENT}) as response:
            assert (response.status, (await response.json())["code"]) == (429, "quota-exceeded")
            assert "Retry-After" in response.headers
        await user.problem(
            "POST", "/v1/files", 429, "quota-exceeded", data=png(), headers={"Content-Type": "image/png"}
        )


async def test_addresses_and_headers_are_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path, Settings(url_bytes=1_000, header_bytes=2_000)) as site:
        await site.problem("GET", "/v1/jobs?workflow=" + "a" * 1_000, 414, "url-too-long")
        headers = {f"X-{index}": "y" * 500 for index in range(5)}
        await site.problem("GET", "/v1/jobs", 431, "headers-too-large", headers=headers)
        await site.problem("GET", "/v1/jobs", 431, "headers-too-large", headers={"X": "y" * 2_100})


async def test_bodies_that_are_packed_are_not_unpacked(tmp_path: Path) -> None:
    import gzip

    packed = gzip.compress(b"0" * 1_000_000)
    async with serving(tmp_path) as site:
        for encoding in ("gzip", "deflate", "br", "zstd", "x"):
            headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
            for path in ("/v1/jobs", "/v1/files", "/v1/validate"):
                await site.problem("POST", path, 415, "unsupported-encoding", data=packed, headers=headers)


async def test_bodies_are_of_forms_that_a_form_of_another_page_can_not_send(tmp_path: Path) -> None:
    """A page may send texts across sites unasked; none of the types that it may give them is taken as a job."""
    async with serving(tmp_path) as site:
        await site.store.workflows.put("numbers", YAML, "application/yaml")
        for kind in ("text/plain", "application/x-www-form-urlencoded", "text/html", "application/octet-stream"):
            for path in ("/v1/jobs", "/v1/validate", "/v1/workflows/numbers"):
                headers = {"Content-Type": kind}
                await site.problem("POST", path, 415, "unsupported-type", data='{"document": {}}', headers=headers)


async def test_an_app_with_a_handler_that_says_nothing_of_who_may_call_it_does_not_start(tmp_path: Path) -> None:
    async def secret(request: web.Request) -> web.Response:
        return web.Response(text="secret")

    for add in (
        lambda app: app.router.add_get("/view", secret),
        lambda app: app.router.add_static("/files", tmp_path),
        lambda app: app.add_subapp("/api", _with(secret)),
    ):
        store = await JobStore.open(tmp_path / "data")
        try:
            resolver = ServerResolver(uploads=store.folder / "files")
            app = make_app(store, FakeSupervisor(), Settings(), REGISTRY, resolver)
            add(app)
            with pytest.raises(RuntimeError, match=r"(GET|HEAD) /(view|files|api).* is served without a declaration"):
                await web.AppRunner(app).setup()
        finally:
            await store.close()


def _with(handler: Handle) -> web.Application:
    app = web.Application()
    app.router.add_get("/secret", handler)
    return app
