"""One worker process: started, listened to, watched, and ended. It does not know what a job is.

Whatever a worker does, it can't harm the server: what it says is bounded and checked, and a line that is no message, a beat
that does not come or too much memory costs it its life. It runs in a process group of its own, which is killed as a whole, so
nothing that it started outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import MalformedMessage, WorkerGone
from .messages import Beat, Exit, FromServer, FromWorker, Lines, Ready, read_from_worker, write_line

LOG_LINES, LOG_LINE_CHARACTERS = 20, 2_000
"""How much is kept of what a worker wrote last."""

_INBOX = 1_000  # messages that may wait to be taken; past it the worker waits
_PIECE_BYTES = 1 << 16
_LAST_WORDS_SECONDS = 2.0  # what a dead worker said last is read within this

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerSlot:
    """A place for one worker at a time. name: for logs and jobs. device: what it computes on."""

    name: str
    device: str = "auto"


StartWorker = Callable[[WorkerSlot], Sequence[str]]
"""Returns the command line of a slot's worker; `--channel-fd N` is added to it."""


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What is expected of workers.

    warm_up_seconds: from the start of the process to its being ready. warm_up_silence_seconds: without a word until then, which
    is long, since imports hold up the thread that beats, above all on a busy machine. heartbeat_timeout_seconds: without a word
    from then on. node_timeout_seconds: of a node, or of what a job does between nodes, without
    an event. memory_bytes: what the process may have in use, None for no limit. cancel_grace_seconds: from a cancel to the
    end of the job. drain_grace_seconds: for running jobs when the server drains. exit_seconds: for a worker that is told to
    end. back_off_seconds, back_off_cap_seconds: before a worker is started anew that died before it was ready, doubled each
    time up to the cap.
    """

    warm_up_seconds: float = 600.0
    warm_up_silence_seconds: float = 120.0
    heartbeat_timeout_seconds: float = 10.0
    node_timeout_seconds: float = 3600.0
    memory_bytes: int | None = None
    cancel_grace_seconds: float = 10.0
    drain_grace_seconds: float = 30.0
    exit_seconds: float = 5.0
    back_off_seconds: float = 1.0
    back_off_cap_seconds: float = 60.0


class WorkerProcess:
    """A worker process and the server's end of its channel. `facts` is None until it is ready."""

    def __init__(
        self,
        slot: WorkerSlot,
        process: asyncio.subprocess.Process,
        channel: socket.socket,
        log: socket.socket,
        limits: WorkerLimits,
    ) -> None:
        self.slot, self.pid = slot, process.pid
        self._process, self._channel, self._log, self._limits = process, channel, log, limits
        self.facts: Ready | None = None
        self.beat = Beat()
        self.gone = asyncio.Event()
        self._messages: deque[FromWorker] = deque()
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._log_tail: deque[str] = deque(maxlen=LOG_LINES)
        self._sending = asyncio.Lock()
        self._reason = self._end = ""
        self._silent_seconds = 0.0
        self._deserted = False
        self._life = asyncio.create_task(self._live(), name=f"worker {slot.name}")

    @classmethod
    async def start(cls, slot: WorkerSlot, command: Sequence[str], limits: WorkerLimits) -> WorkerProcess:
        """Starts a worker. Raises OSError if that can't be done."""
        (channel, theirs), (log, written) = socket.socketpair(), socket.socketpair()
        try:
            channel.setblocking(False)
            log.setblocking(False)
            process = await asyncio.create_subprocess_exec(
                *command,
                "--channel-fd",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=written.fileno(),
                stderr=written.fileno(),
                start_new_session=True,
            )
        except BaseException:
            channel.close()
            log.close()
            raise
        finally:
            theirs.close()
            written.close()
        return cls(slot, process, channel, log, limits)

    async def receive(self, timeout_seconds: float) -> list[FromWorker]:
        """Returns what the worker said since the last call, but for beats; nothing if time is up, or `wake` was called.

        Raises WorkerGone once it has ended and all that it said was taken.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._news.wait()
        batch = list(self._messages)
        self._messages.clear()
        self._room.set()
        if self.gone.is_set():
            if not batch:
                raise WorkerGone(self._end)
        else:
            self._news.clear()
        return batch

    def wake(self) -> None:
        """Has `receive` return at once."""
        self._news.set()

    async def send(self, message: FromServer) -> None:
        """Tells the worker something. Raises MalformedMessage if it is too long; a worker that is gone hears nothing."""
        line = write_line(message)
        with contextlib.suppress(OSError):
            async with self._sending:
                await asyncio.get_running_loop().sock_sendall(self._channel, line)

    def kill(self, reason: str) -> None:
        """Ends the worker and all that it started, at once; `reason` is how it will be said to have ended."""
        if not self.gone.is_set():
            self._reason = self._reason or reason
            self._kill_group()

    async def end(self, reason: str = "") -> None:
        """Ends the worker and returns when it is gone; nobody takes what it still says. It may be repeated.

        reason: why it is killed at once; without one it is told to end, and killed if it does not in time.
        """
        self._deserted = True
        self._room.set()
        if not reason and not self.gone.is_set():
            reason = "it did not end when told to"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.exit_seconds):
                    await self.send(Exit())
                    await self.gone.wait()
        self.kill(reason)
        await asyncio.shield(self._life)

    @property
    def how_it_ended(self) -> str:
        """How it ended, in words; empty while it lives."""
        return self._end

    @property
    def log_tail(self) -> tuple[str, ...]:
        """The last lines that it wrote to its standard output and error since `forget_log`."""
        return tuple(self._log_tail)

    def forget_log(self) -> None:
        """Begins `log_tail` anew."""
        self._log_tail.clear()

    async def _live(self) -> None:
        """Listens until the process has ended; then nothing of it is left."""
        ended = asyncio.create_task(self._process.wait())
        reader, log, watch = (asyncio.create_task(one) for one in (self._read(), self._read_log(), self._watch()))
        await asyncio.wait((ended, reader), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((ended,), timeout=self._limits.exit_seconds)  # without a channel it has nothing to live for
        if not ended.done():
            self.kill("it closed its channel")
        code = await ended
        self._kill_group()  # its number is not given away as long as one of the group lives
        while (await asyncio.wait((reader, log), timeout=_LAST_WORDS_SECONDS))[1] and self._full:
            pass  # it said much, which is being taken
        for task in (reader, log, watch):
            task.cancel()
        for outcome in await asyncio.gather(reader, log, watch, return_exceptions=True):
            if isinstance(outcome, Exception):
                _log.error("worker %s could not be attended to", self.slot.name, exc_info=outcome)
        self._channel.close()
        self._log.close()
        self._end = f"{self._reason}; it was killed" if self._reason else _exit_words(code)
        self.gone.set()
        self._news.set()

    @property
    def _full(self) -> bool:
        """Whether the worker has to wait until somebody takes what it said."""
        return len(self._messages) >= _INBOX and not self._deserted

    async def _read(self) -> None:
        loop, lines = asyncio.get_running_loop(), Lines()
        with contextlib.suppress(OSError):
            while piece := await loop.sock_recv(self._channel, _PIECE_BYTES):
                self._silent_seconds = 0.0
                try:
                    messages = [read_from_worker(line) for line in lines.feed(piece)]
                except MalformedMessage as error:
                    _log.error("worker %s (process %d) is not understood: %s", self.slot.name, self.pid, error)
                    self.kill(f"it said what is no message: {error}")
                    return
                for message in messages:
                    await self._hear(message)

    async def _hear(self, message: FromWorker) -> None:
        if isinstance(message, Beat):
            self.beat = message
            limit = self._limits.memory_bytes
            if limit is not None and message.rss_bytes > limit:
                self.kill(f"it used {message.rss_bytes / 2**20:,.0f} MiB of memory, and may use {limit / 2**20:,.0f}")
        elif isinstance(message, Ready):
            self.facts = message
            self._news.set()
        else:
            while self._full:
                self._room.clear()
                await self._room.wait()
            if not self._deserted:
                self._messages.append(message)
                self._news.set()

    async def _watch(self) -> None:
        """Kills a worker that is silent. Time is counted in steps, so a server that stood still blames nobody for it."""
        limits = self._limits
        step = min(limits.heartbeat_timeout_seconds, limits.warm_up_silence_seconds, limits.warm_up_seconds) / 10
        warming = 0.0
        while True:
            await asyncio.sleep(step)
            self._silent_seconds = 0.0 if self._full else self._silent_seconds + step
            ready = self.facts is not None
            patience = limits.heartbeat_timeout_seconds if ready else limits.warm_up_silence_seconds
            warming += 0.0 if ready else step
            if self._silent_seconds >= patience:
                self.kill(f"it gave no sign of life for {patience:g} s")
            elif warming >= limits.warm_up_seconds:
                self.kill(f"it was not ready within {limits.warm_up_seconds:g} s")

    async def _read_log(self) -> None:
        """Passes on what the worker writes, line by line, the ends of long ones left out."""
        loop, rest = asyncio.get_running_loop(), b""
        with contextlib.suppress(OSError):
            while piece := await loop.sock_recv(self._log, _PIECE_BYTES):
                *lines, rest = (rest + piece).split(b"\n")
                rest = rest[:LOG_LINE_CHARACTERS]
                for line in lines:
                    self._note(line)
        if rest:
            self._note(rest)

    def _note(self, line: bytes) -> None:
        text = line[:LOG_LINE_CHARACTERS].decode("utf-8", "replace").rstrip()
        self._log_tail.append(text)
        _log.info("worker %s: %s", self.slot.name, text, extra={"worker": self.slot.name})

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all of it is gone, or a zombie on some systems
            os.killpg(self.pid, signal.SIGKILL)


def _exit_words(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        return f"it was ended by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"it was ended by signal {-code}"
