"""Which addresses the server itself calls: those of the public internet, and those of networks that its settings allow.

Whoever may name an address to call could otherwise reach what only this machine reaches: its own ports, its neighbours, the
metadata service of a cloud. What counts is the address that a connection is made to, whatever name stood for it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aiohttp import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ..errors import InvalidDraft, ServerError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
GetAddrInfo = Callable[..., Sequence[tuple[Any, ...]]]

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NOT_PUBLIC: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.88.99.0/24",  # 6to4 relays, RFC 7526
            "2001::/23",  # Teredo and other protocols; Teredo stands for addresses of version 4
            "2002::/16",  # 6to4, the same
            "3fff::/20",  # documentation, RFC 9637
        ),
    )
)


class AddressRefused(InvalidDraft):
    """An address is none that the server calls; the message names nothing that a name stands for."""


class ConnectionForbidden(OSError):
    """A connection would go where the server does not call."""


@dataclass(frozen=True, slots=True)
class AddressRules:
    """What may be called. allowed: networks besides the public ones."""

    allowed: tuple[Network, ...] = ()

    @classmethod
    def allowing(cls, networks: Iterable[str]) -> AddressRules:
        """Returns the rules that allow some networks, such as "10.1.0.0/16", or single addresses. Raises ServerError."""
        return cls(tuple(map(_network, networks)))

    def permit(self, address: Address) -> bool:
        """Returns whether an address may be called."""
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.allowed) or _is_public(address)

    def check(self, url: str) -> URL:
        """Returns an address to call, as far as it can be judged without looking names up. Raises AddressRefused."""
        try:
            parsed = URL(url)
            host, port = parsed.raw_host, parsed.port
        except ValueError as error:
            raise AddressRefused(f"the webhook is no address: {error}") from None
        if parsed.scheme not in ("http", "https") or not host or not port:
            raise AddressRefused("the webhook is no address; expected such as https://example.com/done")
        if parsed.user is not None or parsed.password is not None or parsed.fragment:
            raise AddressRefused("the address of a webhook holds no name, password or fragment; deliveries are signed")
        literal = _literal(host)
        if host.rstrip(".").lower() == "localhost" or host.lower().rstrip(".").endswith(".localhost"):
            literal = ipaddress.ip_address("127.0.0.1")
        if literal is not None and not self.permit(literal):
            raise AddressRefused(f"the webhook's host {host!r} is private or reserved, and not called")
        return parsed


class CheckingResolver(AbstractResolver):
    """Looks names up in threads of its own, and finds none of which any address may not be called."""

    def __init__(self, rules: AddressRules, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        self._rules, self._getaddrinfo = rules, getaddrinfo
        self._pool = ThreadPoolExecutor(4, "webhook-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Returns the addresses of a name. Raises OSError, ConnectionForbidden among it."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._pool, lambda: self._getaddrinfo(host, port, family, socket.SOCK_STREAM)
        )
        for *_, at in found:
            forbid(self._rules, at[0])
        return [
            ResolveResult(hostname=host, host=at[0], port=port, family=kind, proto=proto, flags=socket.AI_NUMERICHOST)
            for kind, _, proto, _, at in found
        ]

    async def close(self) -> None:
        """Begins no more look-ups; one that hangs ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def socket_maker(rules: AddressRules) -> Callable[[AddrInfoType], socket.socket]:
    """Returns what makes the socket of each connection: the last gate, and the one that no name gets around."""

    def make(info: AddrInfoType) -> socket.socket:
        family, kind, proto, _, at = info
        forbid(rules, str(at[0]))
        made = socket.socket(family, kind, proto)
        made.setblocking(False)
        return made

    return make


def forbid(rules: AddressRules, text: str) -> None:
    """Raises ConnectionForbidden for an address that may not be called, and for what is none."""
    address = _literal(text)
    if address is None or not rules.permit(address):
        raise ConnectionForbidden("the name stands for an address that is private or reserved")


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise ServerError(
            f"{text!r} is no network that could be allowed: {error}; expected such as 10.1.0.0/16"
        ) from None


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False  # NAT64, unique local, link-local, loopback and whatever is not given out yet
    special = address.is_multicast or address.is_reserved or any(address in network for network in _NOT_PUBLIC)
    return address.is_global and not special
