"""How many of which devices: as many as a rate needs or a budget pays for.

A device without a number is tried in units of 1, 2, 4 ... devices. What the best deployment of a unit serves within the
targets tells how many units a rate needs, or what a budget's worth of them serves. The best number of each device is
then searched like any other hardware choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from gemmstone.catalog import device_files, engine_files
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.plan.question import MIXED, Question
from gemmstone.plan.search import Found, search
from gemmstone.predict.economics import Economics
from gemmstone.simulate.scenario import COUNTED, Hardware, load_cluster, load_model

MOST_DEVICES = 1024
UNITS = (1, 2, 4, 8, 16)
UNITS_TRIED = 2  # sizes looked at beyond the smallest that holds the model: larger ones serve more a device at times
SHORT_LIST = 6  # hardware choices that are searched in full
OVER_THE_BUDGET = "over the budget"
SERVERS = ("gpu", "accelerator")  # kinds of device that are looked at when none is named


class Sized(NamedTuple):
    """So many of one device, what they cost an hour, and the requests/s they serve."""

    hardware: str
    usd_per_hour: float | None
    requests_per_s: float


def sized(
    question: Question, economics: Callable[[Device], Economics], budget_usd_per_hour: float | None
) -> tuple[Question, list[str]]:
    """The question with numbers for all devices that have none, and why devices fell out.

    Left as it is without a rate and a budget. Raises BadRequest when nothing is left to search.
    """
    if not question.hardware and budget_usd_per_hour is None:
        raise BadRequest("name hardware with --on, or give a --budget (see 'gemmstone plan --help')")
    if question.rate is None and budget_usd_per_hour is None:
        return question, []
    names = question.hardware or tuple(_priced_devices(question, economics))
    kept, out = [spec for spec in names if COUNTED.match(spec) or MIXED in spec], []
    open_ended = [spec for spec in names if spec not in kept]
    found = []
    for spec in open_ended:
        best = _best_number(question, economics, spec, budget_usd_per_hour)
        if isinstance(best, str):
            out.append(f"{spec}: {best}")
        else:
            found.append(best)
    order = _cheapest if question.rate is not None else _fastest
    found.sort(key=order)
    shown = [entry.hardware for entry in found[:SHORT_LIST]]
    out += [f"{entry.hardware}: {SHORT_LIST} others do better" for entry in found[SHORT_LIST:]]
    if not kept and not shown:
        raise BadRequest(f"no number of devices serves this: {'; '.join(out[:4])}")
    return replace(question, hardware=(*kept, *shown)), out


def within(found: Found, economics: Callable[[Device], Economics], budget_usd_per_hour: float | None) -> Found:
    """What was found without the candidates that cost more than the budget."""
    if budget_usd_per_hour is None:
        return found
    fitting = []
    dear = 0
    example = ""
    for candidate in found.ranked:
        costs = candidate.usd_per_hour(economics)
        if costs is not None and costs <= budget_usd_per_hour * (1.0 + 1e-9):
            fitting.append(candidate)
        else:
            dear += 1
            example = example or f"{candidate.hardware} costs {'?' if costs is None else f'{costs:.2f}'} USD/h"
    if not dear:
        return found
    rejected = {**found.rejected, OVER_THE_BUDGET: (dear, example)}
    nearest = found.nearest if fitting else (found.ranked[0] if found.ranked else found.nearest)
    return replace(found, ranked=tuple(fitting), nearest=None if fitting else nearest, rejected=rejected)


def _cheapest(entry: Sized) -> tuple[float, float]:
    return (math.inf if entry.usd_per_hour is None else entry.usd_per_hour, -entry.requests_per_s)


def _fastest(entry: Sized) -> tuple[float, float]:
    return (-entry.requests_per_s, math.inf if entry.usd_per_hour is None else entry.usd_per_hour)


def _priced_devices(question: Question, economics: Callable[[Device], Economics]) -> Iterator[str]:
    """Devices whose price is known and that one of the engines runs on."""
    engines = [engine_files.find(name) for name in question.engines]
    for slug in device_files.published():
        device = device_files.find(slug)
        runs = any(engine.accepts_weights(form, device.architecture) for engine in engines for form in ("bf16", "fp16"))
        if device.kind in SERVERS and runs and economics(device).usd_per_device_hour is not None:
            yield slug


def _best_number(
    question: Question, economics: Callable[[Device], Economics], spec: str, budget: float | None
) -> Sized | str:
    """The number of one device that serves the rate for least, or most for the budget; or why there is none."""
    device = load_cluster(Hardware(spec, 1, question.edits)).device
    price = economics(device).usd_per_device_hour
    if budget is not None and price is None:
        return "price not known, give --price"
    best: Sized | None = None
    reason = f"does not hold {load_model(question.model).name}"
    fitting = 0
    for unit in UNITS:
        if budget is not None and price and unit * price > budget:
            reason = OVER_THE_BUDGET if unit == UNITS[0] else f"{reason} within the budget"
            break
        if fitting > UNITS_TRIED:
            break
        asked = replace(question, hardware=(f"{unit}x{spec}",), rate=None, serving="aggregated", top=1)
        try:
            found = search(replace(asked, objective="throughput"), economics)
        except BadRequest as error:
            return str(error)
        fitting += bool(found.priced)
        if not found.ranked:
            reason = next(iter(found.rejected), reason) if found.priced else reason
            continue
        served = found.ranked[0].value("requests_per_s")
        units = _units(question.rate, served, budget, price, unit)
        if units is None or units * unit > MOST_DEVICES:
            reason = OVER_THE_BUDGET if units is None else f"more than {MOST_DEVICES} devices"
            continue
        costs = None if price is None else units * unit * price
        entry = Sized(f"{units * unit}x{spec}", costs, units * served)
        order = _cheapest if question.rate is not None else _fastest
        best = entry if best is None or order(entry) < order(best) else best
    return best or reason


def _units(rate: float | None, served: float, budget: float | None, price: float | None, unit: int) -> int | None:
    """How many units a rate needs, or a budget pays for; None when the budget does not pay for what is needed."""
    paid = math.floor(budget / (unit * price)) if budget is not None and price else None
    if rate is None:
        return paid or None
    needed = max(1, math.ceil(rate / served))
    return needed if paid is None or needed <= paid else None
