"""The page to try the API, as a person uses it in a headless Chromium: fill in, send, see the answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentgraph.server.api.app import ROUTES

from .browser import CHROMIUM, open_tab, running_chromium
from .web_fakes import DOCUMENT, YAML, png, serving


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
async def test_what_is_filled_in_is_sent_and_the_answer_is_shown(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await site.store.workflows.put("numbers", YAML, "application/yaml")
        with running_chromium(tmp_path / "profile") as address:
            async with open_tab(address) as tab:
                await tab.go(str(site.client.make_url("/v1/docs")))
                await tab.sees("/v1/workflows/numbers", "summary")
                needed = sum(site.parts.meet(route.needs) for route in ROUTES)
                assert await tab.evaluate("document.querySelectorAll('details').length") == needed + 1

                await tab.click("summary", "Look at the queue")
                await tab.click("details[open] button", "Send")
                await tab.sees('"queued": 0', "details[open] pre")
                await tab.click("summary", "Look at the queue")

                await tab.click("summary", "Submit a job")
                await tab.enter("details[open] textarea", json.dumps({"document": DOCUMENT}))
                await tab.click("details[open] button", "Send")
                await tab.sees("202", "details[open] p")
                await tab.sees('"state": "queued"', "details[open] pre")
                await tab.click("summary", "Submit a job")

                (tmp_path / "cat.png").write_bytes(png(30, 20))
                await tab.click("summary", "Upload a picture")
                await tab.choose_file("details[open] input[type=file]", tmp_path / "cat.png")
                await tab.evaluate("document.querySelector('details[open] select').value = 'image/png'")
                await tab.click("details[open] button", "Send")
                await tab.sees('"width": 30', "details[open] pre")
                assert tab.errors == []
