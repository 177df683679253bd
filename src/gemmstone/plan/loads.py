"""At which loads a deployment is priced: a few over the whole range first, then every whole number near the one that counts."""

from __future__ import annotations

import numpy as np

from gemmstone.core.deployment import Array, Workload
from gemmstone.simulate.pools import Pools
from gemmstone.simulate.steady import lengths
from gemmstone.simulate.system import System

LOAD_POINTS = 24
FINER_POINTS = 24  # added by one refinement; the price of a deployment hardly depends on how many loads it is asked for
MOST_IN_FLIGHT = 2048.0  # per attention-DP rank


def ranks(made: System | Pools) -> int:
    """How many attention-DP ranks share the load of the whole system, or generate in a disaggregated one."""
    if isinstance(made, Pools):
        return made.decode_workers * made.decode.deployment.attention_dp
    return made.deployment.attention_dp * made.deployment.data_parallel


def most(made: System, workload: Workload) -> float:
    """Requests in flight that one rank can run at once; below 1 when the cache cannot hold a single one."""
    return min(made.slots(lengths(workload, made.deployment.prefix_hit_frac)), MOST_IN_FLIGHT)


def coarse(made: System, workload: Workload) -> Array:
    """Requests in flight of the whole system [loads]: whole numbers a rank, in equal ratios; empty when none fits."""
    room = most(made, workload)
    if room < 1:
        return np.zeros(0)
    per_rank = np.unique(np.floor(np.geomspace(1.0, room, LOAD_POINTS)))
    return np.asarray(per_rank * ranks(made), dtype=float)


def finer(loads: Array, point: int, step: int) -> Array:
    """Loads of the whole system between the neighbours of `point`, in multiples of `step`; empty when none is left out."""
    known = np.round(loads / step)
    low, high = known[max(point - 1, 0)], known[min(point + 1, len(known) - 1)]
    between = np.setdiff1d(np.arange(low + 1.0, high), known)
    if len(between) > FINER_POINTS:
        between = np.setdiff1d(np.round(np.linspace(low, high, FINER_POINTS + 2)), known)
    return np.asarray(between * step, dtype=float)
