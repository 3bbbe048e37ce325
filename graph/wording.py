"""How messages name things: a name that may have been meant, a list of names, a value as a document would write it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from difflib import get_close_matches


def near_name(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that looks most like `name`, or None; letter case counts little."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = get_close_matches(name.lower()[:200], by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def names(known: Iterable[str], limit: int = 12) -> str:
    """Returns names for a message: sorted, comma-separated, cut after `limit`."""
    all_names = sorted(known)
    shown = ", ".join(all_names[:limit])
    return f"{shown}, and {len(all_names) - limit} more" if len(all_names) > limit else shown or "none"


def shown(value: object, limit: int = 60) -> str:
    """Returns a value as a document would write it, cut to `limit` characters."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
