"""How an autoscaler gets to see a fleet: counts between two looks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gemmstone.simulate.engine.state import APPLY, World
from gemmstone.simulate.scaling.seen import Seen


class Watch:
    """Remembers what engines had done at the last look; sizes: engines of each replica."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.busy_s = np.zeros(sum(sizes))
        self.arrived = 0
        self.looked_s = 0.0

    def seen(self, world: World, now_s: float, up: Sequence[bool], starting: int) -> Seen:
        """The fleet now; `up` says which replicas serve."""
        engines, held = world.engines, int(world.clock["held"][0])
        serving = np.repeat(np.asarray(up, dtype=bool), self.sizes)
        under_way = np.isfinite(engines["end"]) & (engines["phase"] == APPLY)
        part_s = np.where(under_way, np.maximum(now_s - engines["now"], 0.0), 0.0)
        busy_s = engines["busy_s"] + part_s
        interval_s = now_s - self.looked_s
        arrived = int(engines["requests"].sum()) + held
        used = 1.0 - _free(world, part_s) / engines["total_blocks"]
        any_up = bool(serving.any())
        found = Seen(
            now_s=now_s,
            interval_s=interval_s,
            up=int(np.count_nonzero(up)),
            starting=starting,
            queue=int(engines["waiting"][serving].sum()) + held,
            outstanding=int(engines["outstanding"][serving].sum()) + held,
            arrived=arrived - self.arrived,
            busy_frac=float((busy_s - self.busy_s)[serving].mean()) / interval_s if any_up and interval_s > 0 else 0.0,
            kv_frac=float(used[serving].mean()) if any_up else 0.0,
        )
        self.busy_s, self.arrived, self.looked_s = busy_s, arrived, now_s
        return found


def _free(world: World, part_s: np.ndarray) -> np.ndarray:
    """Free blocks, less what the stretches under way have taken by now: a block for so many tokens of every sequence."""
    engines = world.engines
    length_s = np.where(np.isfinite(engines["end"]), engines["end"] - engines["now"], np.inf)
    done = engines["steps"] * np.where(length_s > 0, part_s / np.where(length_s > 0, length_s, 1.0), 0.0)
    taken = done * engines["decodes"] * engines["growth"] / engines["block_size"]
    return np.asarray(np.maximum(engines["free"] - taken, 0.0))
