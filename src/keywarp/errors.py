"""Errors that a user can mend. Each message is one line: what was wanted, what came, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what was asked for: found before any work, nothing was written."""


class InterruptedWorkError(RuntimeError):
    """A failure midway (a full disk, a broken file): what was written before it is valid."""


def unknown(kind: str, got: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not known, with the nearest ones that are."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(got.lower(), by_lower, n=1, cutoff=0.5)
    hint = f"did you mean {by_lower[near[0]]}?" if near else f"known: {', '.join(by_lower.values())}"
    return UserError(f"unknown {kind} {got!r}; {hint}")
