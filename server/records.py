"""What the store keeps beside jobs: workflows, tokens, uploads and webhooks, each with its small table.

Every write is durable when it returns. Whether a workflow is valid, a token may do something, or a webhook was answered is
not known here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredWorkflow:
    """A document under a name. media_type: how the text is written. sha256: of the text, as its ETag."""

    name: str
    document: str
    media_type: str
    sha256: str
    updated_us: int


@dataclass(frozen=True, slots=True)
class StoredToken:
    """Who may do what. id: the owner of its jobs and files. sha256: of the token's text, which is kept nowhere.

    max_waiting, max_upload_bytes, requests_per_minute: its quotas; None takes the server's.
    """

    id: str
    name: str
    sha256: str
    scopes: frozenset[str]
    created_us: int
    revoked_us: int | None = None
    max_waiting: int | None = None
    max_upload_bytes: int | None = None
    requests_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """A file by content that an owner has sent."""

    owner: str
    sha256: str
    size: int
    media_type: str
    created_us: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What an owner's uploads take."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook call that is owed. tries: those that began, this one included."""

    id: int
    job: str
    url: str
    body: str
    tries: int
    created_us: int


class Workflows:
    """The stored workflows, by name."""

    async def put(self, name: str, document: str, media_type: str) -> tuple[StoredWorkflow, bool]:
        """Stores a document under a name, in place of the one it had; returns it, and whether the name is new."""
        raise NotImplementedError

    async def get(self, name: str) -> StoredWorkflow:
        """Returns a workflow. Raises UnknownWorkflow."""
        raise NotImplementedError

    async def list(self, after: str = "", limit: int = 100) -> tuple[StoredWorkflow, ...]:
        """Returns workflows in the order of their names, from the one that follows `after`."""
        raise NotImplementedError

    async def delete(self, name: str) -> None:
        """Removes a workflow. Raises UnknownWorkflow."""
        raise NotImplementedError


class Tokens:
    """The tokens, by the digest of their text. Revoked ones stay, for the jobs that they own."""

    async def put(self, token: StoredToken) -> None:
        """Keeps a token, in place of the one that had its id."""
        raise NotImplementedError

    async def find(self, sha256: str) -> StoredToken | None:
        """Returns the token with the digest, revoked or not; None if there is none."""
        raise NotImplementedError

    async def list(self) -> tuple[StoredToken, ...]:
        """Returns all tokens, the oldest first."""
        raise NotImplementedError

    async def revoke(self, id: str) -> bool:
        """Revokes a token from now on; returns whether there is one of that id. It may be repeated."""
        raise NotImplementedError


class Uploads:
    """Which owner has sent which content."""

    async def put(
        self, owner: str, sha256: str, size: int, media_type: str, *, max_bytes: int | None = None
    ) -> StoredUpload:
        """Notes that an owner has a file; it may be repeated. Raises QuotaExceeded if all would take more than `max_bytes`."""
        raise NotImplementedError

    async def get(self, owner: str | None, sha256: str) -> StoredUpload | None:
        """Returns an owner's file, anybody's if `owner` is None; None if it has not sent it."""
        raise NotImplementedError

    async def usage(self, owner: str) -> Usage:
        """Returns what the owner's files take."""
        raise NotImplementedError

    async def remove(self, owner: str, sha256: str) -> bool:
        """Forgets an owner's file; returns whether nobody has it any more, so that its bytes can go."""
        raise NotImplementedError


class Webhooks:
    """The webhook calls that are owed: claimed by one sender for a time, and settled or tried again."""

    async def enqueue(self, job: str, url: str, body: str) -> int:
        """Owes a call; returns its number."""
        raise NotImplementedError

    async def claim(self, lease_seconds: float) -> Delivery | None:
        """Returns the call that is due longest, and keeps it from other claims until the lease ends; None if none is due."""
        raise NotImplementedError

    async def settle(self, id: int) -> None:
        """A call was answered, or is given up: it is owed no more."""
        raise NotImplementedError

    async def postpone(self, id: int, seconds: float) -> None:
        """A call failed: it is due again in some time."""
        raise NotImplementedError
