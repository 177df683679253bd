"""What a page draws of an answer: operations under the roofline, the curve over loads, memory against context, places."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from gemmstone.catalog import carbon, device_files
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.graph.memory import MOST_TOKENS, Memory
from gemmstone.predict.economics import JOULES_PER_KWH, SECONDS_PER_HOUR, Energy
from gemmstone.simulate import documents
from gemmstone.simulate.metrics import Answer
from gemmstone.simulate.steady import lengths

CURVES = ("ttft_s", "tpot_s", "output_tokens_per_s", "output_tokens_per_s_per_user", "power_w_per_device")
SWEEP_POINTS = 24
SWEEP_BEYOND = 4.0  # times the chosen load to which a curve goes
LEAST_SWEEP = 16.0
HALVINGS = 40  # of an interval at most as long as the answer: far below a token
CONTEXT_POINTS = 25
CONTEXT_BEYOND = 1.4  # times the context that fits, to which memory is drawn
REQUESTS = (1, 4, 16, 64, 256)
# Countries of one source and year, from clean to dirty, where much computing stands; the world and the asked region beside.
PLACES = ("world", "SWE", "FRA", "CAN", "BRA", "GBR", "USA", "DEU", "JPN", "SGP", "CHN", "IND", "ZAF")
MOST_REGIONS = 3  # of a provider at one price that are named
SAME_PRICE = 1e-6  # relative difference of two prices that are one
QUOTED = re.compile(r"\s*([0-9.]+) USD/h \((.+)\)\s*")  # a price as the conflicts of a device file write it


def detail(found: Answer, load: int = 0, region: str | None = None) -> dict[str, Any]:
    """Everything that is drawn of one load; the curve over loads is made by `curve` from an answer over loads."""
    return {
        "roofline": roofline(found, load),
        "context": context(found, load),
        "places": places(found, load, region),
    }


def roofline(found: Answer, load: int = 0) -> dict[str, Any]:
    """FLOP, bytes and seconds of every operation of a prompt step and a decode step, with the device's peaks.

    Where prompts are computed on other devices their step stands under other peaks, and only the decode step is here.
    """
    device = found.system.cluster.device
    alone = {"prefill"} if len({made.cluster.device.slug for made in found.systems}) > 1 else set()
    ops: list[dict[str, Any]] = [
        {
            "phase": phase,
            "name": leaf.name,
            "flop": _at(leaf.flop, point),
            "bytes": _at(leaf.bytes, point),
            "time_s": _at(leaf.time_s, point),
        }
        for phase, (tree, point) in found.phases(load).items()
        if phase not in alone
        for leaf in tree.leaves()
    ]
    return {
        "peak_flop_per_s": dict(device.peak_flop_per_s),
        "bandwidth_bytes_per_s": device.memory_bandwidth_bytes_per_s,
        "ops": [op for op in ops if op["time_s"] > 0],
    }


def _at(values: Any, point: int) -> float:
    values = np.asarray(values)
    return float(values.flat[point if values.size > 1 else 0])


def sweep(chosen: float) -> Array:
    """Requests in flight around the chosen number, in equal ratios [loads]."""
    grid = np.geomspace(1.0, max(SWEEP_BEYOND * chosen, LEAST_SWEEP), SWEEP_POINTS)
    return np.union1d(np.round(grid), [chosen])


def curve(found: Answer, loads: Array) -> dict[str, Any]:
    """Metrics with their bands at each of `loads` requests in flight."""
    named = {name: found.metrics[name] for name in CURVES if name in found.metrics}
    return {
        "concurrency": [float(value) for value in loads],
        **{name: [float(v) for v in metric.value] for name, metric in named.items()},
        "bands": {
            name: {"low": [float(v) for v in metric.low], "high": [float(v) for v in metric.high]}
            for name, metric in named.items()
        },
    }


def context(found: Answer, load: int = 0) -> dict[str, Any]:
    """Bytes of the fullest device as the context of every running request grows, and the longest that fits for how many."""
    system, work = found.system, found.workload
    memory, size = system.memory, lengths(work, system.deployment.prefix_hit_frac)
    running = max(1.0, float(found.steady.running[load]))
    fits = _longest(memory, running)
    used, positions = size.prompt + size.output, system.model.max_position_embeddings
    end = max(CONTEXT_BEYOND * (positions or used if math.isinf(fits) else fits), 1.1 * used)
    tokens = np.linspace(0.0, end, CONTEXT_POINTS)
    fixed = [(part.name, part.bytes) for part in memory.tree.parts]
    return {
        "requests": running,
        "used_tokens": used,
        "fitting_tokens": _whole(fits),
        "positions": positions,
        "usable_bytes": memory.usable_bytes,
        "device_bytes": system.cluster.device.memory_bytes,
        "fixed": [{"name": name, "bytes": float(value)} for name, value in fixed],
        "tokens": [float(value) for value in tokens],
        "cache_bytes": [float(value) for value in running * _sequence_bytes(memory, tokens)],
        "longest": [
            {"requests": n, "tokens": _whole(_longest(memory, n))} for n in sorted({*map(float, REQUESTS), running})
        ],
    }


def _whole(tokens: float) -> float | None:
    """Whole tokens; None where a context may be as long as it likes."""
    return None if math.isinf(tokens) else float(math.floor(tokens))


def _sequence_bytes(memory: Memory, tokens: Array) -> Array:
    """Bytes of the device that one sequence of so many tokens takes [tokens]."""
    return np.asarray(memory.sequence_bytes(tokens), dtype=float)


def _longest(memory: Memory, requests: float) -> float:
    """Tokens that each of so many sequences may have until the cache is full."""
    low, high = 0.0, 1.0
    while memory.sequences(high) >= requests:
        if high >= MOST_TOKENS:
            return math.inf  # nothing grows with the context
        low, high = high, 2.0 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if memory.sequences(middle) >= requests else (low, middle)
    return low


def places(found: Answer, load: int = 0, region: str | None = None) -> dict[str, Any]:
    """Carbon of a million output tokens by region, and what they cost at each price that is known for the device."""
    known = documents.metrics(found, load)
    devices = found.system.deployment.num_devices if found.pools is None else found.pools.num_devices
    used = found.energy.utilization_frac if found.energy else 1.0
    hours = devices / SECONDS_PER_HOUR / (known["output_tokens_per_s"]["value"] * used) * 1e6
    cost = known.get("usd_per_million_output_tokens")
    counted = None if cost is None else cost["value"] / hours
    kinds = {made.cluster.device.slug for made in found.systems}
    return {
        "regions": _regions(known.get("energy_j_per_output_token"), region, found.energy, load),
        "prices": [
            {**price, "usd_per_million_output_tokens": price["usd_per_hour"] * hours}
            for price in (_prices(found.system.cluster.device, counted) if len(kinds) == 1 else ())
        ],
    }


def _regions(
    joules: dict[str, float] | None, asked: str | None, energy: Energy | None, load: int
) -> list[dict[str, Any]]:
    """Grams of CO2 equivalent for a million tokens of `joules` each, cleanest first; empty without an energy."""
    if joules is None or energy is None:
        return []
    made_g = 0.0 if energy.embodied_g is None else float(energy.embodied_g[load])
    counted = asked or carbon.DEFAULT_REGION
    known = {name: carbon.intensity(name) for name in (*PLACES, counted)}
    if energy.g_co2_per_kwh is not None and energy.g_co2_per_kwh != known[counted][0]:  # a profile of the user's own
        counted = "as given"
        known[counted] = (energy.g_co2_per_kwh, "as given: by hour")
    rows: dict[str, dict[str, Any]] = {}
    for name in (*(name for name in known if name != counted), counted):
        grams, source = known[name]
        place = source.partition(": ")[0]  # "Sweden, 2022"
        rows[place] = {
            "place": place,
            "g_per_kwh": grams,
            "source": source,
            "counted": name == counted,  # it comes last, whatever other name it was listed under
            "gco2_per_million_output_tokens": {
                end: (value / JOULES_PER_KWH * grams + made_g) * 1e6 for end, value in joules.items()
            },
        }
    return sorted(rows.values(), key=lambda row: (row["g_per_kwh"], row["place"]))


def _prices(device: Device, counted: float | None) -> list[dict[str, Any]]:
    """Prices of a device-hour, cheapest first: the one that is counted, and all that the catalogue knows."""
    found = _listed(device.slug)

    def place_of(usd: float) -> int:
        return next((i for i, (known, _, _) in enumerate(found) if math.isclose(known, usd, rel_tol=SAME_PRICE)), -1)

    if device.price is not None and place_of(device.price.usd_per_hour) < 0:
        found.append((device.price.usd_per_hour, device.price.place, device.price.date))
    if counted is not None and place_of(counted) < 0:
        found.append((counted, "as given", ""))
    marked = -1 if counted is None else place_of(counted)
    rows = [
        {"usd_per_hour": usd, "place": place, "date": date, "counted": i == marked}
        for i, (usd, place, date) in enumerate(found)
    ]
    return sorted(rows, key=lambda row: float(str(row["usd_per_hour"])))


def _listed(slug: str) -> list[tuple[float, str, str]]:
    """Prices by provider with their regions and dates; where there are none, those that sources of the device disagree on."""
    try:
        known = device_files.describe(slug)
    except BadRequest:
        return []  # a device of a user's own file has no entry in the catalogue
    regions: dict[tuple[float, str, str], list[str]] = {}
    for row in known.get("prices", ()):
        regions.setdefault((float(row["usd_per_hour"]), row["provider"], row["date"]), []).append(row["region"])
    if regions:
        return [(usd, f"{provider}: {_some(names)}", date) for (usd, provider, date), names in regions.items()]
    matches = (QUOTED.fullmatch(text) for text in known["conflicts"].get("price.per_hour", ()))
    own = {value["value"] for value in known["values"] if value["field"] == "price.per_hour"}
    return [(float(match[1]), match[2], "") for match in matches if match and float(match[1]) not in own]


def _some(names: list[str]) -> str:
    more = len(names) - MOST_REGIONS
    return ", ".join(names[:MOST_REGIONS]) + (f" and {more} more" if more > 0 else "")
