"""Webhook calls that are owed: claimed once, whose turn it is, and when they are owed no more."""

from __future__ import annotations

from dataclasses import replace

from latentgraph.server.jobs.deliveries import Delivery, Places
from latentgraph.server.jobs.retention import RetentionPolicy, sweep
from latentgraph.server.jobs.store import JobStore

from .queue_fakes import OUTCOME, HandClock, claimed, submitted


async def test_a_call_that_is_owed_is_claimed_once_until_its_lease_ends(store: JobStore, clock: HandClock) -> None:
    number = await store.webhooks.enqueue("job", "https://example.org/hook", "{}")
    first = await store.webhooks.claim(30)
    assert first is not None
    assert (first.id, first.url, first.body, first.tries) == (number, "https://example.org/hook", "{}", 1)
    assert await store.webhooks.claim(30) is None
    clock.pass_seconds(30)
    second = await store.webhooks.claim(30)
    assert second == replace(first, tries=2)
    await store.webhooks.postpone(number, 100)
    clock.pass_seconds(99)
    assert await store.webhooks.claim(30) is None
    clock.pass_seconds(1)
    assert await store.webhooks.claim(30) == replace(first, tries=3)
    await store.webhooks.settle(number)
    clock.pass_seconds(1000)
    assert await store.webhooks.claim(30) is None


async def test_a_job_with_a_webhook_owes_a_call_from_its_end_on(store: JobStore) -> None:
    job = await submitted(store, webhook="https://example.org/hook")
    await submitted(store)
    for _ in range(2):
        await claimed(store)
    assert await store.webhooks.claim(30) is None
    await store.succeed(job.id, 1, OUTCOME)
    call = await store.webhooks.claim(30)
    assert call is not None
    assert (call.job, call.url) == (job.id, "https://example.org/hook")
    assert call.body == f'{{"job":"{job.id}","state":"succeeded","ended_us":{store.clock()}}}'
    assert await store.webhooks.claim(30) is None


async def claim_all(store: JobStore, places: Places) -> list[Delivery]:
    """Claims what may be made together."""
    under_way: list[Delivery] = []
    while (delivery := await store.webhooks.claim(30, under_way=under_way, places=places)) is not None:
        under_way.append(delivery)
    return under_way


async def test_no_owner_waits_for_the_receivers_of_another(store: JobStore) -> None:
    for number in range(5):
        await store.webhooks.enqueue(f"a{number}", f"https://{number}.dead.example/hook", "{}", owner="ann")
    for number in range(2):
        await store.webhooks.enqueue(f"b{number}", "https://b.example/hook", "{}", owner="ben")
    under_way = await claim_all(store, Places(of_owner=4))
    assert [delivery.job for delivery in under_way] == ["a0", "b0", "a1", "b1", "a2", "a3"]


async def test_a_receiver_that_does_not_answer_leaves_places_to_others(store: JobStore) -> None:
    for number in range(4):
        await store.webhooks.enqueue(f"d{number}", "https://me@Dead.example:99/hook", "{}")
    await store.webhooks.enqueue("c0", "https://c.example/hook", "{}")
    under_way = await claim_all(store, Places(of_receiver=2))
    assert [(delivery.job, delivery.host) for delivery in under_way] == [
        ("d0", "dead.example:99"),
        ("d1", "dead.example:99"),
        ("c0", "c.example"),
    ]


async def test_a_call_is_owed_by_the_owner_of_its_job(store: JobStore) -> None:
    job = await submitted(store, webhook="https://example.org/hook", owner="ann")
    await store.cancel(job.id)
    call = await store.webhooks.claim(30)
    assert call is not None
    assert (call.owner, call.host) == ("ann", "example.org")


async def test_calls_that_are_owed_for_too_long_or_are_too_many_are_given_up(store: JobStore, clock: HandClock) -> None:
    for number in range(5):
        await store.webhooks.enqueue(str(number), "https://example.org/hook", "{}")
        clock.pass_seconds(10)
    await sweep(store, RetentionPolicy(max_call_seconds=45, max_calls=None))
    assert [delivery.job for delivery in await claim_all(store, Places())] == ["1", "2", "3", "4"]
    await sweep(store, RetentionPolicy(max_call_seconds=None, max_calls=2))
    clock.pass_seconds(30)
    assert [delivery.job for delivery in await claim_all(store, Places())] == ["3", "4"]
