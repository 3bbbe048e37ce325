"""A headless Chromium, driven over the DevTools protocol through aiohttp: what a person does at a page, and what they see.

Input goes the way of a real mouse and keyboard. What is waited for is asked again until it is there; nothing is timed. Knows no
page in particular.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
"""Where a Chromium is, or None."""

PATIENCE_SECONDS = 180.0
"""How long anything is waited for that will come, however busy the machine is."""

_LOOK_SECONDS = 0.05
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root in a container has no other way; nothing but our own page is opened
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--no-first-run",
    "--no-default-browser-check",
    "--mute-audio",
    "--remote-debugging-port=0",
)
_KEYS: Mapping[str, tuple[str, int, str]] = {
    "Enter": ("Enter", 13, "\r"),
    "Tab": ("Tab", 9, ""),
    "Escape": ("Escape", 27, ""),
    " ": ("Space", 32, " "),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "Home": ("Home", 36, ""),
    "End": ("End", 35, ""),
}
_MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}

_FIND = """(selector, words) => [...document.querySelectorAll(selector)].find((one) => {
    const box = one.getBoundingClientRect();
    const name = `${one.getAttribute("aria-label") ?? ""} ${one.innerText ?? ""}`;
    return box.width > 0 && box.height > 0 && name.includes(words);
})"""


class PageError(AssertionError):
    """The page did not do what was expected of it."""


@contextmanager
def running_chromium(folder: Path) -> Iterator[str]:
    """Runs a browser with a profile in a folder; yields the address that it is driven at."""
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    try:
        yield _address(process, folder / "DevToolsActivePort")
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@asynccontextmanager
async def open_tab(address: str, width: int = 1280, height: int = 900) -> AsyncIterator[Tab]:
    """Opens a tab that shares nothing with others, and closes it."""
    async with ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
        tab = Tab(socket)
        try:
            await tab.begin(width, height)
            yield tab
        finally:
            await tab.end()


class Tab:
    """A tab. errors: what went wrong in it by itself: exceptions, and what the page's policy refused."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.errors: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session = self._context = ""
        self._listener = asyncio.create_task(self._listen())

    async def begin(self, width: int, height: int) -> None:
        """Makes the tab, of a size."""
        self._context = (await self.send("Target.createBrowserContext"))["browserContextId"]
        target = await self.send("Target.createTarget", url="about:blank", browserContextId=self._context)
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            await self.send(f"{domain}.enable")
        await self.resize(width, height)

    async def end(self) -> None:
        """Closes the tab."""
        self._session = ""
        if self._context and not self._socket.closed:
            await self.send("Target.disposeBrowserContext", browserContextId=self._context)
        self._listener.cancel()
        await asyncio.gather(self._listener, return_exceptions=True)

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Returns what the browser answers to a command. Raises PageError."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        await self._socket.send_str(json.dumps(message))
        async with asyncio.timeout(PATIENCE_SECONDS):
            result = await answer
        if "error" in result:
            raise PageError(f"{method}: {result['error'].get('message')}")
        found: dict[str, Any] = result.get("result", {})
        return found

    # What a person sees

    async def evaluate(self, expression: str) -> Any:
        """Returns the JSON value of an expression, once it is settled. Raises PageError with what it throws."""
        answer = await self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Returns the value of an expression once it is true."""
        begun = time.monotonic()
        while True:
            value = await self.evaluate(expression)
            if value:
                return value
            if time.monotonic() - begun > PATIENCE_SECONDS:
                shown = await self.evaluate("document.body.innerText")
                raise PageError(f"never true: {expression}\nerrors: {self.errors}\nthe page says:\n{shown[:2000]}")
            await asyncio.sleep(_LOOK_SECONDS)

    async def sees(self, words: str, selector: str = "body") -> str:
        """Returns the text of an element once it is visible and holds the words."""
        found: str = await self.until(f"({_FIND})({json.dumps(selector)}, {json.dumps(words)})?.innerText")
        return found

    async def text(self, selector: str) -> str:
        """Returns the text of an element."""
        found: str = await self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    async def focused(self) -> str:
        """Returns what has the focus: its label or text."""
        found: str = await self.evaluate(
            "(({ ariaLabel, labels, innerText, title }) => ariaLabel || labels?.[0]?.innerText || innerText || title || '')"
            "(document.activeElement)"
        )
        return found

    async def screenshot(self, path: Path) -> None:
        """Writes what is to be seen as a PNG."""
        path.write_bytes(base64.b64decode((await self.send("Page.captureScreenshot", format="png"))["data"]))

    # What a person does

    async def go(self, url: str) -> None:
        """Opens an address and waits until it is loaded."""
        await self.send("Page.navigate", url=url)
        await self.until(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    async def click(self, selector: str, words: str = "") -> None:
        """Clicks the first visible element of a selector whose label or text holds the words, in its middle."""
        find = f"({_FIND})({json.dumps(selector)}, {json.dumps(words)})"
        await self.until(f"Boolean({find}) && !{find}.disabled")
        x, y = await self.evaluate(
            f"(() => {{ const one = {find}; one.scrollIntoView({{block: 'center'}});"
            " const box = one.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        await self.drag([(x, y)])

    async def drag(self, points: Sequence[tuple[float, float]]) -> None:
        """Presses the mouse at the first point, moves it over the others, and lets go at the last."""
        common = {"button": "left", "clickCount": 1}
        (x, y), *others = points
        await self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        await self.send("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, buttons=1, **common)
        for x, y in others:
            await self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
        await self.send("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, **common)

    async def press(self, key: str) -> None:
        """Presses a key: "Tab", "a", or with others, as in "Control+Enter"."""
        *held, last = key.split("+") if len(key) > 1 else [key]
        modifiers = sum(_MODIFIERS[name] for name in held)
        code, number, text = _KEYS.get(last, (f"Key{last.upper()}", ord(last.upper()[0]), last))
        common = {"key": last, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers}
        typed = {"text": text} if text and not modifiers & ~_MODIFIERS["Shift"] else {}
        await self.send("Input.dispatchKeyEvent", type="keyDown" if typed else "rawKeyDown", **common, **typed)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    async def type(self, text: str) -> None:
        """Types a text where the focus is, in place of what is selected."""
        await self.send("Input.insertText", text=text)

    async def enter(self, selector: str, text: str) -> None:
        """Puts a text into a field in place of what it held."""
        one = f"document.querySelector({json.dumps(selector)})"
        await self.until(f"Boolean({one})")
        await self.evaluate(f"{one}.focus(), {one}.select()")
        await self.type(text)

    async def choose_file(self, selector: str, path: Path) -> None:
        """Gives a file to a file field, as its dialog does."""
        found = await self.send("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        await self.send("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    async def resize(self, width: int, height: int) -> None:
        """Gives the tab a size in pixels; below 600 it is that of a phone."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    async def prefer(self, **features: str) -> None:
        """Sets what the person prefers, such as prefers_color_scheme="dark"."""
        chosen = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        await self.send("Emulation.setEmulatedMedia", features=chosen)

    async def _listen(self) -> None:
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                continue
            told = json.loads(message.data)
            if "id" in told:
                answer = self._answers.pop(told["id"], None)
                if answer is not None and not answer.done():
                    answer.set_result(told)
            else:
                self._note(told["method"], told.get("params", {}))

    def _note(self, method: str, params: Mapping[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and params["entry"]["source"] in ("security", "violation"):
            self.errors.append(params["entry"]["text"])


def _address(process: subprocess.Popen[bytes], note: Path) -> str:
    """Returns the address that a browser has written down, once it has."""
    begun = time.monotonic()
    while time.monotonic() - begun < PATIENCE_SECONDS:
        if note.exists() and len(lines := note.read_text().split()) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        if process.poll() is not None:
            raise PageError(f"the browser ended with code {process.returncode}")
        time.sleep(_LOOK_SECONDS)
    raise PageError("the browser did not start")
