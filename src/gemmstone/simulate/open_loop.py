"""Open loop: requests arrive by themselves, at random, and a deployment serves several at once.

A replica with k requests in service completes them at a rate mu(k) that its closed loop knows; beyond its slots the rate
stays what it is with all slots taken, and requests wait. With Poisson arrivals at a rate lambda and service as random as
exponential that is a birth-death process: the share of time with k requests present is

    p(k) ~ (lambda / mu(1)) (lambda / mu(2)) ... (lambda / mu(k))

A constant mu per slot makes it M/M/c. Mean times follow from mean numbers by Little's law.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gemmstone.core.deployment import Array


class OpenLoop(NamedTuple):
    """Means over time (requests in service and waiting) and over requests (seconds)."""

    in_service: float
    waiting: float
    ttft_s: float
    tpot_s: float
    e2e_s: float


def open_loop(rate: float, levels: Array, served_per_s: Array, ttft_s: Array, tpot_s: Array, later: float) -> OpenLoop:
    """What `rate` requests/s find in a replica whose closed loop with levels[i] requests serves served_per_s[i].

    levels rise from 1 to the number of slots; between them the closed loop is interpolated. `later` tokens follow the
    first. The rate has to lie below the largest served_per_s.
    """
    slots = int(levels[-1])
    present = np.arange(1, slots + 1, dtype=float)
    service = np.interp(present, levels, np.maximum.accumulate(served_per_s))
    logs = np.concatenate([[0.0], np.cumsum(np.log(rate) - np.log(service))])
    share = np.exp(logs - np.max(logs))
    # Above the slots a geometric tail: all its mass, and the mean number that wait in it.
    ratio = rate / float(service[-1])
    tail = float(share[-1]) * ratio / (1.0 - ratio)
    total = float(np.sum(share)) + tail
    waiting = tail / (1.0 - ratio) / total
    in_service = (float(np.sum(share[1:] * present)) + tail * slots) / total
    # An arrival joins k others with the probability of finding them; those that wait start into full slots.
    found = np.append(share[:-1], share[-1] + tail) / total
    first_s = float(np.sum(found[:slots] * np.interp(present, levels, ttft_s))) + float(found[slots]) * float(
        ttft_s[-1]
    )
    wait_s = waiting / rate
    e2e_s = (in_service + waiting) / rate
    token_s = (e2e_s - first_s - wait_s) / later if later else float(tpot_s[0])
    return OpenLoop(in_service, waiting, first_s + wait_s, max(token_s, float(np.min(tpot_s))), e2e_s)
