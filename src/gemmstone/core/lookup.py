"""Finding a name among known ones, with a suggestion when it is not there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from os.path import commonprefix

from gemmstone.core.errors import BadRequest


def fold(name: str) -> str:
    """The spelling-insensitive form of a name: lower case, runs of other characters than letters, digits and dots as one dash.

    Signs of trademarks, which drivers print, are dropped.

    >>> fold("NVIDIA H100 80GB_HBM3"), fold("Intel(R) Xeon(R) Platinum 8480+")
    ('nvidia-h100-80gb-hbm3', 'intel-xeon-platinum-8480')
    """
    plain = re.sub(r"\((?:r|tm)\)", " ", name.strip().lower())
    return re.sub(r"[^a-z0-9.]+", "-", plain).strip("-")


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Up to `limit` known names that look most like `name`, best first; empty when nothing comes close.

    Names that have all the words asked for come first; of the others that look alike, those that begin alike.

    >>> nearest("h1000", ["p100", "h100-sxm", "gh200"])
    ['h100-sxm', 'p100', 'gh200']
    >>> nearest("A100", ["a10", "a10g", "a100-sxm-40gb", "a100-sxm-80gb", "dgx-a100"])
    ['a100-sxm-40gb', 'a100-sxm-80gb', 'dgx-a100']
    """
    import difflib  # lazy: only a failing look-up pays for it

    known, asked = sorted(known), name.lower()
    words = set(fold(name).split("-"))
    whole = [entry for entry in known if words <= set(fold(entry).split("-"))]
    whole.sort(key=lambda entry: not fold(entry).startswith(fold(name)))
    close = difflib.get_close_matches(asked, known, n=4 * limit, cutoff=0.5)
    close.sort(key=lambda entry: -len(commonprefix([asked, entry.lower()])))  # noqa: RUF071  (characters, not folders)
    return list(dict.fromkeys([*whole, *close]))[:limit]


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
