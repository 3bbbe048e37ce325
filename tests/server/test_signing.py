"""Signatures of webhooks: as the Standard Webhooks specification has them, and for one receiver each."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from latentgraph.server.errors import ServerError
from latentgraph.server.webhooks.signing import BadSignature, load_key, secret_of, secret_text, sign, verify

SECRET = bytes(range(32))
BODY = '{"job":"ä"}'.encode()
NOW = 1_700_000_000


def test_a_signature_is_the_one_of_the_specification() -> None:
    """The example of the specification's reference libraries."""
    import base64

    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_call_that_was_signed_is_known_again() -> None:
    headers = sign(SECRET, "a", NOW, BODY)
    verify(secret_text(SECRET), headers, BODY, now=NOW + 299)
    several = {name.upper(): value for name, value in headers.items()}
    several["WEBHOOK-SIGNATURE"] = f"v1,AAAA v2,x {several['WEBHOOK-SIGNATURE']}"
    verify(secret_text(SECRET), several, BODY, now=NOW - 299)


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-id": "b"},
        {"webhook-timestamp": str(NOW + 1)},
        {"webhook-timestamp": "now"},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,ä"},
    ],
)
def test_a_call_that_was_changed_is_not(changed: dict[str, str]) -> None:
    headers = sign(SECRET, "a", NOW, BODY)
    with pytest.raises(BadSignature):
        verify(secret_text(SECRET), {**headers, **changed}, BODY, now=NOW)


def test_nor_is_one_with_another_body_or_secret_or_time_or_without_headers() -> None:
    headers = sign(SECRET, "a", NOW, BODY)
    for text, given, body, now in (
        (secret_text(SECRET), headers, BODY + b" ", NOW),
        (secret_text(SECRET[::-1]), headers, BODY, NOW),
        (secret_text(SECRET), headers, BODY, NOW + 301),
        (secret_text(SECRET), headers, BODY, NOW - 301),
        (secret_text(SECRET), {}, BODY, NOW),
        ("whsec_ä", headers, BODY, NOW),
    ):
        with pytest.raises(BadSignature):
            verify(text, given, body, now=now)


def test_each_webhook_has_a_secret_of_its_own_whatever_its_query() -> None:
    one = secret_of(SECRET, "https://example.com/done?job=1")
    assert one == secret_of(SECRET, "https://EXAMPLE.com:443/done")
    assert secret_of(SECRET, "https://example.com") == secret_of(SECRET, "https://example.com/?x")
    assert (
        len({one, secret_of(SECRET, "https://example.com/other"), secret_of(SECRET[::-1], "https://example.com/done")})
        == 3
    )


def test_a_data_folder_keeps_its_key_for_its_owner_alone(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    assert load_key(tmp_path) == key
    assert load_key_of_another(tmp_path) != key
    (file,) = [path for path in tmp_path.iterdir() if path.is_file()]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def load_key_of_another(folder: Path) -> bytes:
    (folder / "other").mkdir()
    return load_key(folder / "other")


def test_processes_that_make_a_key_at_once_have_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load_key, [tmp_path] * 32))) == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("text", ["", "no key", "abcd", "ä"])
def test_a_key_that_is_none_is_told_as_such(tmp_path: Path, text: str) -> None:
    (tmp_path / "webhook.key").write_text(text)
    with pytest.raises(ServerError, match="remove it for a new one"):
        load_key(tmp_path)


def test_a_folder_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="can't be used"):
        load_key(tmp_path / "none")
