"""HTML that cannot be broken out of: every text is escaped unless it was made here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

VOID = ("meta", "br")  # elements without an end
REPLACEMENT = "\ufffd"


class Html(str):
    """Markup made by `element`; any other string is text."""

    __slots__ = ()


NOTHING = Html("")


def text(value: object) -> str:
    """`value` escaped for HTML; what no reader can see (control characters, changes of direction) is made visible.

    >>> text("<b>\\x1b")
    '&lt;b&gt;\ufffd'
    """
    return escape("".join(c if c.isprintable() or c == "\n" else REPLACEMENT for c in str(value)))


def element(name: str, /, *children: object, **attributes: object) -> Html:
    """One element. `class_` and `data_copy` become class and data-copy; attributes that are None are left out.

    >>> element("p", "1 < 2", element("b", "yes"), class_="soft")
    '<p class="soft">1 &lt; 2<b>yes</b></p>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Html:
    """Several pieces one after the other: markup as it is, everything else as text."""
    return Html("".join(child if isinstance(child, Html) else text(child) for child in children))


def table(
    headers: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    words: Sequence[int] = (0,),
    label: str,
    first: bool = False,
) -> Html:
    """A table that scrolls sideways where it is too wide. `words` are the columns of text; `first` marks the first row."""
    kinds = ["words" if i in words else "number" for i in range(len(headers))]
    head = element("tr", *(element("th", h, scope="col", class_=k) for h, k in zip(headers, kinds, strict=True)))
    body = [
        element(
            "tr",
            *(element("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)),
            class_="best" if first and i == 0 else None,
        )
        for i, row in enumerate(rows)
    ]
    whole = element("table", element("thead", head), element("tbody", *body))
    return element("div", whole, class_="scroll", role="region", aria_label=label, tabindex="0")


def bar(share: float, colour: str) -> Html:
    """A bar inside a table cell, `share` of its width from 0 to 1."""
    width = 100.0 * min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
    filled = element("span", style=f"width:{width:.1f}%;background:{colour}")
    return element("span", filled, class_="bar")


def island(data: object) -> Html:
    """`data` as JSON that cannot end the script element around it; what is not finite becomes null."""
    written = json.dumps(_finite(data), allow_nan=False, separators=(",", ":"))
    return Html(written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
