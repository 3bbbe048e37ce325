"""Every exception of the server, one sentence each. How one is answered over HTTP is not known here."""

from __future__ import annotations

from pathlib import Path

from latentgraph.graph import LatentGraphError


class ServerError(LatentGraphError):
    """Something that the server refuses to do, said so that a person can mend it."""


class StoreLocked(ServerError):
    """Another process has the data folder open; `pid` is its number, or None if it could not be read."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        self.folder, self.pid = folder, pid
        who = "another process" if pid is None else f"process {pid}"
        super().__init__(f"{folder} is in use by {who}; end it first, or give this server a data folder of its own")


class SchemaTooNew(ServerError):
    """The job store was written by a newer version, which this one cannot read."""

    def __init__(self, path: Path, found: int, known: int) -> None:
        self.path, self.found, self.known = path, found, known
        super().__init__(
            f"{path} has schema {found}, and this version knows up to {known}; "
            "start the version that wrote it, or give this one another data folder"
        )


class StoreUnusable(ServerError):
    """There is no job store to be had at a path."""

    def __init__(self, path: Path, reason: str, cure: str) -> None:
        self.path = path
        super().__init__(f"{path} cannot be used as a job store: {reason}; {cure}")


class StoreUnavailable(ServerError):
    """A read or write of the job store failed, as on a full disk; the store goes on, and it may be tried again."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the job store cannot be written or read now ({reason}); free some disk space and try again")


class StoreClosed(ServerError):
    """The job store is closed, and takes and tells nothing more."""

    def __init__(self) -> None:
        super().__init__("the job store is closed; the server is shutting down")


class InvalidDraft(ServerError):
    """A job was described in a way that no queue can keep, such as a priority that is no bounded integer."""


class QueueFull(ServerError):
    """The queue holds as many waiting jobs as it may; a place may be free in `retry_after_seconds`."""

    def __init__(self, waiting: int, retry_after_seconds: int) -> None:
        self.waiting, self.retry_after_seconds = waiting, retry_after_seconds
        super().__init__(f"the queue is full with {waiting} waiting jobs; try again in {retry_after_seconds} s")


class QuotaExceeded(ServerError):
    """An owner has as much of something as it may; a place may be free in `retry_after_seconds`."""

    def __init__(self, what: str, limit: int, retry_after_seconds: int) -> None:
        self.what, self.limit, self.retry_after_seconds = what, limit, retry_after_seconds
        super().__init__(f"the quota of {limit} {what} is used up; try again in {retry_after_seconds} s")


class IdempotencyConflict(ServerError):
    """An idempotency key came again with another body; `job` is the id of the job that has it."""

    def __init__(self, key: str, job: str) -> None:
        self.key, self.job = key, job
        super().__init__(
            f"idempotency key {key!r} belongs to job {job}, whose body differs; take a new key for a new job"
        )


class JobIdTaken(ServerError):
    """A client chose an id for its job that another job has."""

    def __init__(self, id: str) -> None:
        self.id = id
        super().__init__(f"there is a job {id} already; leave the id out, or choose another")


class UnknownJob(ServerError):
    """There is no job of that id, or there is none any more."""

    def __init__(self, id: str) -> None:
        self.id = id
        super().__init__(f"there is no job {id!r}; it may be past the time that ended jobs are kept")


class UnknownWorkflow(ServerError):
    """There is no stored workflow of that name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"there is no stored workflow {name!r}")


class IllegalTransition(ServerError):
    """A job was to go from a state to one that does not follow it."""

    def __init__(self, before: str, after: str) -> None:
        self.before, self.after = before, after
        super().__init__(f"a job cannot go from {before} to {after}")


class SlowReader(ServerError):
    """A watcher did not keep up with the events of its job and was cut off; `last` is the number of the last event it got."""

    def __init__(self, last: int) -> None:
        self.last = last
        super().__init__(f"events came faster than they were read; go on from event {last}")


class UnknownFile(ServerError):
    """There is no upload of that content id among the owner's, or a job has no output of that name."""


class DamagedFile(ServerError):
    """A file begins as one type and does not go on as one."""


class ContentRefused(ServerError):
    """An upload is of a type that is not taken."""


class FileTooLarge(ServerError):
    """An upload is larger than a bound: `bound` is "upload" for its bytes or "pixels" for what its header claims."""

    def __init__(self, bound: str, message: str) -> None:
        self.bound = bound
        super().__init__(message)


class StorageFull(ServerError):
    """There is no room for an upload: on the disk, or among what its owner may keep."""


class MalformedMessage(ServerError):
    """A server and its worker do not understand each other: a line on their channel is no message, or is too long."""


class OutputRefused(ServerError):
    """A job left something in its output folder that is not published, such as a link, or named a file that is not there."""


class WorkerGone(ServerError):
    """A worker process has ended; the message says how."""
