"""Naming clusters of devices, and what-if edits of one device."""

import math
from pathlib import Path

import pytest

from gemmstone.catalog import device_files
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device, HostTier


@pytest.fixture
def h100() -> Device:
    return device_files.find("h100-sxm")


@pytest.mark.parametrize(
    ("spec", "count", "slug"),
    [
        ("8xh100-sxm", 8, "h100-sxm"),
        ("h100-sxm", 1, "h100-sxm"),
        ("4 x a100-sxm-80gb", 4, "a100-sxm-80gb"),
        ("  16 X  H100_SXM ", 16, "h100-sxm"),
        ("2×mi300x", 2, "mi300x"),
        ("100000xl4", 100_000, "l4"),
        ("8xNVIDIA H100 80GB HBM3", 8, "h100-sxm"),
    ],
)
def test_a_cluster_is_a_count_and_a_device(spec: str, count: int, slug: str) -> None:
    cluster = device_files.cluster(spec)
    assert (cluster.num_devices, cluster.device.slug) == (count, slug)


def test_nodes_are_as_large_as_the_scale_up_link_reaches() -> None:
    assert device_files.cluster("16xh100-sxm").devices_per_node == 8
    assert device_files.cluster("72xgb200").devices_per_node == 72
    assert device_files.cluster("16xh100-sxm").link(8) == device_files.find("h100-sxm").scale_up
    assert device_files.cluster("16xh100-sxm").link(16) == device_files.find("h100-sxm").scale_out


def test_the_count_can_come_apart_from_the_name() -> None:
    assert device_files.cluster("h100-sxm", 4).num_devices == 4
    assert device_files.cluster("4xh100-sxm", 4).num_devices == 4
    with pytest.raises(BadRequest, match="says 8 devices and num_devices says 4"):
        device_files.cluster("8xh100-sxm", 4)
    with pytest.raises(BadRequest, match="from 1 to 100000"):
        device_files.cluster("h100-sxm", 0)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("0xh100-sxm", "from 1 to 100000"),
        ("-1xh100-sxm", "from 1 to 100000"),
        ("100001xh100-sxm", "from 1 to 100000"),
        ("9999999999xh100-sxm", "from 1 to 100000"),
        ("9" * 200 + "xh100-sxm", "from 1 to 100000"),
        ("8x", "names no device"),
        ("x", "unknown device"),
        ("", "no hardware given"),
        (" \n\t", "no hardware given"),
        ("8xh1000", "unknown device 'h1000'"),
        ("8.5xh100-sxm", "unknown device"),
        ("8xh100-sxm\0", None),
        ("../../../etc/passwd", "unknown device"),
        ("..", "unknown device"),
        ("/etc/passwd.toml", "cannot read"),
        ("x" * 1_000_000, "1000000 characters"),
        ("٨xh100-sxm", "unknown device"),
    ],
)
def test_hostile_specs_get_one_clear_line(spec: str, complaint: str | None) -> None:
    if complaint is None:  # stray control characters fold away like any other punctuation
        assert device_files.cluster(spec).num_devices == 8
        return
    with pytest.raises(BadRequest) as caught:
        device_files.cluster(spec)
    message = str(caught.value)
    assert complaint in message
    assert "\n" not in message
    assert len(message) < 1500


def test_a_cluster_file_names_device_count_and_node_size(tmp_path: Path) -> None:
    path = tmp_path / "rack.toml"
    path.write_text('device = "a100-sxm-40gb"\nnum_devices = 16\ndevices_per_node = 4\n')
    cluster = device_files.cluster(str(path))
    assert (cluster.device.slug, cluster.num_devices, cluster.devices_per_node) == ("a100-sxm-40gb", 16, 4)
    assert device_files.cluster(str(path), 8).num_devices == 8
    assert device_files.cluster(f"2x{path}").num_devices == 32
    assert device_files.describe(str(path))["slug"] == "a100-sxm-40gb"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('device = "h100-sxm"\nnum_devices = 0', "from 1 to 100000"),
        ('device = "h100-sxm"\nnum_devices = 8\ndevices_per_node = -4', "from 1 to 100000"),
        ('device = "h100-sxm"\nnum_devices = "8"', "whole number"),
        ('device = "h100-sxm"\nnum_devices = true', "whole number"),
        ('device = "h100-sxm"\ncount = 8', "not 'count'"),
        ("device = 8", "name of a device"),
        ('device = "nope-9000"', "unknown device"),
        ('device = "dgx-h100"', "is a system itself"),
        ('device = "h100-sxm"\nslug = "mine"', "name is missing"),
    ],
)
def test_a_bad_cluster_file_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "rack.toml"
    path.write_text(text)
    with pytest.raises(BadRequest, match=complaint):
        device_files.cluster(str(path))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("memory.bandwidth=4 TB/s", 4e12),
        ("memory.bandwidth=+20%", 3.35e12 * 1.2),
        ("memory.bandwidth = -10 %", 3.35e12 * 0.9),
        ("memory.bandwidth=x2", 6.7e12),
        ("memory.bandwidth=X0.5", 1.675e12),
    ],
)
def test_a_value_is_set_or_scaled(h100: Device, change: str, expected: float) -> None:
    edited = device_files.edit(h100, change)
    assert edited.memory_bandwidth_bytes_per_s == pytest.approx(expected)
    assert len(edited.edited) == 1
    assert edited.edited[0].startswith("memory.bandwidth=")
    assert h100.memory_bandwidth_bytes_per_s == 3.35e12  # the original is untouched


def test_peaks_scale_one_by_one_or_together(h100: Device) -> None:
    one = device_files.edit(h100, "compute.peak.fp8=x2").peak_flop_per_s
    assert one["fp8"] == 2 * h100.peak_flop_per_s["fp8"]
    assert one["bf16"] == h100.peak_flop_per_s["bf16"]
    both = device_files.edit(h100, "compute.peak=-50%").peak_flop_per_s
    assert both == pytest.approx({name: value / 2 for name, value in h100.peak_flop_per_s.items()})
    assert device_files.edit(h100, "compute.peak.nvfp4=4 PFLOP/s").peak_flop_per_s["nvfp4"] == 4e15


def test_every_field_can_be_set_and_only_that_one_changes(h100: Device) -> None:
    settings = {
        "compute.units": ("144", lambda d: d.compute_units, 144),
        "memory.capacity": ("96 GB", lambda d: d.memory_bytes, 96e9),
        "memory.on_chip.capacity": ("64 MB", lambda d: d.on_chip_bytes, 64e6),
        "link.scale_up.bandwidth": ("900 GB/s", lambda d: d.scale_up.bandwidth_bytes_per_s, 900e9),
        "link.scale_up.latency": ("1 us", lambda d: d.scale_up.latency_s, 1e-6),
        "link.scale_up.domain": ("72", lambda d: d.scale_up.domain, 72),
        "link.scale_out.bandwidth": ("100 GB/s", lambda d: d.scale_out.bandwidth_bytes_per_s, 100e9),
        "link.host.bandwidth": ("128 GB/s", lambda d: d.host.bandwidth_bytes_per_s, 128e9),
        "host.memory": ("256 GB", lambda d: d.host_tier.memory_bytes, 256e9),
        "host.bandwidth": ("150 GB/s", lambda d: d.host_tier.memory_bandwidth_bytes_per_s, 150e9),
        "host.peak.bf16": ("3 TFLOP/s", lambda d: d.host_tier.peak_flop_per_s["bf16"], 3e12),
        "storage.capacity": ("4 TB", lambda d: d.host_tier.storage_bytes, 4e12),
        "storage.bandwidth": ("7 GB/s", lambda d: d.host_tier.storage_bandwidth_bytes_per_s, 7e9),
        "storage.write_bandwidth": ("5 GB/s", lambda d: d.host_tier.storage_write_bandwidth_bytes_per_s, 5e9),
        "near_memory.bandwidth": ("12 TB/s", lambda d: d.near_memory.bandwidth_bytes_per_s, 12e12),
        "power.tdp": ("500 W", lambda d: d.tdp_w, 500),
        "power.idle": ("50 W", lambda d: d.idle_w, 50),
        "price.per_hour": ("2 USD/h", lambda d: d.price.usd_per_hour, 2),
    }
    for field, (text, get, expected) in settings.items():
        edited = device_files.edit(h100, f"{field}={text}")
        assert get(edited) == pytest.approx(expected)
        changed = [name for name in vars(edited) if getattr(edited, name) != getattr(h100, name)]
        assert len(changed) == 2, changed  # the field's home and `edited`
        assert field in device_files.editable(h100)


def test_what_stands_behind_a_device_is_given_value_by_value(h100: Device) -> None:
    changes = ("host.memory=256GB", "host.bandwidth=150GB/s", "host.peak.bf16=3 TFLOP/s", "storage.bandwidth=7GB/s")
    edited = h100
    for change in changes:
        edited = device_files.edit(edited, change)
    assert edited.host_tier == HostTier(
        memory_bytes=256e9,
        memory_bandwidth_bytes_per_s=150e9,
        peak_flop_per_s={"bf16": 3e12},
        storage_bandwidth_bytes_per_s=7e9,
    )
    assert device_files.edit(edited, "host.memory=x2").host_tier.memory_bytes == 512e9  # type: ignore[union-attr]
    with pytest.raises(BadRequest, match=r"near_memory\.bandwidth first"):
        device_files.edit(h100, "near_memory.peak.bf16=30 TFLOP/s")


def test_edits_add_up_and_are_recorded_in_order(h100: Device) -> None:
    edited = device_files.edit(device_files.edit(h100, "power.tdp=x2"), "power.tdp=-25%")
    assert edited.tdp_w == 1050
    assert edited.edited == ("power.tdp=x2", "power.tdp=-25%")


def test_values_a_device_lacks_can_be_given() -> None:
    tpu = device_files.find("tpu-v5e")
    assert device_files.edit(tpu, "power.tdp=200 W").tdp_w == 200
    assert device_files.edit(tpu, "link.scale_out.bandwidth=12.5 GB/s").scale_out.bandwidth_bytes_per_s == 12.5e9  # type: ignore[union-attr]
    priced = device_files.edit(device_files.find("mi325x"), "price.per_hour=4")
    assert priced.price is not None
    assert priced.price.usd_per_hour == 4


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("memory.bandwith=x2", "did you mean 'memory.bandwidth'"),
        ("zzzz=x2", "known: compute.peak, .*compute.units"),
        ("compute.peak.fp12=x2", "unknown field"),
        ("memory.bandwidth", "is not a change"),
        ("memory.bandwidth=", "is not a change"),
        ("=x2", "unknown field"),
        ("memory.bandwidth=-100%", "would become 0"),
        ("memory.bandwidth=-200%", "has to be positive"),
        ("memory.bandwidth=x0", "would become 0"),
        ("memory.bandwidth=0", "would become 0"),
        ("memory.bandwidth=-3 TB/s", "has to be positive"),
        ("memory.bandwidth=nan", "not a quantity"),
        ("memory.bandwidth=inf", "not a quantity"),
        ("memory.bandwidth=1e400", "not a finite"),
        ("memory.bandwidth=x" + "9" * 270, "has to be positive"),
        ("memory.bandwidth=4 TB", "does not measure"),
        ("compute.peak=1 PFLOP/s", "takes a factor"),
        ("compute.peak.nvfp4=x2", "has no value here"),
        ("link.scale_up.latency=x2", "has no value here"),
        ("__class__=x2", "unknown field"),
        ("x" * 1_000_000, "is written as"),
    ],
)
def test_bad_edits_are_refused(h100: Device, change: str, complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint) as caught:
        device_files.edit(h100, change)
    assert "\n" not in str(caught.value)


def test_a_latency_needs_a_link_first() -> None:
    with pytest.raises(BadRequest, match=r"set link\.scale_out\.bandwidth first"):
        device_files.edit(device_files.find("tpu-v5e"), "link.scale_out.latency=2 us")


def test_results_stay_finite(h100: Device) -> None:
    edited = device_files.edit(h100, "compute.peak=x1000")
    assert all(math.isfinite(value) for value in edited.peak_flop_per_s.values())
    with pytest.raises(BadRequest):
        device_files.edit(h100, "compute.peak=x1e3")  # exponents are not part of the factor syntax
    with pytest.raises(BadRequest, match="at most"):
        device_files.edit(h100, "compute.peak=x99999999999999")
