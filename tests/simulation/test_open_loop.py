"""The open loop against queues whose answers are known in closed form."""

from __future__ import annotations

from dataclasses import replace
from math import factorial

import numpy as np
import pytest

from gemmstone.core.deployment import Workload
from gemmstone.predict.economics import Economics
from gemmstone.simulate import scenario
from gemmstone.simulate.metrics import answer
from gemmstone.simulate.open_loop import open_loop
from gemmstone.simulate.scenario import Scenario

SERVICE_S = 2.0


def constant(rate: float, slots: int) -> tuple[float, float]:
    """Mean wait and mean time in the system where a request takes SERVICE_S whoever else is there."""
    levels = np.arange(1.0, slots + 1.0)
    found = open_loop(rate, levels, levels / SERVICE_S, 0.0 * levels, SERVICE_S + 0.0 * levels, 1.0)
    return found.ttft_s, found.e2e_s


def erlang_c_wait_s(rate: float, slots: int) -> float:
    """Mean wait of M/M/c: the chance that all slots are taken (Erlang C) over the spare rate."""
    offered = rate * SERVICE_S
    full = offered**slots / factorial(slots) * slots / (slots - offered)
    chance = full / (sum(offered**k / factorial(k) for k in range(slots)) + full)
    return chance / (slots / SERVICE_S - rate)


@pytest.mark.parametrize("slots", [1, 2, 7, 40])
@pytest.mark.parametrize("utilisation", [0.1, 0.5, 0.9, 0.99])
def test_a_constant_rate_a_slot_is_m_m_c(slots: int, utilisation: float) -> None:
    rate = utilisation * slots / SERVICE_S
    wait_s, whole_s = constant(rate, slots)
    assert wait_s == pytest.approx(erlang_c_wait_s(rate, slots), rel=1e-9)
    assert whole_s == pytest.approx(erlang_c_wait_s(rate, slots) + SERVICE_S, rel=1e-9)


def test_one_slot_is_m_m_1() -> None:
    # At 90% use the mean time in the system is 1 / (mu - lambda) = 1 / (0.5 - 0.45) = 20 s.
    assert constant(0.45, 1)[1] == pytest.approx(20.0)


def test_little_joins_numbers_and_times() -> None:
    levels = np.array([1.0, 4.0, 16.0, 64.0])
    served = np.array([0.5, 1.6, 4.0, 6.4])  # more together, each slower
    found = open_loop(6.0, levels, served, 0.1 * levels, levels / served - 0.1 * levels, 1.0)
    assert found.in_service + found.waiting == pytest.approx(6.0 * found.e2e_s)
    assert found.e2e_s == pytest.approx(found.ttft_s + found.tpot_s)
    assert served[-1] > 6.0 > served[-2], "between sixteen and all slots"
    assert 16 < found.in_service < 64


def test_waiting_takes_over_near_saturation() -> None:
    waits = [constant(use * 8 / SERVICE_S, 8)[0] for use in (0.9, 0.99, 0.999)]
    assert waits[1] > 9 * waits[0]
    assert waits[2] > 9 * waits[1]


def test_bands_widen_towards_saturation() -> None:
    """A server that is a tenth slower than thought hardly shows at little load, and makes queues near its limit."""
    work = Workload(input_tokens=1024, output_tokens=256, mode="rate")
    made = scenario.system(Scenario(model="llama-3.1-8b", hardware="h100-sxm", workload=work))
    saturated = float(answer(made, replace(work, mode="offline"), Economics()).metrics["requests_per_s"].value[0])
    shares = np.array([0.05, 0.5, 0.9])
    found = answer(made, work, Economics(), shares * saturated)
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        spread = found.metrics[name].high / found.metrics[name].low
        assert np.all(np.diff(spread) > 0), name
    assert found.metrics["tpot_s"].high[2] / found.metrics["tpot_s"].value[2] > 1.5 * (
        found.metrics["tpot_s"].high[0] / found.metrics["tpot_s"].value[0]
    )
