"""The Pareto front: what nobody beats in both throughput per device and speed per user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gemmstone.plan.candidate import Candidate


class Point(NamedTuple):
    """One candidate at one load."""

    candidate: Candidate
    point: int
    per_device: float
    per_user: float


def front(priced: Sequence[Candidate]) -> list[Point]:
    """Points of all candidates at all loads that no other beats in both axes, fastest user first."""
    if not priced:
        return []
    owner = np.concatenate([np.full(c.answer.steady.loads, i) for i, c in enumerate(priced)])
    load = np.concatenate([np.arange(c.answer.steady.loads) for c in priced])
    per_device = np.concatenate([c.answer.metrics["output_tokens_per_s_per_device"].value for c in priced])
    per_user = np.concatenate([c.answer.metrics["output_tokens_per_s_per_user"].value for c in priced])
    order = np.lexsort((-per_device, -per_user))
    best, points = -1.0, []
    for i in order:
        if per_device[i] > best:
            best = float(per_device[i])
            points.append(Point(priced[int(owner[i])], int(load[i]), best, float(per_user[i])))
    return points
