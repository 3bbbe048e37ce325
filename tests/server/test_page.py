"""The page as a person uses it, in a headless Chromium: order a picture, watch it, see it, change one thing; by mouse, by
keyboard, on a phone.

The app is the real one. What a worker would do is done by hand, so that each moment can be looked at for as long as it takes.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image as Pillow

from latentgraph.server.jobs.values import EventKind, JobError, NodeOutcome

from .browser import CHROMIUM, Tab, open_tab, running_chromium
from .page_fakes import PAINT, REPAINT, Painter, picture, serving_page, store_workflow
from .web_fakes import Site

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")

RED, BLUE = (200, 30, 30), (30, 60, 200)
PHONE = (360, 740)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_chromium(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving_page(tmp_path) as site:
        await store_workflow(site)
        yield site


@pytest.fixture
async def tab(chromium: str, site: Site) -> AsyncIterator[Tab]:
    """A tab in which nothing may go wrong by itself."""
    async with open_tab(chromium) as tab:
        yield tab
        assert tab.errors == []


async def visit(tab: Tab, site: Site, path: str = "/") -> None:
    await tab.go(str(site.client.make_url(path)))
    await tab.sees("Paint a picture from words.")


async def job_at(site: Site, count: int = 1) -> dict[str, Any]:
    """The newest of the jobs, of which there must be so many."""
    jobs: list[dict[str, Any]] = (await site.json("GET", "/v1/jobs"))["items"]
    assert len(jobs) == count
    return jobs[0]


async def made(site: Site, prompt: str, colour: tuple[int, int, int] = RED, **params: Any) -> str:
    """A job that has given a picture."""
    job: dict[str, Any] = await site.json("POST", "/v1/workflows/paint", 202, json={"prompt": prompt, **params})
    painter = await Painter.take(site.store)
    await painter.run("checkpoint", "words", "sample", "decode")
    await painter.finish(picture(colour))
    return str(job["id"])


def state_of(node: str) -> str:
    return f"document.querySelector('[data-node={node}]')?.dataset.state"


async def test_a_picture_is_ordered_watched_and_seen(tab: Tab, site: Site) -> None:
    await visit(tab, site)
    await tab.enter("[data-param=prompt] textarea", "a blue fish")
    await tab.sees("Changed: Prompt")
    await tab.click("button", "Run")
    await tab.sees("Waiting for a worker", ".now")
    job = await job_at(site)
    assert job["params"] == {
        "prompt": "a blue fish",
        "steps": 20,
        "strength": 1,
        "style": "flat",
        "sharp": True,
        "seed": 7,
        "checkpoint": "emoji",
    }

    painter = await Painter.take(site.store)
    await painter.tell(EventKind.PLANNED, nodes=4)
    await painter.tell(EventKind.NODE_CACHED, node="checkpoint", tier="memory")
    await painter.run("words")
    await painter.tell(EventKind.NODE_STARTED, node="sample")
    await painter.step(5, 20)
    await tab.sees("sample: step 5 of 20, node 3 of 4", ".now")
    await tab.sees("about 15 s left", ".now")
    states = [await tab.evaluate(state_of(node)) for node in ("checkpoint", "words", "sample", "decode")]
    assert states == ["cached", "done", "running", "waiting"]
    assert await tab.evaluate("document.querySelector('[role=progressbar]').ariaValueText") == (
        "sample: step 5 of 20, node 3 of 4, about 15 s left"
    )
    assert await tab.evaluate("document.title") == "56 % · paint"

    await tab.until("document.querySelector('.stage-words').innerText.includes('preview')")
    painter.show(BLUE)
    await tab.until("document.querySelector('.stage img')?.naturalWidth === 64")

    await painter.tell(EventKind.NODE_FINISHED, node="sample", seconds=3.2)
    await painter.run("decode")
    await painter.finish(picture(BLUE, (96, 80)), checkpoint=NodeOutcome("cached", "memory"))
    await tab.sees("Done", ".now .chip")
    await tab.sees("Took 1.6 s", ".now")
    await tab.until("document.querySelector('.stage img')?.naturalWidth === 96")
    assert await tab.until("document.querySelector('.tile img')?.naturalWidth") == 96
    assert (await tab.evaluate("document.querySelector('.tile img').alt")).startswith("a blue fish")
    assert await tab.evaluate("document.querySelector('#live').innerText") == "paint: Done."


async def test_a_job_is_cancelled_while_it_waits_and_while_it_runs(tab: Tab, site: Site) -> None:
    await visit(tab, site)
    await tab.click("button", "Run")
    await tab.sees("Queue · 1")
    await tab.click("button", "Run")
    await tab.sees("Queue · 2")
    painter = await Painter.take(site.store)
    await tab.sees("Running", ".jobs .chip")
    await tab.click(".jobs li:nth-child(2) button.danger")
    await tab.sees("Queue · 1")

    await tab.sees("Starting", ".now")
    await tab.click(".now button", "Cancel")
    await tab.sees("Cancelling", ".now .chip")
    await tab.sees("Cancelling", ".jobs .chip")
    assert (await site.store.get(painter.job.id)).cancel_requested
    await site.store.cancelled(painter.job.id, painter.job.attempt)
    await tab.sees("Cancelled", ".now .chip")
    await tab.sees("Nothing waits.")
    assert {job["state"] for job in (await site.json("GET", "/v1/jobs"))["items"]} == {"cancelled"}


async def test_what_can_be_checked_is_checked_before_it_is_sent(tab: Tab, site: Site) -> None:
    await visit(tab, site)
    await tab.enter("[data-param=steps] input[type=number]", "0")
    await tab.enter("[data-param=seed] input[type=text]", "-3")
    await tab.click("button", "Run")
    assert "Enter a whole number of at least 1 and at most 100" in await tab.sees(
        "0 does not fit", "[data-param=steps]"
    )
    await tab.sees("roll the dice", "[data-param=seed]")
    assert await tab.sees("Look at", "[role=alert]") == "Look at Steps, Seed."
    assert await tab.evaluate("document.activeElement.getAttribute('aria-invalid')") == "true"
    assert (await site.json("GET", "/v1/jobs"))["items"] == []

    await tab.enter("[data-param=steps] input[type=number]", "12")
    await tab.click("[data-param=seed] button", "Roll")
    await tab.click("button", "Run")
    await tab.sees("Queue · 1")
    job = await job_at(site)
    assert job["params"]["steps"] == 12
    assert 0 <= job["params"]["seed"] < 1 << 32


async def test_what_the_server_finds_wrong_is_said_at_its_field(tab: Tab, site: Site) -> None:
    await visit(tab, site)
    for change in ("max: 100", "max: 10, multiple_of: 5"):  # the form was made from an older version
        text = (await (await site.ask("GET", "/v1/workflows/paint")).text()).replace("max: 100", change)
        await store_workflow(site, text=text.replace("default: 20", "default: 10"))
    await tab.click("button", "Run")
    said = await tab.sees("The value is 20; expected", "[data-param=steps] .wrong")
    assert "at most 10" in said
    assert (await tab.focused()).startswith("Steps")


async def test_seeds_of_64_bits_stay_what_they_are(tab: Tab, site: Site) -> None:
    await visit(tab, site)
    await tab.enter("[data-param=seed] input[type=text]", "18446744073709551615")
    await tab.click("button", "Run")
    await tab.sees("Queue · 1")
    assert (await job_at(site))["params"]["seed"] == (1 << 64) - 1
    painter = await Painter.take(site.store)
    await painter.finish(picture(RED))
    await tab.click(".tile")
    await tab.sees("18446744073709551615", ".viewer .params")
    await tab.click(".viewer button", "Change and run again")
    await tab.until("document.querySelector('[data-param=seed] input').value === '18446744073709551615'")


async def test_the_gallery_shows_large_pictures_in_small(tab: Tab, site: Site) -> None:
    await visit(tab, site)
    await tab.click("button", "Run")
    await tab.sees("Queue · 1")
    painter = await Painter.take(site.store)
    await painter.finish(picture(RED, (1280, 640)))
    assert await tab.until("document.querySelector('.tile img')?.naturalWidth") == 320
    await tab.until("document.querySelector('.stage img')?.naturalWidth === 1280")


async def test_a_form_begins_with_the_picture_of_its_workflow(tab: Tab, site: Site) -> None:
    id = await site.upload(picture(BLUE, (48, 32)))
    await store_workflow(site, "repaint", REPAINT.replace("type: image_file,", f"type: image_file, default: {id},"))
    await visit(tab, site)
    await tab.evaluate(
        "(() => { const list = document.querySelector('#workflow'); list.value = 'repaint';"
        " list.dispatchEvent(new Event('change')); })()"
    )
    await tab.until("document.querySelector('[data-param=image] img')?.naturalWidth === 48")
    await tab.click("button", "Paint a mask")
    await tab.click("button", "Use this mask")
    await tab.sees("48 × 32 pixels", "[data-param=image]")
    await tab.click("button", "Run")
    await tab.sees("Queue · 1")
    assert (await job_at(site))["params"]["image"].startswith("sha256:")


async def test_a_picture_opens_with_what_made_it_and_is_made_again_with_one_change(tab: Tab, site: Site) -> None:
    await made(site, "a red apple", seed=11, steps=30)
    await visit(tab, site)
    await tab.click(".tile")
    assert await tab.sees("a red apple", ".viewer h2") == "a red apple"
    params = await tab.sees("Checkpoint", ".viewer .params")
    assert "11" in params
    assert "emoji" in params
    await tab.click(".viewer summary", "Document")
    shown = await tab.sees("latentgraph: 1", ".viewer pre")
    assert shown.strip() == PAINT.strip(), "as one writes it by hand"

    await tab.click(".viewer button", "Change and run again")
    await tab.sees("From a run of paint", ".origin")
    await tab.sees("Nothing changed")
    await tab.enter("[data-param=steps] input[type=number]", "5")
    await tab.sees("Changed: Steps")
    await tab.click("button", "Run")
    await tab.sees("Queue · 1")
    job = await job_at(site, 2)
    assert (job["params"]["seed"], job["params"]["steps"], job["workflow"]) == (11, 5, "paint")

    await (await Painter.take(site.store)).finish(picture(BLUE))
    await tab.until("document.querySelectorAll('.tile').length === 2")
    await tab.click(".tile")
    await tab.click(".viewer button", "New seed")
    await tab.sees("Queue · 1")
    again = await job_at(site, 3)
    assert again["params"]["seed"] != 11
    assert {**again["params"], "seed": 11} == job["params"]


async def test_what_is_made_again_runs_the_document_that_it_was_made_by(tab: Tab, site: Site) -> None:
    id = await made(site, "a red apple")
    text = await (await site.ask("GET", "/v1/workflows/paint")).text()
    await store_workflow(site, text=text.replace("$params.strength", "0.25"))
    await visit(tab, site)
    await tab.click(".tile")
    await tab.click(".viewer button", "Change and run again")
    await tab.sees("From a run of paint", ".origin")
    await tab.click("button", "Run")
    await tab.sees("Queue · 1")
    job = await job_at(site, 2)
    documents = [await site.json("GET", f"/v1/jobs/{one}/document") for one in (id, job["id"])]
    assert documents[0] == documents[1]
    assert job["workflow"] is None


async def test_a_failed_job_says_why_and_is_changed_and_run_again(tab: Tab, site: Site) -> None:
    await visit(tab, site)
    await tab.click("button", "Run")
    await tab.sees("Queue · 1")
    painter = await Painter.take(site.store)
    await painter.run("checkpoint", "words")
    await painter.tell(EventKind.NODE_STARTED, node="sample")
    await painter.tell(EventKind.WARNING, message="The picture is larger than the model likes.")
    await tab.sees("larger than the model likes", ".notes")
    await painter.fail("<b>9 GB</b> were needed. Use a smaller picture.")
    said = await tab.sees("sample (KSampler) failed.", ".failure")
    assert "<b>9 GB</b> were needed. Use a smaller picture." in said, "a text is shown as a text"
    assert await tab.evaluate("document.querySelectorAll('.failure b').length") == 0
    assert await tab.evaluate(state_of("sample")) == "failed"
    await tab.click("summary", "What went wrong lately")
    await tab.sees("9 GB", ".bad")
    await tab.click(".now button", "Change and run again")
    await tab.sees("From a run of paint", ".origin")


async def test_a_job_that_is_tried_again_says_so(tab: Tab, site: Site) -> None:
    await visit(tab, site)
    await tab.click("button", "Run")
    await tab.sees("Queue · 1")
    painter = await Painter.take(site.store)
    await tab.sees("Starting", ".now")
    error = JobError("worker_failed", "The disk was full.")
    await site.store.fail(painter.job.id, painter.job.attempt, error, retry=True)
    await tab.sees("Will be tried again", ".now .chip")
    await tab.sees("The attempt failed: The disk was full. It is tried again.", ".now .notes")


async def test_what_is_no_picture_is_told_or_saved(tab: Tab, site: Site) -> None:
    await visit(tab, site)
    await tab.click("button", "Run")
    await tab.sees("Queue · 1")
    await site.run_next({"latent": {"x.safetensors": b"x" * 50}}, count=3, words=["a", "<i>b</i>"])
    await tab.sees("The job gave no picture.", ".now")
    await tab.sees("count: 3", ".now")
    await tab.sees("words: a, <i>b</i>", ".now")
    await tab.click(".now button", "Save x.safetensors")


async def test_the_next_job_is_watched_once_the_first_is_done(tab: Tab, site: Site) -> None:
    await visit(tab, site)
    for prompt in ("the first", "the second"):
        await tab.enter("[data-param=prompt] textarea", prompt)
        await tab.click("button", "Run")
        await tab.sees(prompt, ".jobs")
    await tab.sees("the first", ".now .gist")
    await (await Painter.take(site.store)).finish(picture(RED))
    await tab.sees("Done", ".now .chip")
    painter = await Painter.take(site.store)
    await tab.sees("the second", ".now .gist")
    await painter.tell(EventKind.NODE_STARTED, node="sample")
    await painter.step(1, 4)
    await tab.sees("step 1 of 4", ".now")


async def test_the_queue_is_paused_and_resumed(tab: Tab, site: Site) -> None:
    await visit(tab, site)
    await tab.sees("Ready", ".server")
    await tab.click("button", "Pause")
    await tab.sees("Paused", ".server")
    await tab.click("button", "Run")
    await tab.sees("The queue is paused", ".now")
    await tab.click("button", "Resume")
    await tab.sees("Ready", ".server")
    site.supervisor.ready = False
    await tab.sees("Warming up", ".server")
    await tab.sees("no worker is warm yet", ".now")


async def test_the_page_is_used_by_keyboard_alone(tab: Tab, site: Site) -> None:
    for prompt in ("one", "two", "three"):
        await made(site, prompt)
    await visit(tab, site)
    await tab.until("document.querySelectorAll('.tile').length === 3")
    await tab.press("Tab")
    assert await tab.focused() == "Skip to the form"
    await tab.press("Enter")
    seen = []
    while "Prompt" not in seen:
        await tab.press("Tab")
        seen.append((await tab.focused()).strip())
    assert seen == ["Add a workflow from a file", "Workflow", "Prompt"]
    await tab.press("Control+a")
    await tab.type("by keyboard")
    await tab.press("Control+Enter")
    await tab.sees("by keyboard", ".jobs")

    while "Roll" not in seen[-1]:
        await tab.press("Tab")
        seen.append((await tab.focused()).strip())
    before = await tab.evaluate("document.querySelector('[data-param=seed] input').value")
    await tab.press(" ")
    await tab.until(f"document.querySelector('[data-param=seed] input').value !== '{before}'")

    while not (seen[-1].startswith("three")):
        await tab.press("Tab")
        seen.append((await tab.focused()).strip())
    await tab.press("ArrowRight")
    assert (await tab.focused()).startswith("two")
    await tab.press("End")
    assert (await tab.focused()).startswith("one")
    await tab.press("Home")
    await tab.press("Enter")
    await tab.sees("three", ".viewer h2")
    await tab.press("ArrowRight")
    await tab.sees("two", ".viewer h2")
    await tab.press("Escape")
    await tab.until("!document.querySelector('dialog')")
    assert (await tab.focused()).startswith("two"), "the focus is where one was last"


async def test_everything_that_can_be_used_has_a_name(tab: Tab, site: Site) -> None:
    await store_workflow(site, "repaint", REPAINT)
    await made(site, "a red apple")
    await visit(tab, site)
    await tab.until("document.querySelectorAll('.tile').length === 1")
    for name in ("paint", "repaint"):
        await choose(tab, name)
        tree = (await tab.send("Accessibility.getFullAXTree"))["nodes"]
        used = {"button", "textbox", "combobox", "checkbox", "slider", "spinbutton", "link", "image", "progressbar"}
        nameless = [
            node["role"]["value"]
            for node in tree
            if not node["ignored"] and node["role"]["value"] in used and not node.get("name", {}).get("value")
        ]
        assert nameless == []


async def choose(tab: Tab, workflow: str) -> None:
    """Chooses a workflow in the list."""
    await tab.until(f"[...document.querySelector('#workflow').options].some((one) => one.value === '{workflow}')")
    await tab.evaluate(
        f"document.querySelector('#workflow').value = '{workflow}',"
        "document.querySelector('#workflow').dispatchEvent(new Event('change'))"
    )


async def test_a_phone_shows_one_part_at_a_time_and_nothing_beside_it(tab: Tab, site: Site) -> None:
    await store_workflow(site, "repaint", REPAINT)
    await made(site, "a red apple")
    await tab.resize(*PHONE)
    await visit(tab, site)
    await choose(tab, "repaint")
    await tab.sees("Drop a picture here", "[data-param=image]")
    await no_overflow(tab)
    await choose(tab, "paint")
    await no_overflow(tab)
    assert await shown_panes(tab) == ["make"]

    await tab.click("button", "Run")
    await tab.sees("Waiting for a worker", ".now")
    assert await shown_panes(tab) == ["watch"]
    await tab.sees("1", ".tabs .badge")
    painter = await Painter.take(site.store)
    await painter.run("checkpoint", "words")
    await painter.tell(EventKind.NODE_STARTED, node="sample")
    await painter.step(3, 20)
    await tab.sees("step 3 of 20", ".now")
    await no_overflow(tab)
    await painter.finish(picture(BLUE))
    await tab.sees("Done", ".now .chip")

    await tab.click(".tabs a", "Gallery")
    await tab.until("document.querySelectorAll('.loaded').length === 2")
    assert await shown_panes(tab) == ["gallery"]
    await no_overflow(tab)
    await tab.click(".tile")
    await tab.sees("Change and run again", ".viewer")
    await no_overflow(tab)
    await tab.click(".viewer button", "Change and run again")
    await tab.sees("From a run of paint", ".origin")
    assert await shown_panes(tab) == ["make"]


async def no_overflow(tab: Tab) -> None:
    """Nothing is wider than the screen, and whatever is pressed is large enough for a finger."""
    wide = await tab.evaluate(
        "[...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > innerWidth + 1"
        " && one.checkVisibility() && !one.closest('.unseen, pre, .graph')).map((one) => one.outerHTML.slice(0, 120))"
    )
    assert wide == []
    assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = await tab.evaluate(
        "[...document.querySelectorAll('button, .tabs a, select')].filter((one) => one.checkVisibility()"
        " && one.getBoundingClientRect().height < 31).map((one) => one.innerText)"
    )
    assert small == []


async def shown_panes(tab: Tab) -> list[str]:
    shown: list[str] = await tab.evaluate(
        "[...document.querySelectorAll('.pane')].filter((one) => one.checkVisibility()).map((one) => one.id)"
    )
    return shown


async def test_a_mask_is_painted_on_a_picture_and_becomes_its_transparency(
    tab: Tab, site: Site, tmp_path: Path
) -> None:
    await store_workflow(site, "repaint", REPAINT)
    colours = Pillow.new("RGB", (120, 80))
    colours.putdata([(x * 2, y * 3, (x + y) % 256) for y in range(80) for x in range(120)])
    colours.save(tmp_path / "in.png")
    await visit(tab, site)
    await choose(tab, "repaint")
    await tab.click("button", "Run")
    await tab.sees("This is needed. Choose a picture.", "[data-param=image]")
    await tab.choose_file("[data-param=image] input[type=file]", tmp_path / "in.png")
    await tab.sees("120 × 80 pixels", "[data-param=image]")

    await tab.click("[data-param=image] button", "Paint a mask")
    left, top, scale = await tab.until(
        "(() => { const mask = document.querySelector('canvas.mask'); const box = mask?.getBoundingClientRect();"
        " return box?.width && [box.x, box.y, box.width / 120]; })()"
    )
    await tab.drag([(left + x * scale, top + 40 * scale) for x in (30, 45, 60)])
    await tab.click("dialog button", "Use this mask")
    await tab.until("!document.querySelector('dialog')")
    await tab.click("button", "Run")
    await tab.sees("Queue · 1")

    id = (await job_at(site))["params"]["image"]
    result = await fetch_picture(site, id)
    assert (result.mode, result.size) == ("RGBA", (120, 80))
    assert result.convert("RGB").tobytes() == colours.tobytes(), "every colour stays, under the mask too"
    alpha = result.getchannel("A")
    assert [alpha.getpixel((x, 40)) for x in (10, 30, 45, 60, 90)] == [255, 0, 0, 0, 255]
    assert alpha.getpixel((45, 10)) == 255

    await tab.click(
        "[data-param=image] button", "Paint a mask"
    )  # again, by keyboard: a dab in the middle, and away with it
    await tab.until("document.activeElement.className === 'mask'")
    for key in (" ", "e", " ", "Shift+ArrowLeft", "Shift+ArrowLeft"):
        await tab.press(key)
    await tab.click("dialog button", "Use this mask")
    await tab.until("!document.querySelector('dialog') && !document.querySelector('[aria-busy]')")
    await tab.click("button", "Run")
    await tab.sees("Queue · 2")
    erased = await fetch_picture(site, (await job_at(site, 2))["params"]["image"])
    assert erased.convert("RGB").tobytes() == colours.tobytes(), "no colour was lost by painting twice"
    assert [erased.getchannel("A").getpixel((x, 40)) for x in (30, 58, 90)] == [0, 255, 255]


async def test_a_mask_of_its_own_is_painted_on_the_picture_beside_it(tab: Tab, site: Site, tmp_path: Path) -> None:
    params = "  mask: {type: mask_file, description: Where.}\n  prompt"
    node = "  where: {type: LoadImage, file: $params.mask}\n  sample"
    text = (
        REPAINT.replace("  prompt", params, 1).replace("  sample", node, 1).replace("image: $source", "image: $where")
    )
    await store_workflow(site, "repaint", text)
    (tmp_path / "in.png").write_bytes(picture(RED, (100, 100)))
    await visit(tab, site)
    await choose(tab, "repaint")
    assert await tab.text("[data-param=mask] .drop") == "Drop a picture here, or choose one.\n\nChoose a picture"
    await tab.choose_file("[data-param=image] input[type=file]", tmp_path / "in.png")
    await tab.click("[data-param=mask] button", "Paint a mask")
    await tab.until("document.activeElement.className === 'mask'")
    await tab.press(" ")
    await tab.click("dialog button", "Use this mask")
    await tab.until("!document.querySelector('dialog')")
    await tab.click("button", "Run")
    await tab.sees("Queue · 1")
    given = (await job_at(site))["params"]
    assert (await fetch_picture(site, given["image"])).mode == "RGB"
    mask = await fetch_picture(site, given["mask"])
    assert [mask.getpixel(at) for at in ((50, 50), (10, 10))] == [(255, 255, 255, 0), (0, 0, 0, 255)]


async def fetch_picture(site: Site, id: str) -> Pillow.Image:
    async with await site.ask("GET", f"/v1/files/{id}") as response:
        return Pillow.open(io.BytesIO(await response.read()))


async def test_a_picture_is_dropped_and_a_result_becomes_an_input(tab: Tab, site: Site) -> None:
    await store_workflow(site, "repaint", REPAINT)
    await made(site, "a red apple")
    await visit(tab, site)
    await choose(tab, "repaint")
    await tab.evaluate(
        "(async () => { const canvas = new OffscreenCanvas(50, 40); canvas.getContext('2d').fillRect(0, 0, 50, 40);"
        " const transfer = new DataTransfer(); transfer.items.add(new File([await canvas.convertToBlob()], 'x.png',"
        " {type: 'image/png'})); document.querySelector('.drop').dispatchEvent(new DragEvent('drop',"
        " {dataTransfer: transfer, bubbles: true, cancelable: true})); })()"
    )
    await tab.sees("50 × 40 pixels", "[data-param=image]")
    await tab.click(".tile")
    await tab.click(".viewer button", "Use as input")
    await tab.sees("64 × 64 pixels", "[data-param=image]")
    await tab.click("button", "Run")
    await tab.sees("Queue · 1")
    given = await fetch_picture(site, (await job_at(site, 2))["params"]["image"])
    assert given.convert("RGB").getpixel((5, 5)) == RED


async def test_what_is_no_picture_is_refused_with_words(tab: Tab, site: Site, tmp_path: Path) -> None:
    await store_workflow(site, "repaint", REPAINT)
    (tmp_path / "note.txt").write_text("no picture")
    (tmp_path / "broken.png").write_bytes(b"<svg onload=alert(1)>")
    await visit(tab, site)
    await choose(tab, "repaint")
    await tab.choose_file("[data-param=image] input[type=file]", tmp_path / "note.txt")
    await tab.sees("This file is no picture that can be read.", "[data-param=image]")
    await tab.choose_file("[data-param=image] input[type=file]", tmp_path / "broken.png")
    await tab.sees("image/svg+xml", "[data-param=image] .wrong")


async def test_a_server_with_tokens_asks_for_one_and_the_tab_keeps_it(tab: Tab, site: Site) -> None:
    bearer = await site.new_token("submit", "admin")
    await tab.go(str(site.client.make_url("/")))
    await tab.sees("This server needs a token", "dialog")
    assert await tab.focused() == "Token"
    await tab.type("secret")
    await tab.press("Enter")
    await tab.sees("A token begins with lg_", "dialog")
    await tab.enter("#token", "lg_" + 43 * "x")
    await tab.press("Enter")
    await tab.sees("The server does not know this token", "dialog")
    assert bearer.token is not None
    await tab.type(bearer.token)
    await tab.press("Enter")
    await tab.sees("Paint a picture from words.")
    assert bearer.token not in await tab.evaluate("document.documentElement.outerHTML + location.href")
    assert await tab.evaluate("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]

    await tab.click("button", "Run")  # events and pictures need the token, too
    await tab.sees("Queue · 1")
    painter = await Painter.take(site.store)
    await painter.tell(EventKind.NODE_STARTED, node="sample")
    await painter.step(2, 4)
    await tab.sees("step 2 of 4", ".now")
    await painter.finish(picture(RED))
    await tab.until("document.querySelector('.stage img')?.naturalWidth === 64")
    await tab.until("document.querySelector('.tile img')?.naturalWidth === 64")

    await visit(tab, site)  # the same tab, loaded again
    await tab.click("button", "Forget token")
    await tab.sees("This server needs a token", "dialog")
    await tab.press("Escape")
    await tab.sees("Without a token the server shows nothing.", "[role=alert]")


async def test_a_lost_connection_is_said_and_found_again(tab: Tab, site: Site) -> None:
    await visit(tab, site)
    await tab.click("button", "Run")
    await tab.sees("Queue · 1")
    painter = await Painter.take(site.store)
    await painter.tell(EventKind.NODE_STARTED, node="sample")
    await painter.step(1, 8)
    await tab.sees("step 1 of 8", ".now")
    await tab.send("Network.enable")
    await offline(tab, True)
    site.parts.streams.close()  # as a server that ends
    await tab.sees("Can't be reached", ".server")
    await tab.sees("The connection was lost", ".now")
    await painter.step(7, 8)
    site.parts.streams._closing = False
    await offline(tab, False)
    await tab.sees("step 7 of 8", ".now")
    await tab.sees("Ready", ".server")


async def offline(tab: Tab, is_: bool) -> None:
    await tab.send(
        "Network.emulateNetworkConditions", offline=is_, latency=0, downloadThroughput=-1, uploadThroughput=-1
    )


async def test_a_workflow_is_added_from_a_file_and_its_errors_are_said(tab: Tab, site: Site, tmp_path: Path) -> None:
    await visit(tab, site)
    (tmp_path / "my repaint.yaml").write_text(REPAINT.replace("KSampler", "KSimpler"))
    await tab.choose_file(".picker input[type=file]", tmp_path / "my repaint.yaml")
    await tab.sees("KSampler?", "[role=alert]")
    (tmp_path / "my repaint.yaml").write_text(REPAINT)
    await tab.choose_file(".picker input[type=file]", tmp_path / "my repaint.yaml")
    await tab.sees("Repaint a part of a picture.")
    assert await tab.evaluate("document.querySelector('#workflow').value") == "my_repaint"


async def test_workflows_that_need_a_model_file_are_listed_behind_the_others(tab: Tab, site: Site) -> None:
    needy = PAINT.replace("params:\n", "params:\n  weights: {type: checkpoint_file}\n", 1)
    await store_workflow(site, "a_large_one", needy)
    await visit(tab, site)
    await tab.until("document.querySelector('#workflow optgroup') !== null")
    listed = await tab.evaluate("[...document.querySelectorAll('#workflow option')].map((one) => one.value)")
    behind = await tab.evaluate("[...document.querySelectorAll('#workflow optgroup option')].map((one) => one.value)")
    assert (listed, behind) == (["paint", "a_large_one"], ["a_large_one"])


async def test_of_the_model_files_those_are_offered_that_fit(tab: Tab, site: Site) -> None:
    edit = "latentgraph: 1\ndescription: Edit.\nparams:\n  vae: {type: checkpoint_file}\n" + (
        "nodes:\n  load: {type: LoadEditor, file: $params.vae}\noutputs: {thing: $load}\n"
    )
    await store_workflow(site, "edit", edit)
    await visit(tab, site)
    offered = """[...[...document.querySelectorAll('.field select')].at(-1)?.options ?? []]
        .map((one) => one.disabled ? `(${one.textContent})` : one.textContent).join()"""
    await tab.until(f"{offered} === 'emoji,other'")
    await choose(tab, "edit")
    await tab.until(f"{offered} === `None of the server's files fits,(emoji),(other)`")
    await tab.sees("Put one in checkpoints/ of the server's models folder", "[data-param=vae]")
    await tab.sees("VAE", "[data-param=vae] label")
    assert "edits nothing" in await tab.evaluate("document.querySelector('option[disabled]').title")
    await tab.click("button", "Run")
    await tab.sees("This is needed. Nothing that fits is there.", "[data-param=vae]")
    folder = site.folder / "models" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "editor.bin").write_bytes(b"editor")
    await visit(tab, site)
    await choose(tab, "edit")
    await tab.until(f"{offered} === 'Choose one,editor.bin,(emoji),(other)'")
    await tab.click("button", "Run")
    await tab.sees("This is needed. Choose one.", "[data-param=vae]")


async def test_a_server_without_workflows_says_how_to_get_one(chromium: str, tmp_path: Path) -> None:
    async with serving_page(tmp_path) as site, open_tab(chromium) as tab:
        await tab.go(str(site.client.make_url("/")))
        await tab.sees("No workflow is stored yet.")
        await tab.sees("There are no pictures yet.")
        await tab.sees("Nothing is running")
        assert tab.errors == []


async def test_colours_follow_what_the_person_prefers(tab: Tab, site: Site) -> None:
    await visit(tab, site)
    grounds = []
    for scheme in ("light", "dark"):
        await tab.prefer(prefers_color_scheme=scheme)
        grounds.append(await tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(245, 245, 241)", "rgb(19, 22, 22)"]


async def test_texts_can_be_told_from_their_ground(tab: Tab, site: Site) -> None:
    """WCAG asks for a contrast of 4.5."""
    await visit(tab, site)
    pairs = [("text", "ground"), ("text", "surface"), ("muted", "ground"), ("muted", "surface"), ("muted", "raised")]
    pairs += [("on-accent", "accent"), ("accent-strong", "accent-soft"), ("bad", "bad-soft"), ("bad", "surface")]
    pairs += [("warm", "warm-soft"), ("text", "bad-soft"), ("text", "warm-soft"), ("accent", "surface")]
    for scheme in ("light", "dark"):
        await tab.prefer(prefers_color_scheme=scheme)
        names = sorted({name for pair in pairs for name in pair})
        read = "getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()"
        colours = dict(await tab.evaluate(f"{names}.map((name) => [name, {read}])"))
        for one, other in pairs:
            assert contrast(colours[one], colours[other]) >= 4.5, (scheme, one, other)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG 2 defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


async def test_a_graph_is_laid_out_without_boxes_that_touch(tab: Tab, site: Site) -> None:
    await visit(tab, site)
    layout = await tab.evaluate(
        "import('/page/graph.js').then(({ layOut }) => layOut(["
        "{id: 'a', sources: []}, {id: 'b', sources: ['a']}, {id: 'c', sources: ['a']}, {id: 'd', sources: ['b', 'c', 'a']},"
        "{id: 'e', sources: ['d', 'a']}, {id: 'f', sources: []}, {id: 'g', sources: ['f', 'e']}]))"
    )
    boxes = {box["id"]: (box["x"], box["y"]) for box in layout["boxes"]}
    assert min(boxes, key=lambda id: boxes[id][1]) == "a"
    assert boxes["f"][1] == boxes["d"][1] + 74, "what reads nothing stands just above its reader"
    for id, (x, y) in boxes.items():
        assert x >= 0
        assert all(abs(x - left) >= 122 or y != top for other, (left, top) in boxes.items() if other != id)
    crossing = [
        link
        for link in layout["links"]
        for px, py in link["points"]
        for id, (x, y) in boxes.items()
        if id not in (link["from"], link["to"]) and x < px < x + 122 and y <= py <= y + 44
    ]
    assert crossing == [], "long links go between the boxes"


async def test_a_document_is_shown_as_yaml_that_says_the_same(tab: Tab, site: Site) -> None:
    texts = [
        "",
        " x",
        "x ",
        "yes",
        "No",
        "null",
        "~",
        "1.5",
        "1e3",
        "0x1f",
        "2026-01-01",
        "a: b",
        "a #b",
        "- a",
        "{a}",
        "$$5",
        "é",
    ]
    texts += [
        "one\ntwo",
        "<<",
        "=",
        ".inf",
        "./parts/x.yaml",
        "$node.port",
        "'q'",
        '"q"',
        "\\",
        "@a",
        "%a",
        "a, b",
        "[a]",
        "*a",
        "&a",
    ]
    tree = {
        "latentgraph": 1,
        "params": {"texts": texts, **{f"p{index}": text for index, text in enumerate(texts)}},
        "nodes": {"a": {"n": [1, 2.5, -3, 1e-7, (1 << 64) - 1, True, None, {}, [], {"y": [[]]}], "k k": {"on": "off"}}},
    }
    await visit(tab, site)
    text = await tab.evaluate(
        "Promise.all([import('/page/workflow.js'), import('/page/json.js')]).then(([{ toYaml }, { readWritten }]) =>"
        f" toYaml(readWritten({json.dumps(json.dumps(tree))})))"
    )
    assert yaml.safe_load(text) == tree


async def test_a_graph_of_any_size_can_be_watched(tab: Tab, site: Site) -> None:
    links = "".join(f"  n{i}: {{type: TextEncode, clip: $n{i - 1}, text: x}}\n" for i in range(1, 600))
    text = "latentgraph: 1\nnodes:\n  n0: {type: LoadCheckpoint, file: emoji}\n" + links + "outputs: {image: $n599}\n"
    await site.json("POST", "/v1/jobs", 202, json={"document": text})
    painter = await Painter.take(site.store)
    await painter.run("n0", "n1", "n2")
    await visit(tab, site)
    await tab.sees("The graph has 600 nodes, too many to draw. 3 of 600 nodes done.", ".now")
