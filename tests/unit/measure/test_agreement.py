"""What passes over the same call say together, and two runs."""

from __future__ import annotations

import numpy as np
import pytest

from gemmstone.core.measurement import Call, Measurement
from gemmstone.measure import agreement, kernels


def measured(seconds: float, number: int = 0, m: float = 1.0, family: str = "gemm") -> Measurement:
    shape = {"m": m, "n": 8.0, "k": 8.0} if family == "gemm" else {"elements": m}
    return Measurement(
        call=Call(family=family, dtype="fp32", shape=shape),
        backend="pytorch",
        version="1",
        device="cpu",
        threads=1,
        samples_s=np.array([9.0, *[seconds] * 9]),
        warm_up=1,
        calls=1,
        flop=2.0 * m * 64,
        read_bytes=16.0 * m,
        write_bytes=8.0 * m,
        round=number,
    )


@pytest.mark.parametrize(
    ("medians", "kept", "apart"),
    [
        ((1.0,), [1.0], 0.0),
        ((1.0, 1.1), [1.0, 1.1], 0.1),
        ((1.0, 2.0, 1.02), [1.0, 1.02], 0.02),
        ((1.0, 1.001, 1.5, 1.2), [1.0, 1.001, 1.2], 0.2),  # a pair among four is no majority
        ((1.0, 3.0, 1.3, 1.1, 2.0), [1.0, 1.1, 1.3], 0.3),
    ],
)
def test_a_majority_of_passes_decides(medians: tuple[float, ...], kept: list[float], apart: float) -> None:
    used, found = agreement.majority([measured(seconds, number) for number, seconds in enumerate(medians)])
    assert [one.median_s for one in used] == kept
    assert found == pytest.approx(apart)


def test_quiet_and_noisy_machines_are_told_apart() -> None:
    quiet = agreement.ops([measured(1.0), measured(1.04, 1)])
    assert agreement.verdict(quiet, {}) == "agrees within 5% on every op"
    noisy = agreement.ops([measured(1.0), measured(1.12, 1), measured(1.0, m=2.0), measured(1.0, 1, m=2.0)])
    said = agreement.verdict(noisy, {"steal_frac": 0.03, "other_cpu_frac": 0.2})
    assert said == "too noisy: 1 of 2 ops differ by up to 12% between passes; steal 3%, other processes 20%"
    assert "measured once" in agreement.verdict(agreement.ops([measured(1.0)]), {})


def test_a_machine_that_agrees_with_itself_now_and_not_with_an_hour_ago_is_noisy() -> None:
    now = agreement.ops([measured(1.0), measured(1.01, 1), measured(1.0, m=2.0), measured(1.0, 1, m=2.0)])
    before = agreement.ops([measured(1.3), measured(1.3, 1), measured(1.02, m=2.0), measured(5.0, m=7.0)])
    apart = agreement.between(now, before, "earlier")
    assert apart is not None
    assert (apart.ops, apart.beyond) == (2, 1)
    assert apart.worst_frac == pytest.approx(1.3 / 1.005 - 1)
    said = agreement.verdict(now, {}, apart)
    assert said.startswith("too noisy: 1 of 2 differ by up to 29% from run earlier")
    assert said.endswith("what changed is outside this system's sight")
    assert agreement.between(now, [], "empty") is None


def test_rows_say_what_was_reached_of_the_machine() -> None:
    found = agreement.op([measured(1e-6), measured(1e-6, 1)])
    row = kernels.row(found, {"fp32": {"flop_per_s": 2 * 64 * 1e6 * 4}}, 24e6 * 2)
    assert row["flop_per_s"] == pytest.approx(128e6)
    assert row["peak_frac"] == pytest.approx(0.25)
    assert row["bandwidth_frac"] == pytest.approx(0.5)
    assert row["samples"] == 18
    assert row["flags"] == []
    assert kernels.row(found, {}, None)["peak_frac"] is None
    beyond = kernels.row(found, {"fp32": {"flop_per_s": 128e6 / 1.2}}, None)
    assert beyond["peak_frac"] == pytest.approx(1.2)
    assert beyond["flags"] == ["beyond the measured peak: that was measured while something disturbed it"]


def test_bandwidth_is_that_of_the_best_pass_of_stream() -> None:
    stream = [measured(1e-6, family="stream_triad"), measured(2e-6, 1, family="stream_triad")]
    assert kernels.bandwidth([measured(1e-9), *stream]) == pytest.approx(24e6)
    assert kernels.bandwidth([measured(1e-9)]) is None


def test_a_wrong_result_is_flagged() -> None:
    from dataclasses import replace

    wrong = agreement.op([replace(measured(1.0), max_error=0.3), measured(1.0, 1)])
    assert kernels.flags(wrong) == ["result off by 0.3"]
    unknown = agreement.op([replace(measured(1.0), max_error=float("nan")), measured(1.0, 1)])
    assert kernels.flags(unknown) == ["result off by nan"]


def test_what_was_measured_once_does_not_count_as_agreeing() -> None:
    found = agreement.ops([measured(1.0), measured(1.01, 1), measured(1.0, m=2.0)])
    assert agreement.verdict(found, {}) == "agrees within 5% on the 1 of 2 ops that were measured twice"
    assert agreement.agrees(found) is True
    assert agreement.agrees(found[1:]) is None


def test_noise_is_told_with_what_changed_meanwhile() -> None:
    noisy = agreement.ops([measured(1.0), measured(1.12, 1)])
    said = agreement.verdict(noisy, {"steal_frac": 0.0, "memory_pressure_frac": 0.02}, None, (3.2e9, 2.8e9))
    assert said == (
        "too noisy: 1 of 1 ops differ by up to 12% between passes; "
        "waiting for memory 2%, clock 3.20 GHz, at the end 2.80"
    )
    assert "GHz" not in agreement.verdict(noisy, {}, None, (3.2e9, 3.2e9))
    assert "GHz" not in agreement.verdict(noisy, {}, None, (3.2e9, None))
    assert agreement.agrees(noisy) is False
    assert agreement.disagreements(noisy) == [pytest.approx(0.12)]
