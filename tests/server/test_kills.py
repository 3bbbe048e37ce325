"""kill -9 at any moment: what was accepted is there, once, and what was published stays published.

A process submits jobs, runs them, and says what it was told. It is killed again and again on one folder. Its client does what
clients do: it sends again, with the same keys, whatever it got no answer for. A longer run is made by
`LATENTGRAPH_KILLS=1000 pytest tests/server/test_kills.py`.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from latentgraph.server.jobs.states import JobState

from .queue_fakes import check_clean, kinds, opened

KILLS = int(os.environ.get("LATENTGRAPH_KILLS", "5"))

SERVER = """
import asyncio, sys
from pathlib import Path
from latentgraph.server.jobs.values import JobDraft, Outcome, EventKind, JobEvent
from latentgraph.server.jobs.states import JobState
from latentgraph.server.jobs.store import JobStore

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

async def client(store, keys):
    for key in keys:
        while (await store.counts())[JobState.QUEUED] >= 100:  # or a long run would fill the queue
            await asyncio.sleep(0.002)
        answer = await store.submit(JobDraft("{}", idempotency_key=str(key), body_sha256="body"))
        say("accepted", key, answer.job.id)

async def worker(store, name):
    while True:
        seen = store.changed.count
        job = await store.claim(name)
        if job is None:
            await store.changed.after(seen)
            continue
        await store.append_events(job.id, job.attempt, [JobEvent(EventKind.PROGRESS, {"step": 1})])
        if await store.succeed(job.id, job.attempt, Outcome(values={"attempt": job.attempt})):
            say("published", job.id, job.attempt)

async def main():
    store = await JobStore.open(Path(sys.argv[1]))
    say("open")
    keys = iter(range(int(sys.argv[2]), 10**9))
    await asyncio.gather(*[client(store, keys) for _ in range(6)], *[worker(store, f"gpu-{n}") for n in range(2)])

asyncio.run(main())
"""


async def test_what_was_accepted_is_there_once_after_every_kill(tmp_path: Path) -> None:
    seed = random.randrange(10**6) if KILLS > 5 else 1
    chance = random.Random(seed)
    accepted: dict[str, str] = {}
    published: dict[str, str] = {}
    first_without_answer = 0
    for _ in range(KILLS):
        for words in lines_until_killed(tmp_path, first_without_answer, chance.randrange(0, 120)):
            if words[0] == "accepted":
                assert accepted.setdefault(words[1], words[2]) == words[2], "a key was given two jobs"
            elif words[0] == "published":
                assert words[1] not in published, "a result was published twice"
                published[words[1]] = words[2]
        while str(first_without_answer) in accepted:
            first_without_answer += 1
    check_clean(tmp_path)
    async with opened(tmp_path) as store:
        jobs = {}
        page = await store.list(owner=None, limit=1000)
        while True:
            jobs |= {job.id: job for job in page.items}
            if page.next is None:
                break
            page = await store.list(owner=None, limit=1000, before=page.next)
        assert {job.idempotency_key for job in jobs.values()} >= set(accepted), f"an accepted job is lost; seed {seed}"
        assert len({job.idempotency_key for job in jobs.values()}) == len(jobs), "a job is there twice"
        for key, id in accepted.items():
            assert jobs[id].idempotency_key == key
        for id, attempt in published.items():
            outcome = jobs[id].outcome
            assert jobs[id].state is JobState.SUCCEEDED
            assert outcome is not None
            assert outcome.values == {"attempt": int(attempt)}
        for job in list(jobs.values())[:50]:
            assert kinds(await store.events(job.id)).count("finished") == job.ended
    assert len(accepted) > KILLS


def lines_until_killed(folder: Path, first_key: int, count: int) -> list[list[str]]:
    """Starts a server, kills it once it has said `count` lines, and returns all that it said whole."""
    command = [sys.executable, "-c", SERVER, str(folder), str(first_key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = [server.stdout.readline() for _ in range(count)]
        server.kill()
        said += server.stdout.readlines()
    return [line.split() for line in said if line.endswith("\n")]
