"""Totals of a simulation from what its engines counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.simulate.engine.state import (
    BLOCKS,
    BUSY,
    COMING,
    INTERVALS,
    OUTPUT,
    POWER,
    PROMPTS,
    QUEUE,
    RUNNING,
    World,
)
from gemmstone.simulate.fleet import Fleet
from gemmstone.simulate.outcome.totals import PerReplica, Series, Steps, Totals
from gemmstone.simulate.replica import Replica

GROWING = 1.5  # the queue of the last quarter over that of the one before, where it grows for ever: 7/5
OVERLOADED_FRAC = 0.05  # of all requests wait when the last one has come


def totals(world: World, replicas: Sequence[Replica], submitted: int, fleet: Fleet, *, partial: bool) -> Totals:
    """Sums over engines; energy includes what they draw between kernels and when they wait."""
    engines = world.engines
    ends = np.where(np.isfinite(engines["end"]), engines["end"], engines["now"])
    busy = (engines["requests"] > 0) | (engines["busy_s"] > 0.0)
    duration_s = float(ends[busy].max()) if busy.any() else 0.0
    whole = np.array([0.0, duration_s])
    up_s, paid_s = fleet.up_s(whole)[:, 0], fleet.paid_s(whole)[:, 0]
    joules = engines["joules"] * [one.devices for one in replicas] + beside_j(replicas, paid_s, engines["busy_s"])
    found = series(world, replicas, fleet, duration_s)
    last = engines["takes_over"] > 0 if engines["takes_over"].any() else np.ones(len(engines), dtype=bool)
    handed = int(engines["requests"][last].sum()) if not last.all() else 0
    return Totals(
        submitted=submitted,
        completed=int(engines["completed"].sum()) - handed - _underway(world),
        rejected=int(engines["rejected"].sum()),
        preemptions=int(engines["preemptions"].sum()),
        duration_s=duration_s,
        energy_j=float(joules.sum()),
        prompt_tokens=int(engines["prompt_total"].sum() + engines["cached_total"].sum()),
        cached_tokens=int(engines["cached_total"].sum()),
        output_tokens=int(engines["output_total"].sum()),
        steps=int(engines["done_steps"].sum()),
        itl_counts=engines["itl"].sum(axis=0),
        series=found,
        per_replica=PerReplica(
            requests=engines["requests"].copy(),
            output_tokens=engines["output_total"].copy(),
            busy_s=engines["busy_s"].copy(),
            energy_j=np.asarray(joules, dtype=float),
            preemptions=engines["preemptions"].copy(),
            peak_kv_frac=1.0 - engines["least_free"] / engines["total_blocks"],
            up_s=up_s,
            paid_s=paid_s,
            cost_usd=paid_s / 3600.0 * [math.nan if one.usd_per_hour is None else one.usd_per_hour for one in replicas],
        ),
        stable=stable(found, submitted, world) and not (partial and np.any(engines["waiting"] > submitted / 2)),
        partial=partial,
        failures=fleet.failures,
        retries=int(world.clock["retries"][0]),
    )


def beside_j(replicas: Sequence[Replica], paid_s: Array, busy_s: Array) -> Array:
    """Joules of each replica beside its kernels: it stands ready while it serves, and idles for the rest of its time."""
    busy = busy_s * [one.standing_w for one in replicas]
    idle = [one.standing_w if one.idle_w is None else one.idle_w for one in replicas]
    return np.asarray(busy + np.maximum(paid_s - busy_s, 0.0) * idle, dtype=float)


def _underway(world: World) -> int:
    """Requests that were handed over and have not arrived: their prefill worker has completed them."""
    return int(np.count_nonzero((world.book["ready"] > 0) & (world.book["state"] == COMING)))


def series(world: World, replicas: Sequence[Replica], fleet: Fleet, duration_s: float) -> Series:
    """Time series of the whole system, at the widest of the engines' intervals."""
    engines = world.engines
    width = float(engines["width_s"].max())
    total = np.zeros((engines["series"].shape[1], INTERVALS))
    busy_s = np.zeros((len(engines), INTERVALS))
    for at, (engine, replica) in enumerate(zip(engines, replicas, strict=True)):
        joined = round(float(width / engine["width_s"]))
        rows = engine["series"].reshape(len(total), INTERVALS // joined, joined).sum(axis=2)
        rows[POWER] *= replica.devices
        busy_s[at, : rows.shape[1]] = rows[BUSY]
        total[:, : rows.shape[1]] += rows
    count = min(INTERVALS, int(np.ceil(duration_s / width))) if duration_s > 0 else 0
    edges = np.minimum(np.arange(count + 1) * width, duration_s)
    length = np.diff(edges)
    up = fleet.up_s(edges) / length
    blocks = engines["total_blocks"] @ up
    beside = sum(
        beside_j([replica], paid, busy)
        for replica, paid, busy in zip(replicas, fleet.paid_s(edges), busy_s[:, :count], strict=True)
    )
    part = total[:, :count]
    return Series(
        time_s=edges,
        queue=part[QUEUE] / length,
        running=part[RUNNING] / length,
        kv_used_frac=np.where(blocks > 0.0, part[BLOCKS] / length / np.where(blocks > 0.0, blocks, 1.0), 0.0),
        energy_j=part[POWER] + beside,
        output_tokens=part[OUTPUT],
        prompt_tokens=part[PROMPTS],
        replicas_up=up.sum(axis=0),
    )


def stable(found: Series, submitted: int, world: World) -> bool:
    """Whether the queue does not grow without end while requests come.

    It does when at the last arrival more than a twentieth of all requests wait and the queue is still growing.
    """
    last_s = float(np.nanmax(world.book["arrival_s"], initial=0.0))
    coming = found.queue[: int(np.searchsorted(found.time_s, last_s))]
    if world.clock["unsent"][0] >= 0 or len(coming) < 8:
        return True
    quarter = len(coming) // 4
    before, after = coming[-2 * quarter : -quarter].mean(), coming[-quarter:].mean()
    return not (after > OVERLOADED_FRAC * submitted and after > before * (1.0 + (GROWING - 1.0) / 3.0))


def steps_of(world: World) -> Steps:
    """The traced stretches of all engines."""
    kept = np.minimum(world.engines["events"], world.events.shape[1])
    rows = [world.events[r, :count] for r, count in enumerate(kept)]
    joined = np.concatenate(rows) if rows else world.events[:0].ravel()
    replica = np.repeat(np.arange(len(kept)), kept)

    def column(name: str) -> Any:
        return np.ascontiguousarray(joined[name])

    return Steps(
        start_s=column("start_s"),
        end_s=column("end_s"),
        steps=column("steps"),
        sequences=column("sequences"),
        context_tokens=column("context").astype(np.int64),
        prompt_tokens=column("prompt_tokens"),
        replica=replica.astype(np.int32),
    )
