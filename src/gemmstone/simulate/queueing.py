"""Waiting for servers of constant service time."""

from __future__ import annotations

import numpy as np

from gemmstone.core.deployment import Array


def sakasegawa_s(service_s: Array, servers: Array | float, utilisation: Array) -> Array:
    """Mean wait for one of `servers` servers of constant service time under Poisson arrivals; utilisation below 1.

    1/2 service rho^(sqrt(2 (c + 1)) - 1) / (c (1 - rho))    (Sakasegawa 1977, An approximation formula L_q = a rho^b / (1 - rho))
    """
    grown = utilisation ** (np.sqrt(2.0 * (servers + 1.0)) - 1.0)
    waited: Array = service_s / (2.0 * servers) * grown / (1.0 - utilisation)
    return waited
