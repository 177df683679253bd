"""Random priorities that change every epoch: the pattern by which FastSwitch (arXiv:2411.18424) stresses context switches."""

from __future__ import annotations

import numpy as np

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import Engine, World


@compiled
def scrambled(value: int) -> float:
    """A number in [0, 1) that depends on all bits of another (splitmix64; Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    return float(mixed >> np.uint64(11)) / 9007199254740992.0


@compiled
def rotating_key(world: World, engine: Engine, request: int, epoch: int) -> float:
    """The same for all requests of a client within an epoch."""
    return scrambled(world.book[request].client * 1000003 + epoch * 7919 + engine.seed)
