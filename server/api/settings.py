"""Every bound and choice of the HTTP side of a server, in one frozen class: what is not here is not configurable.

Sizes are bytes, times are seconds, and each bound has an answer of its own (`problems`), so that a client is told which one it
met. The queue's own bounds are the store's. Nothing here reads an environment or a file; the composition root fills it in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from latentgraph.graph import Limits

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server allows. The defaults suit one machine and the people and programs who trust each other with it.

    open_on_loopback: whether anyone who reaches the server may do everything as long as there is no token; the composition
    root sets it for a bind to loopback alone.
    hosts: names that the server is reached by, besides localhost and addresses written as numbers. origins: web pages of
    other origins that may use the API (CORS), such as "https://studio.example"; none by default.
    """

    open_on_loopback: bool = True
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    # A request
    url_bytes: int = 4 * KIB
    header_bytes: int = 16 * KIB
    body_bytes: int = 4 * MIB
    """A request's JSON or YAML, all but its files."""
    body_seconds: float = 30.0
    """How long a body may take to come, at the least; large ones get more by `slowest_body`."""
    slowest_body: int = 16 * KIB
    """Bytes a second below which a body is too slow."""
    parts: int = 32
    """Parts of a multipart body."""

    # Documents
    document: Limits = field(
        default_factory=lambda: Limits(
            bytes=2 * MIB, depth=32, values=200_000, aliases=1_000, nodes=20_000, expanded=500_000
        )
    )
    check_seconds: float = 20.0
    """How long a document may take to be checked."""
    checks_at_once: int = 2
    checks_waiting: int = 200

    # Uploads
    upload_bytes: int = 64 * MIB
    upload_pixels: int = 64_000_000
    owner_upload_bytes: int = 4 * GIB
    """All uploads of one owner together."""
    free_disk_bytes: int = 512 * MIB
    """What uploads leave free on the disk."""

    # Callers
    requests_per_minute: int = 60_000
    """Of each token that has no number of its own, and of all who come without one together; a tenth of it may come at once."""
    wrong_tokens_per_minute: int = 60
    """By address. A right token is never refused for wrong ones."""
    callers_remembered: int = 10_000

    # Connections and streams
    connections: int = 800
    connections_per_address: int = 400
    idle_seconds: float = 60.0
    """How long a connection may take for the head of a request, or do nothing."""
    linger_seconds: float = 1.0
    """How long the rest of a refused body is read, so that its sender sees the answer."""
    streams: int = 400
    """Event streams at once; they are connections, too."""
    streams_per_owner: int = 100
    heartbeat_seconds: float = 15.0
    """How often a stream that has nothing to say says so."""
    write_seconds: float = 20.0
    """How long a reader of a stream or file may take for what was sent before it is cut off."""
    longest_wait_seconds: float = 60.0
    """The longest of long polls; a longer one is answered then."""

    # Jobs
    longest_deadline_seconds: float = 30 * 86_400.0
    most_attempts: int = 10
    page_size: int = 50
    largest_page: int = 200
    workflows: int = 1_000
    """Stored workflows."""
