"""Energy from device to site: scopes contain each other, parts add up, and use, load and cleanliness work the way they must."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmstone.catalog import device_files
from gemmstone.predict import node
from gemmstone.predict.economics import Draw, Economics, Energy, spent

KNOWN = [slug for slug in device_files.published() if device_files.find(slug).tdp_w]
SYSTEMS = [slug for slug in device_files.systems() if device_files.cluster(slug).device.tdp_w]
DEVICES = st.one_of(
    st.sampled_from(KNOWN).map(device_files.find),
    st.sampled_from(SYSTEMS).map(lambda s: device_files.cluster(s).device),
)
SHARES = st.floats(0.01, 1.0)
COUNTS = st.integers(1, 1024).map(float)


def energy(device: object, devices: float, share: float, rate: float = 100.0, **known: object) -> Energy:
    watts = np.array([share * device.tdp_w])
    drawn = Draw(device=device, devices=devices, device_w=watts, economics=Economics(g_co2_per_kwh=400.0, **known))
    return spent([drawn], np.array([rate]))


@settings(deadline=None)
@given(DEVICES, COUNTS, SHARES, st.floats(1.0, 3.0))
def test_a_scope_contains_the_one_before_it(device: object, devices: float, share: float, pue: float) -> None:
    device_j, node_j, site_j = (
        float(energy(device, devices, share, energy_scope=scope, pue=pue).total_j[0])
        for scope in ("device", "node", "facility")
    )
    assert device_j <= node_j * (1 + 1e-12)
    assert node_j <= site_j * (1 + 1e-12)
    assert np.isclose(site_j, pue * node_j)


@settings(deadline=None)
@given(DEVICES, COUNTS, SHARES, st.floats(0.01, 1.0), st.sampled_from(["device", "node", "facility"]))
def test_the_parts_are_there_and_add_up(device: object, devices: float, share: float, used: float, scope: str) -> None:
    found = energy(device, devices, share, energy_scope=scope, pue=1.3, utilization_frac=used)
    for part in (found.dynamic_j, found.idle_j, found.unused_j, *found.parts_w.values()):
        assert part[0] >= -1e-9
    assert np.isclose(found.total_j[0], found.dynamic_j[0] + found.idle_j[0] + found.unused_j[0])
    serving_w = (found.dynamic_j[0] + found.idle_j[0]) * 100.0
    counted = {"device": ["devices"], "node": [name for name in found.parts_w if name != "site"]}
    names = counted.get(scope, list(found.parts_w))
    assert np.isclose(serving_w, sum(found.parts_w[name][0] for name in names))


@settings(deadline=None)
@given(DEVICES, COUNTS, SHARES, SHARES)
def test_more_watts_of_a_device_are_more_watts_at_the_wall(device: object, devices: float, a: float, b: float) -> None:
    low, high = sorted((a, b))
    watts = node.wall(device, np.array([low, high]) * device.tdp_w, devices=devices).power_w
    assert watts[0] <= watts[1] * (1 + 1e-12)


@settings(deadline=None)
@given(DEVICES, COUNTS, SHARES, st.floats(0.01, 1.0), st.floats(0.0, 1.0))
def test_less_use_costs_more_a_token(device: object, devices: float, share: float, used: float, grams: float) -> None:
    busy = energy(device, devices, share, embodied_g_per_device_s=grams)
    lazy = energy(device, devices, share, embodied_g_per_device_s=grams, utilization_frac=used)
    assert lazy.total_j[0] >= busy.total_j[0]
    assert np.isclose(lazy.embodied_g[0], busy.embodied_g[0] / used)
    assert lazy.total_g[0] >= lazy.operational_g[0]
