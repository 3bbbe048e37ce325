"""Whether a server takes jobs: it does until it begins to shut down. Set once, by whoever ends it."""

from __future__ import annotations


class Intake:
    """Open until it is stopped."""

    def __init__(self) -> None:
        self.stopped = False

    def stop(self) -> None:
        """Has every submit refused from now on, with 503 and Retry-After."""
        self.stopped = True
