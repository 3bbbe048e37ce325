"""The known holes of servers of this kind, each tried here: they are closed, or this fails."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from yarl import URL

from latentgraph.server.api.settings import Settings
from latentgraph.server.jobs.values import Outcome, OutputFile

from .web_fakes import DOCUMENT, Site, png, serving

NAMES = [
    "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e%2f", "..%5c..%5cx", "%2fetc%2fpasswd", "....//", "%00", "a%00b", "a%0ab",
    "%0d%0aX:%20y", "%ff%fe", "%c0%ae%c0%ae%2f", "%25%32%65", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "a" * 3000,
    "%F0%9F%92%A9", "-", "~root", "con",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
async def test_no_id_or_name_leads_anywhere(tmp_path: Path, name: str) -> None:
    async with serving(tmp_path) as site:
        job = await site.submit()
        await site.run_next({"image": {"a.png": png()}})
        for path in (
            f"/v1/jobs/{name}",
            f"/v1/jobs/{name}/events",
            f"/v1/jobs/{name}/outputs/image",
            f"{job['href']}/outputs/{name}",
            f"/v1/files/{name}",
            f"/v1/files/sha256:{name}",
            f"/v1/workflows/{name}",
        ):
            for method in ("GET", "DELETE"):
                async with await site.ask(method, URL(path, encoded=True)) as response:
                    assert response.status in (404, 405), path
                    assert response.content_type == "application/problem+json"


INPUTS = [
    "../models/small.safetensors", "/etc/passwd", "pictures/../../secret.png", "..", ".", "./../secret.png", "~/secret.png",
    "secret.png\0", "file:///etc/passwd", "http://127.0.0.1/x.png", "https://example.org/model.safetensors", "C:\\x.png",
    "\\\\host\\share\\x.png", "a//b", "//etc/passwd", "link.png", "linked/secret.png", "loop", "fifo", "sha256:" + "0" * 64,
    "sha256:../../x", "x" * 5000, "git+https://example.org/x", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("kind", ["LoadPicture", "LoadModel"])
async def test_no_input_of_a_graph_reads_what_it_should_not(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(png())
    async with serving(tmp_path) as site:
        for folder in (tmp_path / "pictures", tmp_path / "models"):
            (folder / "link.png").symlink_to(tmp_path / "secret.png")
            (folder / "linked").symlink_to(tmp_path / "outside")
            (folder / "loop").symlink_to(folder / "loop")
        document = {"latentgraph": 1, "nodes": {"load": {"type": kind, "file": name}}, "outputs": {"x": "$load"}}
        async with await site.ask("POST", "/v1/jobs", json={"document": document}) as response:
            text = await response.text()
            assert response.status in (400, 422), text
        assert str(tmp_path) not in text, "nobody learns where the server keeps its files"
        assert sum((await site.store.counts()).values()) == 0


PARTS = ["./part.yaml", "../part.yaml", "/etc/passwd.yaml", "http://example.org/part.yaml", "x/../../part.yaml"]


@pytest.mark.parametrize("type", PARTS)
async def test_a_document_uses_no_other_document_of_the_disk(tmp_path: Path, type: str) -> None:
    (tmp_path / "part.yaml").write_text("latentgraph: 1\nnodes: {one: {type: Constant}}")
    async with serving(tmp_path) as site:
        document = {"latentgraph": 1, "nodes": {"a": {"type": type}}, "outputs": {"x": "$a"}}
        problem = await site.problem("POST", "/v1/jobs", 422, "invalid-workflow", json={"document": document})
        assert "bring it along under 'parts'" in problem["problems"][0]["message"]
        part = {**document, "nodes": {"a": {"type": type}, "b": {"type": "LoadPicture", "file": "../secret.png"}}}
        whole = {**document, "nodes": {"a": {"type": "x/y.yaml"}}, "parts": {"x/y.yaml": part}}
        problem = await site.problem("POST", "/v1/jobs", 422, "invalid-workflow", json={"document": whole})
        assert {one["node"] for one in problem["problems"] if one["code"] == "file-not-found"} == {"a/a", "a/b"}


async def test_parts_that_use_parts_many_times_are_refused_in_a_moment(tmp_path: Path) -> None:
    last = {"latentgraph": 1, "nodes": {"n0": {"type": "Constant"}}, "outputs": {"x": "$n0"}}
    parts = {"p6.yaml": last}
    for depth in range(6):
        parts[f"p{depth}.yaml"] = {**last, "nodes": {f"n{i}": {"type": f"p{depth + 1}.yaml"} for i in range(40)}}
    document = {**last, "nodes": {"n0": {"type": "p0.yaml"}}, "parts": parts}
    async with serving(tmp_path) as site:
        problem = await site.problem("POST", "/v1/jobs", 413, "document-too-large", json={"document": document})
        assert "expands to more than 20,000 nodes" in problem["detail"]


async def test_a_plain_name_inside_its_folder_is_read(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        (tmp_path / "pictures" / "deep").mkdir()
        (tmp_path / "pictures" / "deep" / "cat.png").write_bytes(png())
        (tmp_path / "pictures" / "same.png").symlink_to("deep/cat.png")
        for name in ("deep/cat.png", "./deep/cat.png", "same.png"):
            await site.submit(
                {"latentgraph": 1, "nodes": {"l": {"type": "LoadPicture", "file": name}}, "outputs": {"x": "$l"}}
            )


async def test_a_report_names_a_file_as_the_document_does(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        (tmp_path / "pictures" / "cat.png").write_bytes(b"no picture")
        document = {
            "latentgraph": 1,
            "nodes": {"l": {"type": "LoadPicture", "file": "cat.png"}},
            "outputs": {"x": "$l"},
        }
        problem = await site.problem("POST", "/v1/jobs", 422, "invalid-workflow", json={"document": document})
        assert "cat.png: is no picture" in problem["detail"]
        assert str(tmp_path) not in json.dumps(problem)


async def publish(site: Site, name: str, data: bytes, media_type: str) -> str:
    """Returns the address of an output whose worker says that it is of a type."""
    job = await site.submit()
    claimed = await site.store.claim("w0")
    assert claimed is not None
    folder = site.store.outputs / job["id"]
    folder.mkdir(parents=True, exist_ok=True)
    if data:
        (folder / name).write_bytes(data)
    file = OutputFile(name, len(data), "ab" * 32, media_type)
    await site.store.succeed(job["id"], 1, Outcome({"file": (file,)}))
    return f"{job['href']}/outputs/file"


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


PROGRAMS = {
    "a.svg": "image/svg+xml",
    "a.html": "text/html",
    "a.xml": "application/xml",
    "a.js": "text/javascript",
    "a.pdf": "application/pdf",
}


@pytest.mark.parametrize(("name", "media_type"), PROGRAMS.items())
async def test_nothing_that_a_browser_might_run_is_shown(tmp_path: Path, name: str, media_type: str) -> None:
    """Stored XSS by SVG, and its kin: what is no known raster picture is for saving, in a sandbox, as bytes."""
    async with serving(tmp_path) as site:
        href = await publish(site, name, SVG, media_type)
        for query in ("", "?download=false"):
            async with await site.ask("GET", href + query) as response:
                assert response.headers["Content-Disposition"].startswith("attachment; ")
                assert response.headers["Content-Type"] == "application/octet-stream"
                assert response.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
                assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_pictures_are_shown_in_a_sandbox_too(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        href = await publish(site, 'a";\r\nX: y.png', png(), "image/png")
        async with await site.ask("GET", href) as response:
            assert response.headers["Content-Type"] == "image/png"
            assert response.headers["Content-Disposition"].startswith('inline; filename="a____X_ y.png"; ')
            assert response.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
            assert "X" not in response.headers
        async with await site.ask("GET", href + "?download=true") as response:
            assert response.headers["Content-Disposition"].startswith("attachment; ")


WAYS_OUT = ["../../../secret.png", "link.png", "folder", "fifo", "/etc/passwd", "a/../../../../secret.png"]


@pytest.mark.parametrize("name", WAYS_OUT)
async def test_an_output_never_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    """Even if a worker said so: the folder is opened name by name, and no link is followed."""
    (tmp_path / "secret.png").write_bytes(png())
    async with serving(tmp_path) as site:
        href = await publish(site, name, b"", "image/png")
        folder = next(site.store.outputs.iterdir())
        (folder / "link.png").symlink_to(tmp_path / "secret.png")
        (folder / "folder").mkdir()
        os.mkfifo(folder / "fifo")
        await site.problem("GET", href, 404, "unknown-file")


async def test_json_a_million_deep_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            text = io.BytesIO(b'{"document": ' + opening.encode() * 700_000)
            headers = {"Content-Type": "application/json"}
            await site.problem("POST", "/v1/jobs", 413, "document-too-large", data=text, headers=headers)
            deep = f'{{"document": {opening * 100}1{closing * 100}}}'
            await site.problem("POST", "/v1/jobs", 413, "document-too-large", data=deep, headers=headers)
            as_params = f'{{"document": {json.dumps(DOCUMENT)}, "params": {{"x": {opening * 100}1{closing * 100}}}}}'
            await site.problem("POST", "/v1/jobs", 413, "document-too-large", data=as_params, headers=headers)
        as_yaml = "nodes: " + "[" * 100_000
        await site.problem(
            "POST", "/v1/jobs", 413, "document-too-large", data=as_yaml, headers={"Content-Type": "text/yaml"}
        )


async def test_a_graph_with_a_million_nodes_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        written = "latentgraph: 1\nnodes:\n" + "".join(f" n{index}: {{type: Constant}}\n" for index in range(50_000))
        made = {"a": {"type": "Constant", "foreach": {"product": {"value": [1.0] * 1000, "words": ["x"] * 1000}}}}
        for document in (written, {"latentgraph": 1, "nodes": made}):
            body, headers = (
                io.BytesIO(json.dumps({"document": document}).encode()),
                {"Content-Type": "application/json"},
            )
            await site.problem("POST", "/v1/jobs", 413, "document-too-large", data=body, headers=headers)


async def test_a_graph_with_a_cycle_is_refused(tmp_path: Path) -> None:
    nodes = {"a": {"type": "Add", "a": "$b"}, "b": {"type": "Add", "a": "$a"}}
    async with serving(tmp_path) as site:
        body = {"document": {"latentgraph": 1, "nodes": nodes, "outputs": {"x": "$a"}}}
        problem = await site.problem("POST", "/v1/jobs", 422, "invalid-workflow", json=body)
        assert [one["code"] for one in problem["problems"]] == ["cycle"]


async def test_aliases_that_stand_for_much_are_refused(tmp_path: Path) -> None:
    laughs = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(8)
    )
    long = f"latentgraph: 1\nnodes: {{a: {{type: Constant, words: &w {'x' * 100_000}}}}}\nparams:\n" + "".join(
        f"  p{index}: *w\n" for index in range(900)
    )
    async with serving(tmp_path) as site:
        for text in (laughs, long):
            await site.problem(
                "POST", "/v1/jobs", 413, "document-too-large", data=text, headers={"Content-Type": "text/yaml"}
            )


TAGS = [
    "!!python/object/apply:os.system ['true']",
    "!!python/name:os.system",
    "&a [*a]",
    "? [a]\n: b",
    "%YAML 9.9\n---\na: 1",
    "a: 1\n---\nb: 2",
]


@pytest.mark.parametrize("text", TAGS)
async def test_yaml_makes_nothing_but_plain_values(tmp_path: Path, text: str) -> None:
    async with serving(tmp_path) as site:
        await site.problem(
            "POST", "/v1/jobs", 422, "invalid-workflow", data=text, headers={"Content-Type": "text/yaml"}
        )


BODIES = [
    b"", b"{", b"[]]", b'{"a": 1, "a": 2}', b'{"document": NaN}', b"\xff\xfe", b'{"document": "\\ud800"}', b"{'document': 1}",
    b'{"document": {"latentgraph": 1e999, "nodes": {}}}', b'{"document": {"nodes": {"a": ' + b"9" * 5000 + b"}}}", b"\0",
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
async def test_a_body_that_is_no_json_is_malformed(tmp_path: Path, body: bytes) -> None:
    async with serving(tmp_path) as site:
        for path in ("/v1/jobs", "/v1/validate"):
            await site.problem("POST", path, 400, "malformed", data=body, headers={"Content-Type": "application/json"})


async def test_texts_that_no_store_can_keep_are_refused_or_kept(tmp_path: Path) -> None:
    """NUL and other control characters are texts; half a surrogate pair is none."""
    async with serving(tmp_path) as site:
        for words in ("a\0b", "\x1b[31m", "\u202e", "\U0001f4a9"):
            document: dict[str, Any] = {**DOCUMENT, "nodes": {"one": {"type": "Constant", "words": words}}}
            job = await site.submit(document)
            assert await site.json("GET", f"{job['href']}/document") == document
        headers = {"Content-Type": "application/yaml"}
        text = 'latentgraph: 1\nnodes: {a: {type: Constant, words: "\\ud800"}}'
        await site.problem("POST", "/v1/jobs", 422, "invalid-workflow", data=text, headers=headers)


async def test_forms_are_bounded_in_parts_and_fields(tmp_path: Path) -> None:
    async with serving(tmp_path, Settings(parts=3, body_bytes=2_000)) as site:
        many, long, strange = FormData(), FormData(), FormData()
        for index in range(4):
            many.add_field(f"f{index}", png(), filename="x.png")
        long.add_field("params", '{"a": "%s"}' % ("x" * 3_000), filename=None)
        strange.add_field("what", "x")
        many.add_field("document", "x")
        strange.add_field("document", "x")
        await site.problem("POST", "/v1/jobs", 413, "too-many-parts", data=many)
        await site.problem("POST", "/v1/jobs", 415, "unsupported-type", data=long)
        strange._is_multipart = True
        await site.problem("POST", "/v1/jobs", 422, "invalid-request", data=strange)


FIELD = b"--x\r\nContent-Disposition: form-data; name="
FORMS = [
    b"", b"--x", b"--x\r\n", b"--x--", b"--x\r\n\r\nabc", b"--y\r\n\r\n", b"x" * 100_000,
    FIELD + b"a\r\n\r\nb\r\n--x--", FIELD + b'"_charset_"\r\n\r\n' + b"u" * 50 + b"\r\n--x--",
    FIELD + b'"a"; filename="b"\r\n\r\nc', b"--x\r\n" + b"A: b\r\n" * 1000 + b"\r\n--x--", b"--x\r\n" + b"A" * 100_000,
    b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\n--y--\r\n--x--",
]  # fmt: skip


@pytest.mark.parametrize("body", FORMS)
async def test_a_form_that_is_none_is_refused(tmp_path: Path, body: bytes) -> None:
    async with serving(tmp_path) as site:
        for kind in (
            "multipart/form-data; boundary=x",
            "multipart/form-data",
            "multipart/form-data; boundary=" + "y" * 100,
        ):
            for path in ("/v1/jobs", "/v1/files"):
                async with await site.ask("POST", path, data=body, headers={"Content-Type": kind}) as response:
                    assert response.status in (400, 422), await response.text()
