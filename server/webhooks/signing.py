"""Signatures of webhooks, after the Standard Webhooks specification: who gets a call can tell that this server made it now.

Headers: `webhook-id` is the same for every try of one call, so that a receiver knows it again; `webhook-timestamp` is the time
of the try, in seconds since 1970; `webhook-signature` is `v1,` and the base64 of the HMAC-SHA256 over `id.timestamp.body`.
A server has one key, kept in its data folder, and each webhook (its address without `?` and what follows) a secret made from
it: who knows the secret of one can't sign for another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from yarl import URL

from ..errors import ServerError

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
"""The headers of a call."""

PREFIX = "whsec_"
"""What the text of a secret begins with; the base64 of its bytes follows."""

_KEY_FILE = "webhook.key"
_VERSION = "v1,"


class BadSignature(ServerError):
    """A call was not signed with the secret, was changed on its way, or is too old."""


def load_key(folder: Path) -> bytes:
    """Returns the key of a data folder, which is made if there is none. For its owner's eyes alone.

    Two processes that make it at once get the same. Raises ServerError if it can't be kept.
    """
    path = folder / _KEY_FILE
    draft = folder / f"{_KEY_FILE}.{secrets.token_hex(8)}"
    try:
        if not path.exists():
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32) + "\n")
                file.flush()
                os.fsync(descriptor)
            try:
                path.hardlink_to(draft)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        key = bytes.fromhex(path.read_text("ascii"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no key"
        raise ServerError(f"the key of webhooks, {path}, can't be used: {reason}; remove it for a new one") from error
    if len(key) != 32:
        raise ServerError(f"the key of webhooks, {path}, has {len(key)} bytes in place of 32; remove it for a new one")
    return key


def secret_of(key: bytes, url: str) -> bytes:
    """Returns the secret of a webhook."""
    at = URL(url)
    return hmac.digest(key, f"latentgraph webhook {at.origin()}{at.raw_path}".encode(), "sha256")


def secret_text(secret: bytes) -> str:
    """Returns a secret as it is shown to who receives the calls, and as libraries for Standard Webhooks take it."""
    return PREFIX + base64.b64encode(secret).decode()


def sign(secret: bytes, id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Returns the headers of a call."""
    return {ID: id, TIMESTAMP: str(timestamp), SIGNATURE: _VERSION + _digest(secret, id, str(timestamp), body)}


def verify(
    text: str, headers: Mapping[str, str], body: bytes, *, now: float | None = None, tolerance_seconds: float = 300.0
) -> None:
    """Checks a call that was received. text: the secret as it was shown. Raises BadSignature.

    A receiver calls it with the body as it came, and forgets calls whose `webhook-id` it has seen.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
        timestamp = int(given[TIMESTAMP])
        signed = _digest(secret, given[ID], given[TIMESTAMP], body)
        signatures = given[SIGNATURE].split()
    except (KeyError, ValueError, binascii.Error):
        raise BadSignature("a header of the call is missing or can't be read, or the secret is none") from None
    if abs((time.time() if now is None else now) - timestamp) > tolerance_seconds:
        raise BadSignature(f"the call is more than {tolerance_seconds:g} s away from now; it may have been sent again")
    if not any(hmac.compare_digest(one.encode(), (_VERSION + signed).encode()) for one in signatures):
        raise BadSignature("the call was not signed with this secret, or was changed on its way")


def _digest(secret: bytes, id: str, timestamp: str, body: bytes) -> str:
    signed = f"{id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
