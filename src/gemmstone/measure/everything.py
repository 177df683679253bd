"""`measure all`: kernels, links and the ladder one after the other, within one budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gemmstone.core.errors import BadRequest, NoAnswer

Part = Callable[[float], dict[str, Any]]  # measures for so many seconds, and tells
KERNELS_FRAC, LINKS_FRAC = 0.7, 0.6  # of the budget, and of what the kernels leave; the ladder has the rest
LEAST_BUDGET_S, MOST_BUDGET_S = 20.0, 86400.0
LEAST_S = {"kernels": 5.0, "links": 5.0, "ladder": 1.0}  # what each part takes at least


def everything(
    parts: dict[str, Part],
    *,
    budget_s: float,
    spent_s: float = 0.0,
    say: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """A document of each part, None of one that there was no time for or that came after an interruption.

    `spent_s` of the budget are gone already. `say` hears what is left out.
    """
    if not LEAST_BUDGET_S <= budget_s <= MOST_BUDGET_S:
        raise BadRequest(
            f"--budget is between {LEAST_BUDGET_S:g}s and {MOST_BUDGET_S / 3600:g}h: it is shared by {', '.join(parts)}"
        )
    began = clock() - spent_s
    found: dict[str, Any] = {**dict.fromkeys(parts), "interrupted": False}
    for name, measure in parts.items():
        left_s = budget_s - (clock() - began)
        # kernels count from the start of the process, as they do alone
        share_s = {"kernels": KERNELS_FRAC * budget_s, "links": LINKS_FRAC * left_s}.get(name, left_s)
        if share_s < LEAST_S[name]:
            say(f"{name}: left out for want of time: gemmstone measure {name}, or a longer --budget")
            continue
        try:
            found[name] = measure(share_s)
        except NoAnswer as error:  # the other parts may have one
            say(f"{name}: {error}")
            continue
        if found[name].get("interrupted"):
            found["interrupted"] = True
            break
    if not any(found[name] for name in parts):
        raise NoAnswer("nothing could be measured in that time: give a longer --budget")
    return {"what": "all", **found, "budget_s": budget_s, "elapsed_s": clock() - began}
