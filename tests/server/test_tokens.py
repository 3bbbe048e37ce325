"""Tokens: told once, kept as digests, and worth what their scopes say."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentgraph.server.errors import ServerError
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.tokens import ANYBODY, TokenBook, digest, make_token


def test_no_two_tokens_are_alike_and_none_is_kept() -> None:
    texts = {make_token("x", ["read"])[0] for _ in range(100)}
    assert len(texts) == 100
    text, stored = make_token("x", ["submit", "read"], max_waiting=3, clock=lambda: 7)
    assert (len(text), text[:3]) == (46, "lg_")
    assert text not in repr(stored)
    assert (stored.sha256, stored.created_us, stored.max_waiting) == (digest(text), 7, 3)
    assert stored.scopes == {"submit", "read"}


@pytest.mark.parametrize("scopes", [[], ["root"], ["read", "write"]])
def test_a_token_without_a_scope_that_exists_is_not_made(scopes: list[str]) -> None:
    with pytest.raises(ServerError, match="a token needs scopes among read, submit, admin"):
        make_token("x", scopes)  # type: ignore[arg-type]


async def test_a_text_stands_for_its_caller_until_it_is_revoked(tmp_path: Path) -> None:
    store = await JobStore.open(tmp_path / "data")
    book = TokenBook(store.tokens)
    assert await book.is_empty()
    made = {scope: make_token(scope, [scope]) for scope in ("read", "submit", "admin")}  # type: ignore[list-item]
    for _, stored in made.values():
        await store.tokens.put(stored)
    assert not await book.is_empty()
    worth = {"read": {"read"}, "submit": {"read", "submit"}, "admin": {"read", "submit", "admin"}}
    for scope, (text, stored) in made.items():
        caller = await book.find(text)
        assert caller is not None
        assert (caller.owner, caller.scopes) == (stored.id, worth[scope])
        assert caller.sees == (None if scope == "admin" else stored.id)
    text, stored = made["admin"]
    for wrong in ("", text[:-1], text + "x", text.swapcase(), "lg_" + "a" * 43, stored.sha256, stored.id):
        assert await book.find(wrong) is None
    await store.tokens.revoke(stored.id)
    assert await book.find(text) is None
    for _, other in made.values():
        await store.tokens.revoke(other.id)
    assert not await book.is_empty(), "a server that had tokens does not open when they are revoked"
    await store.close()


def test_anybody_may_do_everything_where_there_are_no_tokens() -> None:
    assert ANYBODY.may("admin")
    assert ANYBODY.may_see("someone")
