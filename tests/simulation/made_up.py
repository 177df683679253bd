"""What a simulation could have found, made up: for tests of what is done with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gemmstone.simulate.outcome import histogram
from gemmstone.simulate.outcome.totals import PerReplica, Series, Steps, Totals
from gemmstone.simulate.requests import Served

NOT_YET = np.nan


def served(count: int, seed: int = 0, *, rejected: int = 0, unfinished: int = 0) -> Served:
    """Requests of all sorts; the first `rejected` never start, the next `unfinished` get a first token and no more."""
    chance = np.random.default_rng(seed)
    arrival_s = np.cumsum(chance.exponential(0.1, count))
    output_tokens = chance.integers(1, 400, count).astype(np.int32)
    scheduled_s = arrival_s + chance.exponential(0.02, count) * (chance.random(count) < 0.5)
    first_token_s = scheduled_s + chance.lognormal(-2.0, 0.8, count)
    finished_s = first_token_s + (output_tokens - 1) * chance.uniform(0.01, 0.03, count)
    replica = chance.integers(0, 2, count).astype(np.int32)
    scheduled_s[:rejected] = first_token_s[:rejected] = NOT_YET
    finished_s[: rejected + unfinished] = NOT_YET
    replica[:rejected] = -1
    zeros = np.zeros(count, dtype=np.int32)
    return Served(
        arrival_s=arrival_s,
        input_tokens=chance.integers(1, 4000, count).astype(np.int32),
        output_tokens=output_tokens,
        scheduled_s=scheduled_s,
        first_token_s=first_token_s,
        finished_s=finished_s,
        preemptions=zeros,
        cached_tokens=zeros,
        replica=replica,
    )


def series(intervals: int, seed: int = 0) -> Series:
    """A system over time, in intervals of 10 s."""
    chance = np.random.default_rng(seed)
    wave = 1.0 + np.sin(np.arange(intervals) / max(1, intervals) * 12.0)
    return Series(
        time_s=10.0 * np.arange(intervals + 1),
        queue=3.0 * wave * chance.random(intervals),
        running=40.0 * wave,
        kv_used_frac=0.45 * wave,
        energy_j=10.0 * (3000.0 + 1500.0 * wave),
        output_tokens=10.0 * 900.0 * wave,
        prompt_tokens=10.0 * 4000.0 * wave,
        replicas_up=np.full(intervals, 2.0),
    )


def totals(of: Served, intervals: int = 60, **changed: Any) -> Totals:
    """Totals that go with requests."""
    done = ~np.isnan(of.finished_s)
    over_time = series(intervals)
    between = np.repeat((of.tpot_s)[done & (of.output_tokens > 1)], 3)
    given: dict[str, Any] = {
        "submitted": len(done),
        "completed": int(done.sum()),
        "rejected": int(np.isnan(of.scheduled_s).sum()),
        "preemptions": 7,
        "duration_s": float(over_time.time_s[-1]),
        "energy_j": float(over_time.energy_j.sum()),
        "prompt_tokens": int(of.input_tokens.sum()),
        "cached_tokens": int(of.input_tokens.sum()) // 4,
        "output_tokens": int(of.output_tokens[done].sum()),
        "steps": 12_345,
        "itl_counts": histogram.count(between),
        "series": over_time,
        "per_replica": PerReplica(
            requests=np.array([11, 9]),
            output_tokens=np.array([2000, 1900]),
            busy_s=np.array([400.0, 380.0]),
            energy_j=np.array([2e6, 1.9e6]),
            preemptions=np.array([4, 3]),
            peak_kv_frac=np.array([0.97, 0.93]),
            up_s=np.array([600.0, 540.0]),
            paid_s=np.array([600.0, 600.0]),
            cost_usd=np.array([5.0, 4.5]),
        ),
    }
    return Totals(**{**given, **changed})


def steps(count: int, replicas: int = 2) -> Steps:
    """Stretches of steps one after the other, on replicas in turn."""
    start_s = 0.5 * np.arange(count)
    whole = np.arange(count)
    return Steps(
        start_s=start_s,
        end_s=start_s + 0.25,
        steps=np.where(whole % 3 == 0, 17, 1).astype(np.int32),
        sequences=np.where(whole % 3 == 2, 0, 5).astype(np.int32),
        context_tokens=100 * whole,
        prompt_tokens=np.where(whole % 3 == 0, 0, 512).astype(np.int32),
        replica=(whole % replicas).astype(np.int32),
    )
