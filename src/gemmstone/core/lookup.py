"""Finding a name among known ones, with a suggestion when it is not there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from os.path import commonprefix

from gemmstone.core.errors import BadRequest


def fold(name: str) -> str:
    """The spelling-insensitive form of a name: lower case, runs of other characters than letters, digits and dots as one dash.

    >>> fold("NVIDIA H100 80GB_HBM3")
    'nvidia-h100-80gb-hbm3'
    """
    return re.sub(r"[^a-z0-9.]+", "-", name.strip().lower()).strip("-")


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Up to `limit` known names that look most like `name`, best first; empty when nothing comes close.

    Of names that look alike those that begin alike come first.

    >>> nearest("h1000", ["p100", "h100-sxm", "gh200"])
    ['h100-sxm', 'p100', 'gh200']
    """
    import difflib  # lazy: only a failing look-up pays for it

    asked = name.lower()
    close = difflib.get_close_matches(asked, sorted(known), n=4 * limit, cutoff=0.5)
    return sorted(close, key=lambda known_name: -len(commonprefix([asked, known_name.lower()])))[:limit]


def unknown(kind: str, name: str, known: Iterable[str]) -> BadRequest:
    """The error for a name that is not in a table: says what was asked, what comes close, how many there are."""
    known = sorted(known)
    close = nearest(name, known)
    shown = name if len(name) <= 80 else name[:77] + "..."
    if close:
        hint = "did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    else:
        hint = "known: " + ", ".join(known[:40]) + (" ..." if len(known) > 40 else "")
    return BadRequest(f"unknown {kind} {shown!r}: {hint}")
