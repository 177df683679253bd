"""What holds of the power of any operation on any device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gemmstone.catalog import device_files
from gemmstone.core.calibration import KernelTime
from gemmstone.predict import power

DEVICES = [slug for slug in device_files.published() if device_files.find(slug).tdp_w]
amounts = st.floats(0.0, 1.0)
works = st.builds(
    lambda flop, moved, group, form: power.Work(np.array([flop]), np.array([moved]), group, form),
    st.floats(0.0, 1e13),
    st.floats(0.0, 1e11),
    st.sampled_from(["products", "attention", "experts", "waiting"]),
    st.sampled_from(["bf16", "fp8", "nvfp4"]),
)
times = st.builds(
    lambda seconds, compute, memory, launch: KernelTime(
        np.array([seconds]), compute * seconds, memory * seconds, 0.0, launch * seconds
    ),
    st.floats(1e-6, 1.0),
    amounts,
    amounts,
    amounts,
)


@given(st.sampled_from(DEVICES), works, times)
def test_power_lies_between_standing_and_the_tdp(slug, work, timed) -> None:
    device = device_files.find(slug)
    drawn = power.drawn(work, timed, device)
    watts = power.standing_w(device) + drawn.dynamic_j[0] / drawn.time_s[0]
    assert power.standing_w(device) >= power.idle_w(device)
    assert power.standing_w(device) <= watts <= device.tdp_w * (1 + 1e-9)
    # Only a card whose build was timed under more power cannot keep that pace.
    assert drawn.time_s[0] == timed.time_s[0] or (
        power.fit_of(device).same_silicon
        and timed.time_s[0] < drawn.time_s[0]
        and power.fit_of(device).tdp_w > device.tdp_w
    )


@given(st.sampled_from(DEVICES), works, times, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_lower_limit_holds_and_never_speeds_up(slug, work, timed, one, other) -> None:
    device = device_files.find(slug)
    standing = power.fit_of(device).standing_w
    low, high = (standing + (0.02 + 0.98 * share) * (device.tdp_w - standing) for share in sorted((one, other)))
    slow, fast = (power.drawn(work, timed, replace(device, power_cap_w=cap)) for cap in (low, high))
    assert slow.time_s[0] >= fast.time_s[0] * (1 - 1e-6) >= timed.time_s[0] * (1 - 2e-6)
    for cap, drawn in ((low, slow), (high, fast)):
        assert standing + drawn.dynamic_j[0] / drawn.time_s[0] <= cap * (1 + 1e-6)


@given(st.sampled_from(DEVICES), works, times, st.floats(1.0, 3.0))
def test_more_work_takes_more_energy(slug, work, timed, more) -> None:
    device = device_files.find(slug)
    less = power.drawn(work, timed, device).dynamic_j[0]
    longer = KernelTime(*(np.asarray(part) * more for part in timed))
    grown = work._replace(flop=work.flop * more, moved_bytes=work.moved_bytes * more)
    assert power.drawn(grown, longer, device).dynamic_j[0] >= less * more * (1 - 1e-9)
    assert power.drawn(grown, timed, device).dynamic_j[0] >= less * (1 - 1e-9)
