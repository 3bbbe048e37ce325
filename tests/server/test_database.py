"""The database: one commit for all that waits, an error for the one that failed, and a writer that survives a bad disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from latentgraph.server.errors import StoreClosed, StoreUnavailable, StoreUnusable
from latentgraph.server.jobs.database import Database, Transaction

from .queue_fakes import PATIENCE_SECONDS, Disk


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
async def database(tmp_path: Path, disk: Disk) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "jobs.sqlite3", hook=disk)
    yield database
    await database.close()


def put(name: str) -> Callable[[Transaction], str]:
    def operation(transaction: Transaction) -> str:
        transaction.execute("INSERT INTO settings VALUES (?, '')", (name,))
        return name

    return operation


async def names(database: Database) -> list[str]:
    rows = await database.read(lambda transaction: transaction.execute("SELECT name FROM settings").fetchall())
    return sorted(name for (name,) in rows)


async def hold(database: Database) -> threading.Event:
    """Keeps the writer busy until the event is set, so that what is asked meanwhile becomes one batch."""
    held, free = threading.Event(), threading.Event()

    def operation(_: Transaction) -> None:
        held.set()
        free.wait(PATIENCE_SECONDS)

    database.write_soon(operation)
    await asyncio.to_thread(held.wait, PATIENCE_SECONDS)
    return free


async def test_what_waits_is_committed_at_once(tmp_path: Path) -> None:
    commits = 0

    def count(_: sqlite3.Connection, sql: str) -> None:
        nonlocal commits
        commits += sql == "COMMIT"

    database = await Database.open(tmp_path / "jobs.sqlite3", hook=count)
    free = await hold(database)
    writes = [database.write(put(f"{n:03}")) for n in range(100)]
    gathered = asyncio.gather(*writes)
    await asyncio.sleep(0)
    free.set()
    assert await gathered == [f"{n:03}" for n in range(100)]
    assert commits == 2
    await database.close()


async def test_a_batch_is_bounded(database: Database, disk: Disk) -> None:
    free = await hold(database)
    gathered = asyncio.gather(*[database.write(put(f"{n:03}")) for n in range(600)])
    await asyncio.sleep(0)
    disk.fail(at=10**6, like="COMMIT")
    free.set()
    await gathered
    assert disk.seen == 4
    assert len(await names(database)) == 600


async def test_an_operation_that_raises_undoes_itself_alone(database: Database) -> None:
    def put_and_raise(transaction: Transaction) -> None:
        put("half")(transaction)
        raise KeyError("half")

    free = await hold(database)
    gathered = asyncio.gather(
        database.write(put("before")),
        database.write(put_and_raise),
        database.write(put("after")),
        return_exceptions=True,
    )
    await asyncio.sleep(0)
    free.set()
    before, raised, after = await gathered
    assert (before, after) == ("before", "after")
    assert isinstance(raised, KeyError)
    assert await names(database) == ["after", "before"]


async def test_what_follows_a_commit_comes_in_order_before_the_caller_goes_on(database: Database) -> None:
    told: list[str] = []

    def operation(name: str) -> Callable[[Transaction], None]:
        def run(transaction: Transaction) -> None:
            transaction.after_commit(lambda: told.append(name))
            if name == "bad":
                raise ValueError

        return run

    async def write(name: str) -> None:
        try:
            await database.write(operation(name))
        except ValueError:
            told.append("refused")
        else:
            assert name in told

    await asyncio.gather(*map(write, ["a", "bad", "b"]))
    assert sorted(told) == ["a", "b", "refused"]
    assert told.index("a") < told.index("b")


async def test_what_fails_after_a_commit_is_no_failure_of_the_commit(database: Database) -> None:
    def operation(transaction: Transaction) -> str:
        transaction.after_commit(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
        return put("kept")(transaction)

    assert await database.write(operation) == "kept"


@pytest.mark.parametrize("gives_up", [False, True])
async def test_a_commit_that_fails_fails_all_of_its_batch_and_the_writer_goes_on(
    database: Database, disk: Disk, gives_up: bool
) -> None:
    free = await hold(database)
    gathered = asyncio.gather(*[database.write(put(name)) for name in "abc"], return_exceptions=True)
    await asyncio.sleep(0)
    disk.fail(at=1, like="COMMIT", gives_up=gives_up)  # the first is of the operation that holds the writer
    free.set()
    results = await gathered
    assert [type(result) for result in results] == [StoreUnavailable] * 3
    assert "database or disk is full" in str(results[0])
    assert await names(database) == []
    assert await database.write(put("again")) == "again"


async def test_a_statement_that_loses_the_transaction_fails_all_of_its_batch(database: Database, disk: Disk) -> None:
    free = await hold(database)
    gathered = asyncio.gather(*[database.write(put(name)) for name in "abc"], return_exceptions=True)
    await asyncio.sleep(0)
    disk.fail(at=1, like="INSERT", gives_up=True)
    free.set()
    assert [type(result) for result in await gathered] == [StoreUnavailable] * 3
    assert await names(database) == []


async def test_a_connection_that_cannot_roll_back_is_opened_anew(database: Database, disk: Disk) -> None:
    disk.fail(at=0, times=2, like=("COMMIT", "ROLLBACK"))
    with pytest.raises(StoreUnavailable, match="database or disk is full"):
        await database.write(put("lost"))
    assert disk.broken == 2
    assert await database.write(put("kept")) == "kept"
    assert await names(database) == ["kept"]


async def test_a_disk_that_is_really_full_is_an_error_and_no_loss(database: Database) -> None:
    """The bound of pages makes SQLite itself say that it is full."""
    await database.write(put("first"))
    await database.write(lambda transaction: transaction.execute("PRAGMA max_page_count = 1").fetchone())
    big = "x" * 10_000_000
    with pytest.raises(StoreUnavailable, match="full"):
        await database.write(put(big))
    assert await names(database) == ["first"]
    await database.write(lambda transaction: transaction.execute("PRAGMA max_page_count = 1000000").fetchone())
    await database.write(put(big))
    assert await names(database) == ["first", big]


async def test_a_caller_that_was_cancelled_disturbs_nobody(database: Database) -> None:
    free = await hold(database)
    gone = asyncio.ensure_future(database.write(put("gone")))
    there = asyncio.ensure_future(database.write(put("there")))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    free.set()
    assert await there == "there"


async def test_closing_finishes_what_was_asked_for_and_takes_no_more(database: Database) -> None:
    free = await hold(database)
    written = asyncio.ensure_future(database.write(put("written")))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(database.close())
    await asyncio.sleep(0)
    with pytest.raises(StoreClosed):
        await database.write(put("late"))
    with pytest.raises(StoreClosed):
        await names(database)
    free.set()
    assert await written == "written"
    await closing
    await database.close()


async def test_a_reader_sees_one_moment_and_writes_nothing(database: Database) -> None:
    await database.write(put("one"))

    def look_twice(transaction: Transaction) -> tuple[int, int]:
        first = transaction.value("SELECT count(*) FROM settings")
        asyncio.run_coroutine_threadsafe(database.write(put("two")), loop).result(PATIENCE_SECONDS)
        return first, transaction.value("SELECT count(*) FROM settings")

    loop = asyncio.get_running_loop()
    assert await database.read(look_twice) == (1, 1)
    assert await names(database) == ["one", "two"]
    with pytest.raises(StoreUnavailable, match="readonly"):
        await database.read(put("three"))


async def test_many_operations_have_the_log_copied_beside_the_writer(database: Database, tmp_path: Path) -> None:
    for _ in range(5):
        await asyncio.gather(*[database.write(lambda _: None) for _ in range(250)])
    await database.write(put("last"))
    await database.close()
    with sqlite3.connect(tmp_path / "jobs.sqlite3") as connection:
        assert connection.execute("SELECT name FROM settings").fetchall() == [("last",)]
    connection.close()


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    path.write_bytes(b"a poem, and no database at all; " * 40)
    with pytest.raises(StoreUnusable, match="file is not a database; put a backup in its place"):
        await Database.open(path)
    assert path.read_bytes().startswith(b"a poem")


async def test_another_programs_database_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match="another program's"):
        await Database.open(path)
    assert path.read_bytes() == before


async def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="unable to open database file; see that its folder can be written"):
        await Database.open(tmp_path / "nowhere" / "jobs.sqlite3")


async def test_another_process_may_write_beside_it(database: Database, tmp_path: Path) -> None:
    """A command makes tokens while the server runs."""
    beside = await Database.open(tmp_path / "jobs.sqlite3")
    await asyncio.gather(*[one.write(put(f"{n}{one is beside}")) for n in range(10) for one in (database, beside)])
    assert len(await names(database)) == 20
    await beside.close()
