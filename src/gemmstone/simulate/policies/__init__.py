"""Scheduling policies: who waits in front of whom. One file each, a row in POLICIES, a branch in `key`.

A policy gives every request a key when it comes to an engine; the smallest goes first, and when memory runs out the running
request with the largest key is put back. A preemptive policy gives all of them new keys every epoch, and those that now
stand in front take the place of those that run.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemmstone.simulate.engine.compiled import compiled
from gemmstone.simulate.engine.state import Engine, World
from gemmstone.simulate.policies.attained import attained_key
from gemmstone.simulate.policies.deadline import deadline_key
from gemmstone.simulate.policies.fair import fair_key
from gemmstone.simulate.policies.fcfs import fcfs_key
from gemmstone.simulate.policies.priority import priority_key
from gemmstone.simulate.policies.rotating import rotating_key
from gemmstone.simulate.policies.shortest import shortest_key

FCFS, PRIORITY, SHORTEST, DEADLINE, FAIR, ATTAINED, ROTATING = range(7)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A row: its code in the kernel, what it does, and whether it takes running requests out."""

    code: int
    says: str
    preemptive: bool = False


POLICIES: dict[str, Policy] = {
    "fcfs": Policy(code=FCFS, says="first come, first served"),
    "priority": Policy(code=PRIORITY, says="smaller priority first, then first come, as vLLM has it"),
    "shortest": Policy(code=SHORTEST, says="shortest answer first, which an oracle knows: a bound on mean latency"),
    "deadline": Policy(code=DEADLINE, says="earliest deadline first, the TTFT target after arrival"),
    "fair": Policy(code=FAIR, says="start-time fair queueing of tokens between clients"),
    "attained": Policy(code=ATTAINED, says="least attained service first, running ones taken out", preemptive=True),
    "rotating": Policy(code=ROTATING, says="random priorities that change every epoch", preemptive=True),
}


@compiled
def key(world: World, engine: Engine, request: int, epoch: int) -> float:
    """The key of a request on an engine, in an epoch of a preemptive policy."""
    policy = engine.policy
    if policy == PRIORITY:
        return priority_key(world, request)
    if policy == SHORTEST:
        return shortest_key(world, request)
    if policy == DEADLINE:
        return deadline_key(world, engine, request)
    if policy == FAIR:
        return fair_key(world, engine, request)
    if policy == ATTAINED:
        return attained_key(world, engine, request)
    if policy == ROTATING:
        return rotating_key(world, engine, request, epoch)
    return fcfs_key(world, request)
