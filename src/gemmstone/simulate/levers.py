"""Options that stand for techniques: the few that have names of their own beside `--technique NAME:field=value,...`."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gemmstone.core import units
from gemmstone.core.errors import BadRequest
from gemmstone.graph import techniques

SEPARATOR = ";"  # between techniques in a cell of a CSV file
MAX_CAP_W = 1e6  # far above any device: another unit was meant


def chosen(
    texts: Iterable[str] = (),
    *,
    spec_tokens: float | None = None,
    spec_accept: float | None = None,
    draft: str | None = None,
    cpu_offload: str | None = None,
) -> tuple[object, ...]:
    """The settings of all techniques asked for; BadRequest for options that make no sense alone."""
    asked = [text for text in texts if text.strip()]
    if spec_tokens is None and (spec_accept is not None or draft):
        raise BadRequest("spec_accept and draft belong to speculative decoding: give spec_tokens too")
    if spec_tokens is not None:
        settings = [f"tokens={spec_tokens:g}"]
        if spec_accept is not None:
            settings.append(f"accept={spec_accept:g}")
        if draft:
            settings.append(f"draft={draft}")
        asked.append(f"speculative:{','.join(settings)}")
    if cpu_offload:
        asked.append(f"weight-offload:size_bytes={cpu_offload}")
    return tuple(techniques.parse(text) for text in asked)


def capped(watts: str | None) -> tuple[str, ...]:
    """The edit of a device that a power limit is: "500W", or a number of watts; nothing for None."""
    if watts is None:
        return ()
    try:
        value = units.parse(watts, "w")
    except BadRequest:
        raise BadRequest(f"a power cap is written as 500W, not {watts[:40]!r}") from None
    if not 0 < value < math.inf:
        raise BadRequest(f"a power cap must be a positive number of watts, not {watts[:40]!r}")
    if value > MAX_CAP_W:
        raise BadRequest(f"a power cap is of one device and at most {MAX_CAP_W:g} W, not {watts[:40]!r}")
    return (f"power.cap={value:g} W",)
