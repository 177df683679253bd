"""The autoscalers by name, and what is asked of them as text: NAME or NAME:SETTING=VALUE,..."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol

from gemmstone.core import units
from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import unknown
from gemmstone.simulate.scaling.predictive import Predictive
from gemmstone.simulate.scaling.schedule import Schedule
from gemmstone.simulate.scaling.seen import Policy
from gemmstone.simulate.scaling.target import Target

MOST_REPLICAS = 4096
SHORTEST_S, LONGEST_S = 0.1, 1e9  # of an interval; of any time
TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)


class Autoscaler(Protocol):
    """Settings of a policy: looks at the fleet every so often."""

    @property
    def interval_s(self) -> float:
        """Seconds between two looks."""

    def policy(self, startup_s: float) -> Policy:
        """A policy at its beginning, for replicas that take so long to start."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What an autoscaler does, the type of its settings, and how they are read."""

    says: str
    kind: type[Any]
    read: Callable[[str, Mapping[str, str]], Autoscaler]


def read(text: str) -> Autoscaler:
    """The autoscaler that a text asks for; raises BadRequest for anything else."""
    name, colon, rest = text.partition(":")
    if name not in AUTOSCALERS:
        raise unknown("autoscaler", name[:80], AUTOSCALERS)
    given: dict[str, str] = {}
    for part in rest.split(",") if colon else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not value or key in given:
            raise BadRequest(f"--autoscale {name}: settings are written SETTING=VALUE, each once, not {part[:40]!r}")
        given[key] = value
    made = AUTOSCALERS[name].read(name, given)
    if not SHORTEST_S <= made.interval_s <= LONGEST_S:
        raise BadRequest(f"--autoscale {name}: interval={made.interval_s:g} s must be at least {SHORTEST_S:g} s")
    return made


def _plain(kind: type[Any]) -> Callable[[str, Mapping[str, str]], Autoscaler]:
    """Reads settings into the fields of a dataclass; those that end in _s are durations and are named without it."""
    known = {field.name.removesuffix("_s"): field for field in fields(kind)}

    def read_settings(name: str, given: Mapping[str, str]) -> Autoscaler:
        for key in given:
            if key not in known:
                raise unknown(f"setting of the autoscaler {name}", key[:80], known)
        for key, field in known.items():
            if field.default is MISSING and key not in given:
                raise BadRequest(f"the autoscaler {name} needs its {key}: --autoscale {name}:{key}=...")
        made: Autoscaler = kind(**{known[key].name: _value(known[key], key, text) for key, text in given.items()})
        return made

    return read_settings


def _value(field: Any, key: str, text: str) -> float | str:
    if field.type == "str":
        return text
    value = units.parse(text, "s" if field.name.endswith("_s") else "count")
    if not 0.0 <= value <= LONGEST_S:
        raise BadRequest(f"{key}={text} of the autoscaler must lie between 0 and {LONGEST_S:g}")
    return value


def _schedule(name: str, given: Mapping[str, str]) -> Schedule:
    steps, interval_s = [], Schedule.interval_s
    for key, value in given.items():
        time = TIME.fullmatch(key)
        if key == "interval":
            interval_s = units.parse(value, "s")
        elif time is None or not value.isdecimal() or not 0 <= int(value[:9]) <= MOST_REPLICAS:
            raise BadRequest(f"{key[:20]}={value[:20]} is no HH:MM=REPLICAS: --autoscale {name}:00:00=2,08:00=10")
        else:
            steps.append((3600.0 * int(time[1]) + 60.0 * int(time[2]), int(value)))
    return Schedule(steps=tuple(sorted(steps)), interval_s=interval_s)


AUTOSCALERS: dict[str, Row] = {
    "target": Row(
        says="a metric per replica is held at its target, as Kubernetes does", kind=Target, read=_plain(Target)
    ),
    "schedule": Row(says="so many replicas from a time of the day on", kind=Schedule, read=_schedule),
    "predictive": Row(
        says="the trend of the rate is followed ahead by the start-up time", kind=Predictive, read=_plain(Predictive)
    ),
}
