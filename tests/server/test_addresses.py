"""What the server calls: the public internet, and what its settings allow; whatever an address looks like."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import pytest

from latentgraph.server.errors import ServerError
from latentgraph.server.webhooks.addresses import (
    AddressRefused,
    AddressRules,
    CheckingResolver,
    ConnectionForbidden,
    forbid,
    socket_maker,
)

PRIVATE = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "fc00::1",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["1.1.1.1", "93.184.216.34", "::ffff:1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:800::200e"]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_not_called(address: str) -> None:
    with pytest.raises(ConnectionForbidden, match="private or reserved"):
        forbid(AddressRules(), address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_called(address: str) -> None:
    forbid(AddressRules(), address)


def test_networks_may_be_allowed_and_no_more() -> None:
    rules = AddressRules.allowing(["10.1.0.0/16", "127.0.0.1", " fd00::/8 "])
    for address in ("10.1.2.3", "127.0.0.1", "::ffff:10.1.2.3", "fd12::1", "1.1.1.1"):
        forbid(rules, address)
    for address in ("10.2.0.1", "127.0.0.2", "fc00::1"):
        with pytest.raises(ConnectionForbidden):
            forbid(rules, address)
    with pytest.raises(ServerError, match=r"'10.1.0.1/16' is no network that could be allowed: .* host bits set"):
        AddressRules.allowing(["10.1.0.1/16"])


@pytest.mark.parametrize("text", ["localhost", "", "nonsense", "127.1", "1.1.1.1 "])
def test_what_is_no_address_is_not_called(text: str) -> None:
    with pytest.raises(ConnectionForbidden):
        forbid(AddressRules(), text)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://[::1]:8080/x",
        "http://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "http://localhost/",
        "http://LOCALHOST.:80/",
        "http://some.localhost",
        "http://0.0.0.0",
    ],
)
def test_an_address_that_is_private_on_its_face_is_refused_at_once(url: str) -> None:
    with pytest.raises(AddressRefused, match="private or reserved"):
        AddressRules().check(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "no address"),
        ("example.com/done", "no address"),
        ("ftp://example.com/", "no address"),
        ("file:///etc/passwd", "no address"),
        ("javascript:alert(1)", "no address"),
        ("http:///done", "no address"),
        ("http://example.com:0/", "no address"),
        ("http://example.com:99999/", "no address"),
        ("http://[::1/", "no address"),
        ("http://me:secret@example.com/", "no name, password"),
        ("http://me@example.com/", "no name, password"),
        ("http://example.com/#x", "fragment"),
    ],
)
def test_what_is_no_webhook_is_refused_without_telling_a_password(url: str, words: str) -> None:
    with pytest.raises(AddressRefused, match=words) as caught:
        AddressRules().check(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://example.com/done?job=1", "http://1.1.1.1:8080", "https://bücher.example/ä b"])
def test_what_may_be_called_is_taken(url: str) -> None:
    assert AddressRules().check(url).raw_host


def finding(*addresses: str) -> Any:
    def getaddrinfo(host: str, port: int, *_: object) -> Sequence[tuple[Any, ...]]:
        return [
            (socket.AF_INET6 if ":" in text else socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port))
            for text in addresses
        ]

    return getaddrinfo


async def test_a_name_stands_for_what_may_be_called_or_for_nothing() -> None:
    good = CheckingResolver(AddressRules(), finding("93.184.216.34", "2606:4700:4700::1111"))
    assert [found["host"] for found in await good.resolve("a.example", 80)] == ["93.184.216.34", "2606:4700:4700::1111"]
    mixed = CheckingResolver(AddressRules(), finding("93.184.216.34", "10.0.0.1"))
    with pytest.raises(ConnectionForbidden) as caught:
        await mixed.resolve("a.example", 80)
    assert "10.0.0.1" not in str(caught.value)
    await good.close()
    await mixed.close()


@pytest.mark.parametrize("name", ["127.1", "0x7f000001", "2130706433", "017700000001"])
async def test_odd_ways_to_write_an_address_are_looked_through(name: str) -> None:
    """As the C library reads them, without asking a name server."""
    resolver = CheckingResolver(AddressRules())
    with pytest.raises(OSError, match="private or reserved"):
        await resolver.resolve(name, 80)
    await resolver.close()


def test_the_last_gate_is_where_a_connection_is_made() -> None:
    make = socket_maker(AddressRules())
    with pytest.raises(ConnectionForbidden):
        make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80)))
    with make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 80))) as made:
        assert not made.getblocking()
