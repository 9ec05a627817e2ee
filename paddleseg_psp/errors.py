"""The exception for errors of the user, quoting files safely, and suggesting names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can fix: the message says what is wrong, where, and what to do."""


def shown(said: object) -> str:
    """Returns text from a file, or an error that quotes it, as one short line without control characters."""
    text = str(said)
    return text if text.isprintable() and len(text) <= 200 else ascii(text[:200])[1:-1]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns '; did you mean …?' with the nearest of the known names, or the list of them all if none is near."""
    lower = {item.lower(): item for item in known}
    near = [lower[match] for match in difflib.get_close_matches(str(name).lower(), lower, n=3, cutoff=0.6)]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known are {', '.join(sorted(known))}"
