"""Which meters of power are on this machine, and what they show now."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.measure import conditions, meters
from gemmstone.measure.meters.window import Meter, Window

DEVICE = re.compile(r"cpu|cuda:\d{1,4}", re.ASCII)
LONGEST_S = 24 * 3600.0
MOST_DEVICES = 64
Rows = list[tuple[str, str, Meter | str]]


def devices() -> list[str]:
    """The devices that have power of their own: processors, and GPUs; the first of these to be told why it is not there."""
    found = ["cuda:0"]
    while len(found) < MOST_DEVICES and any(isinstance(meter, Meter) for _, meter in meters.looked(found[-1])):
        found.append(f"cuda:{len(found)}")
    return ["cpu", *(found[:-1] or found)]


def readings(device: str = "", seconds: float = 0.0, *, sleep: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """Every meter of one device or all: whether it is here or why not, and its mean power over `seconds`, in which all are read.

    Nothing runs meanwhile: on a machine left alone that is what it draws idle. Raises BadRequest for times below 0 or beyond a day.
    """
    if device and not DEVICE.fullmatch(device):
        raise BadRequest(f"devices are called cpu and cuda:N, not {device[:40]!r}")
    if not 0 <= seconds <= LONGEST_S:
        raise BadRequest(f"a reading takes 0 s to a day, not {seconds:g} s")
    rows: Rows = [(one, *found) for one in ([device] if device else devices()) for found in meters.looked(one)]
    windows: dict[int, Window] = {}
    with conditions.watching() as watch:
        if seconds:
            with contextlib.ExitStack() as stack:
                for index, (_, _, meter) in enumerate(rows):
                    if isinstance(meter, Meter):
                        windows[index] = stack.enter_context(meter.window())
                sleep(seconds)
    return {
        "what": "power",
        "seconds": seconds,
        "meters": [_row(*row, windows.get(index), seconds) for index, row in enumerate(rows)],
        "disturbed": conditions.disturbed(watch.conditions) if seconds else "",
    }


def _row(device: str, name: str, meter: Meter | str, window: Window | None, seconds: float) -> dict[str, Any]:
    if isinstance(meter, str):
        return {"device": device, "meter": name, "here": False, "why": meter}
    row: dict[str, Any] = {
        "device": device,
        "meter": name,
        "here": True,
        "scope": meter.scope,
        "source": meter.source,
        "update_s": meter.update_s,
        "shortest_s": meter.shortest_s,
        "error_frac": meter.error_frac,
        "note": meter.note,
    }
    if window is None:
        return row
    power = window.power
    return {
        **row,
        "mean_w": None if power is None else power.mean_w,
        "energy_j": None if power is None else power.energy_j,
        "window_s": None if power is None else power.window_s,
        "why": window.why,
        "reading_cost_frac": window.cost_s / seconds,
    }
