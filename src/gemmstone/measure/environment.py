"""The environment of a run: what its times depend on, so that runs can be compared and shared.

Runs are shared, so nothing in it says whose machine it was: no host or user name, no path, no variable, no serial number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gemmstone.measure import machine, proc
from gemmstone.measure.clock import effective_hz
from gemmstone.measure.software import software

# What is told of an environment without times having to differ with it: another patch of the system, what the machine was doing
NOTED = (
    "hardware.memory_bytes",
    "software.os",
    "software.kernel",
    "software.python",
    "software.libc",
    "software.loaded",  # known only where PyTorch was loaded before; its version says the same
    "limits.memory_bytes",
    "limits.open_files",
    "limits.locked_bytes",
    "limits.address_bytes",
    "state.hugepages",
    "state.swappiness",
    "state.clock_hz",
    "state.effective_clock_hz",
    "state.load_average",
    "state.container",
)
CLOCK = "state.effective_clock_hz"
CLOCK_FRAC = 0.05  # an effective clock that differs by more is another machine, whatever else agrees
MOST_FACTS = 2000
MOST_DEPTH = 8
MOST_CHARS = 80  # shown of a value
NOT_THERE = "none"


def environment(
    backends: Iterable[str] = (),
    *,
    root: Path = proc.ROOT,
    clock: Callable[[], float | None] = effective_hz,
) -> dict[str, Any]:
    """Hardware, software, limits and state of this machine, as plain data; None stands for what it does not tell.

    `backends` are names of measure.backends whose versions belong to it. `clock` measures the clock that code gets.
    """
    hertz = clock()
    return {
        "hardware": machine.hardware(root),
        "software": software(backends),
        "limits": machine.limits(root),
        "state": {**machine.state(root), "effective_clock_hz": None if hertz is None else round(hertz, -6)},
    }


def fingerprint(environment: Mapping[str, Any]) -> str:
    """SHA-256 of all in an environment that times depend on: the same for runs that may be compared without a word."""
    facts = sorted((name, text) for name, text in _facts(environment).items() if matters(name))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def matters(name: str) -> bool:
    """Whether times depend on a fact of an environment, called as in "software.torch"."""
    return not any(name == noted or name.startswith(f"{noted}.") for noted in NOTED)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What times depend on and two environments differ in, a line each: "software.torch: 2.12.0 and 2.13.0"."""
    return [*_lines(one, other, True), *_clocks(one, other)]


def noted(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What else two environments differ in: told, and no reason not to compare."""
    told = _clocks(one, other)
    return [line for line in _lines(one, other, False) if not (told and line.startswith(CLOCK))]


def _clocks(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """A line where the clocks that code got are too far apart."""
    clocks = [_number(found, *CLOCK.split(".")) for found in (one, other)]
    low, high = (min(clock or 0.0 for clock in clocks), max(clock or 0.0 for clock in clocks))
    if low <= 0 or 1 - low / high <= CLOCK_FRAC:
        return []
    return [f"{CLOCK}: {' and '.join(f'{(clock or 0.0) / 1e9:.2f} GHz' for clock in clocks)}"]


def _lines(one: Mapping[str, Any], other: Mapping[str, Any], wanted: bool) -> list[str]:
    ones, others = _facts(one), _facts(other)
    return [
        f"{name}: {_shown(ones.get(name))} and {_shown(others.get(name))}"
        for name in sorted({*ones, *others})
        if matters(name) == wanted and ones.get(name, NOT_THERE) != others.get(name, NOT_THERE)
    ]


def _shown(text: str | None) -> str:
    text = NOT_THERE if text is None else text
    return text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]}..."


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    """Leaves of an environment by their names, as text; a stored one is bounded like all input."""
    facts: dict[str, str] = {}

    def walk(name: str, value: Any, depth: int) -> None:
        if len(facts) >= MOST_FACTS or depth > MOST_DEPTH:
            return
        if isinstance(value, Mapping):
            for key, part in list(value.items())[:MOST_FACTS]:
                walk(f"{name}.{key}" if name else str(key)[:MOST_CHARS], part, depth + 1)
        elif isinstance(value, (list, tuple)) and any(isinstance(part, Mapping) for part in value):
            for index, part in enumerate(value[:MOST_FACTS]):
                walk(f"{name}.{index}", part, depth + 1)
        elif value is not None and value not in ("", [], ()):
            facts[name] = " ".join(map(_text, value)) if isinstance(value, (list, tuple)) else _text(value)

    walk("", found, 0)
    return facts


def _text(value: Any) -> str:
    """The same for 8 and 8.0: JSON and Parquet do not keep them apart."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return str(value)


def _number(found: Mapping[str, Any], group: str, name: str) -> float | None:
    part = found.get(group)
    value = part.get(name) if isinstance(part, Mapping) else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
