"""What an autoscaler sees of a fleet when it looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Seen(NamedTuple):
    """A fleet at one moment. Counts of replicas and of requests; queue and outstanding hold those that no replica has.

    arrived: requests since the last look, interval_s ago. busy_frac and kv_frac are means over the replicas that serve:
    the share of the time since the last look in which a step ran, and the share of their blocks that is in use.
    """

    now_s: float
    interval_s: float
    up: int
    starting: int
    queue: int
    outstanding: int
    arrived: int
    busy_frac: float
    kv_frac: float


Policy = Callable[[Seen], int]  # how many replicas there shall be, those that start among them
