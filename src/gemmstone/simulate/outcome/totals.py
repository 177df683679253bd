"""What a simulation counts while it runs, beside what became of each request.

Energy is NaN where the power of a device is not known. Arrays of a run without an interval or a step are empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.simulate.outcome import histogram
from gemmstone.simulate.requests import Indices, Integers


class Series(NamedTuple):
    """What the whole system did in each interval of time.

    time_s are the edges of the intervals, one more than there are intervals, rising. queue, running and kv_used_frac are
    means over the interval and its replicas' sums (kv_used_frac: of all their blocks); energy_j, output_tokens and
    prompt_tokens (computed, without cached ones) are amounts in the interval; replicas_up is the mean number that serve.
    """

    time_s: Array
    queue: Array
    running: Array
    kv_used_frac: Array
    energy_j: Array
    output_tokens: Array
    prompt_tokens: Array
    replicas_up: Array


class PerReplica(NamedTuple):
    """What each replica did; one entry a replica. busy_s: seconds in which a step ran; peak_kv_frac: most blocks in use.

    requests: that it answered or has; up_s: seconds in which it served; paid_s: in which it was
    paid for and powered; cost_usd: of these, NaN where no price is known.
    """

    requests: Indices
    output_tokens: Indices
    busy_s: Array
    energy_j: Array
    preemptions: Indices
    peak_kv_frac: Array
    up_s: Array
    paid_s: Array
    cost_usd: Array


class Steps(NamedTuple):
    """Stretches of steps with an unchanged batch, each entry one, in order of time within a replica.

    steps: how many engine steps the stretch has; sequences: that decode in it; context_tokens: cached tokens of all of them
    at its start; prompt_tokens: computed in it.
    """

    start_s: Array
    end_s: Array
    steps: Integers
    sequences: Integers
    context_tokens: Indices
    prompt_tokens: Integers
    replica: Integers


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums of one simulation.

    submitted: requests that arrived; those neither completed nor rejected are unfinished. duration_s: from the start to the
    last event. prompt_tokens: of all prompts that were scheduled, cached_tokens (found in the prefix cache) among them.
    steps: of all engines. itl_counts: times between two tokens of a request, as outcome/histogram.py counts them. stable:
    False where more came than could be served, so that the queue grew without end. partial: ended before the traffic did.
    failures: of replicas; retries: how often requests were sent again because of them.
    """

    submitted: int
    completed: int
    rejected: int
    preemptions: int
    duration_s: float
    energy_j: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    steps: int
    itl_counts: Indices
    series: Series
    per_replica: PerReplica
    stable: bool = True
    partial: bool = False
    failures: int = 0
    retries: int = 0

    @property
    def unfinished(self) -> int:
        """Requests that arrived and were neither completed nor rejected when the simulation ended."""
        return self.submitted - self.completed - self.rejected


def nothing(replicas: int = 0) -> Totals:
    """Totals of a simulation in which nothing arrived."""
    none, zeros = np.zeros(0), np.zeros(replicas)
    counts = np.zeros(replicas, dtype=np.int64)
    return Totals(
        submitted=0,
        completed=0,
        rejected=0,
        preemptions=0,
        duration_s=0.0,
        energy_j=0.0,
        prompt_tokens=0,
        cached_tokens=0,
        output_tokens=0,
        steps=0,
        itl_counts=histogram.empty(),
        series=Series(np.zeros(1), none, none, none, none, none, none, none),
        per_replica=PerReplica(counts, counts, zeros, zeros, counts, zeros, zeros, zeros, zeros),
    )
