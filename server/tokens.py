"""Tokens: who a caller is and what it may do. A token's text is told once, when it is made, and kept nowhere.

A caller owns the jobs and files that it made, and sees no others; `admin` sees all. `submit` includes looking at what is its
own, since a program that submits wants its result. How a request carries its token is not known here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from .clock import Clock, time_us
from .errors import ServerError
from .jobs.records import StoredToken, Tokens

Scope = Literal["read", "submit", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "lg_"

_TEXT = re.compile(r"lg_[A-Za-z0-9_-]{43}")
_INCLUDED: dict[Scope, frozenset[Scope]] = {
    "read": frozenset(("read",)),
    "submit": frozenset(("read", "submit")),
    "admin": frozenset(SCOPES),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. owner: what its jobs and files are kept under. The bounds are None where the server's own hold."""

    owner: str
    scopes: frozenset[Scope]
    max_waiting: int | None = None
    max_upload_bytes: int | None = None
    requests_per_minute: int | None = None

    @property
    def sees(self) -> str | None:
        """Whose jobs and files the caller sees: its own, or everybody's (None)."""
        return None if "admin" in self.scopes else self.owner

    def may(self, scope: Scope) -> bool:
        """Returns whether the caller may do what needs a scope."""
        return scope in self.scopes

    def may_see(self, owner: str) -> bool:
        """Returns whether the caller may see what an owner has."""
        return self.sees is None or self.sees == owner


ANYBODY = Caller("", frozenset(SCOPES))
"""Whoever reaches a server that has no tokens and that only its own machine reaches."""


def make_token(
    name: str,
    scopes: Collection[Scope],
    *,
    max_waiting: int | None = None,
    max_upload_bytes: int | None = None,
    requests_per_minute: int | None = None,
    clock: Clock = time_us,
) -> tuple[str, StoredToken]:
    """Returns a new token's text, which is to be shown once, and what is to be kept of it."""
    unknown = set(scopes) - set(SCOPES)
    if unknown or not scopes:
        raise ServerError(
            f"a token needs scopes among {', '.join(SCOPES)}; found {', '.join(sorted(unknown)) or 'none'}"
        )
    text = PREFIX + secrets.token_urlsafe(32)
    stored = StoredToken(
        id="t" + secrets.token_hex(8),
        name=name,
        sha256=digest(text),
        scopes=frozenset(scopes),
        created_us=clock(),
        max_waiting=max_waiting,
        max_upload_bytes=max_upload_bytes,
        requests_per_minute=requests_per_minute,
    )
    return text, stored


def digest(text: str) -> str:
    """Returns what is kept of a token's text. It is 256 random bits, so a plain hash can't be turned back."""
    return hashlib.sha256(text.encode()).hexdigest()


class TokenBook:
    """Tells who a token's text stands for."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def find(self, text: str) -> Caller | None:
        """Returns whom a text stands for; None for a token that is unknown, revoked, or none at all."""
        if not _TEXT.fullmatch(text):
            return None
        wanted = digest(text)
        stored = await self._tokens.find(wanted)
        if stored is None or not hmac.compare_digest(stored.sha256, wanted) or stored.revoked_us is not None:
            return None
        scopes = frozenset[Scope]().union(*(_INCLUDED[scope] for scope in SCOPES if scope in stored.scopes))
        return Caller(stored.id, scopes, stored.max_waiting, stored.max_upload_bytes, stored.requests_per_minute)

    async def is_empty(self) -> bool:
        """Returns whether there is no token, not even a revoked one."""
        return not await self._tokens.exist()
