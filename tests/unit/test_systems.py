"""Nodes, racks and pods: every file is sourced, a system is its devices and its share of host, links, power and price."""

import re
import tomllib
from pathlib import Path

import pytest

from gemmstone.catalog import device_files, device_tables
from gemmstone.catalog.device_fields import FIELDS
from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import fold

SYSTEMS = device_files.systems()


def test_the_catalogue_has_the_machines_people_buy_and_rent() -> None:
    expected = (
        "dgx-h100 dgx-h200 dgx-b200 dgx-b300 dgx-a100 gb200-nvl72 gb300-nvl72 mi300x-8 mi355x-8 gaudi2-8 gaudi3-8 "
        "tpu-v4-pod tpu-v5e-pod tpu-v5p-pod tpu-v6e-pod cloudmatrix384 sn40l-8 dgx-spark trn2-48xlarge inf2-48xlarge"
    )
    assert set(expected.split()) <= set(SYSTEMS)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_every_system_loads_and_every_value_has_a_public_dated_source(slug: str) -> None:
    made = device_files.cluster(slug)
    document = tomllib.loads((device_files.SYSTEMS / f"{slug}.toml").read_text(encoding="utf-8"))
    entry = device_files.describe(slug)
    assert entry["slug"] == slug == fold(slug)
    assert made.device == device_files.find(slug)
    assert made.device.slug == entry["device"] == fold(entry["device"])
    assert made.num_devices == entry["num_devices"] >= 1
    assert {value["source"] for value in entry["values"]} == set(document["sources"].values())
    for source in document["sources"].values():
        assert re.search(r"https?://|github\.com/", source), source
        assert re.search(r"20[12]\d|@[0-9a-f]{10}", source), f"undated: {source}"
    assert all(value["unit"] == FIELDS[value["field"]] for value in entry["values"])
    written = {value["field"] for value in entry["values"]}
    assert set(entry["conflicts"]) <= written


def test_names_of_systems_and_devices_do_not_collide() -> None:
    owner: dict[str, str] = {}
    for slug in [*device_files.published(), *SYSTEMS]:
        entry = device_files.describe(slug)
        for name in {fold(slug), fold(entry["name"]), *map(fold, entry["aliases"])}:
            assert owner.setdefault(name, slug) == slug, f"{name} means {owner[name]} and {slug}"
            assert device_files.describe(name)["slug"] == slug


@pytest.mark.parametrize(
    ("spec", "devices", "node", "slug"),
    [
        ("dgx-h100", 8, 8, "h100-sxm"),
        ("4xdgx-h100", 32, 8, "h100-sxm"),
        ("2 x DGX A100", 16, 8, "a100-sxm-80gb"),
        ("gb200-nvl72", 72, 72, "gb200"),
        ("GB200_NVL72", 72, 72, "gb200"),
        ("8xgb200", 8, 72, "gb200"),
        ("cloudmatrix384", 384, 384, "ascend-910c"),
        ("tpu-v5p-pod", 8960, 8960, "tpu-v5p"),
        ("dgx-2", 16, 16, "v100-sxm-32gb"),
        ("dgx-spark", 1, 1, "gb10"),
    ],
)
def test_a_system_is_so_many_devices(spec: str, devices: int, node: int, slug: str) -> None:
    made = device_files.cluster(spec)
    assert (made.num_devices, made.devices_per_node, made.device.slug) == (devices, node, slug)


def test_a_part_of_a_system_is_a_number_of_devices() -> None:
    assert device_files.cluster("gb200-nvl72", 16).num_devices == 16
    assert device_files.cluster("dgx-h100", 4).num_devices == 4
    assert device_files.cluster("4xdgx-h100", 32).num_devices == 32
    with pytest.raises(BadRequest, match="says 32 devices and num_devices says 8"):
        device_files.cluster("4xdgx-h100", 8)
    with pytest.raises(BadRequest, match="from 1 to 100000"):
        device_files.cluster("100xtpu-v5p-pod")


def test_a_device_has_its_share_of_the_whole() -> None:
    device = device_files.cluster("dgx-h100").device
    assert device.host_tier is not None
    assert device.host_tier.memory_bytes == pytest.approx(2e12 / 8)
    assert device.host_tier.memory_bandwidth_bytes_per_s == pytest.approx(2 * 8 * 4800e6 * 8 / 8)  # sockets x channels
    assert device.host_tier.peak_flop_per_s["bf16"] == pytest.approx(2 * 56 * 1024 * 2.0e9 / 8, rel=1e-3)
    assert device.host_tier.power_w == pytest.approx(10200 / 8)
    assert device.scale_out is not None
    assert device.scale_out.bandwidth_bytes_per_s == 400e9 / 8
    price = device_files.cluster("inf2-48xlarge").device.price
    assert price is not None
    assert price.usd_per_hour == pytest.approx(12.9816 / 12)
    bare = device_files.find("h100-sxm")
    assert bare.host_tier is None
    assert device.memory_bytes == bare.memory_bytes


def test_what_a_device_brings_stays_beside_what_the_system_says() -> None:
    bare, racked = device_files.find("gb200"), device_files.cluster("gb200-nvl72").device
    assert bare.host_tier is not None
    assert racked.host_tier is not None
    assert bare.host_tier.power_w is None
    assert racked.host_tier.power_w == pytest.approx(120e3 / 72)
    assert racked.host_tier.memory_bytes == pytest.approx(bare.host_tier.memory_bytes, rel=0.02)
    assert racked.host_tier.memory_bandwidth_bytes_per_s == pytest.approx(
        bare.host_tier.memory_bandwidth_bytes_per_s, rel=0.01
    )
    assert racked.scale_up == bare.scale_up


MINE = """
slug = "my-node"
name = "My node"
vendor = "me"
year = 2026
device = "l4"
num_devices = 4
[host]
memory = { value = "256 GB", source = "s" }
processor = { value = "1 x some CPU", source = "s" }
[link.scale_out]
bandwidth = { value = "12.5 GB/s", source = "s" }
[price]
per_hour = { value = "4 USD/h", source = "s", date = "2026-01", place = "here" }
[sources]
s = "invoice, 2026"
"""


def test_a_system_of_ones_own_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE, encoding="utf-8")
    made = device_files.cluster(f"2x{path}")
    assert (made.num_devices, made.device.slug) == (8, "l4")
    assert made.device.host_tier is not None
    assert made.device.host_tier.memory_bytes == 64e9
    assert made.device.price is not None
    assert made.device.price.usd_per_hour == 1.0
    assert made.device.scale_out is not None
    assert made.device.scale_out.bandwidth_bytes_per_s == 12.5e9
    assert device_files.describe(str(path))["slug"] == "my-node"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "[host]",
            "[memory]\ncapacity = { value = '1 GB', source = 's' }\n[host]",
            "belongs into the file of the device",
        ),
        ("memory = {", "memroy = {", "unknown field 'host.memroy'"),
        ("num_devices = 4", "num_devices = 0", "from 1 to"),
        ("num_devices = 4", "num_devices = 4.5", "whole number"),
        ("num_devices = 4", "devices = 4", "unknown key 'devices'"),
        ('"1 x some CPU"', "[1]", "a number or a text"),
        ('device = "l4"', 'device = "l444"', "unknown device"),
        ("[link.scale_out]\nbandwidth", "[link.scale_out]\ndomain", "does not measure"),
        ("[host]", "[host." + "a." * 3000 + "b]\nc = 1\n[host]", "unknown field"),
    ],
)
def test_a_system_file_that_breaks_the_layout_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in MINE
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BadRequest, match=complaint) as caught:
        device_files.cluster(str(path))
    assert "\n" not in str(caught.value)


def test_a_link_needs_its_bandwidth_from_somewhere(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        MINE.replace(
            '[link.scale_out]\nbandwidth = { value = "12.5 GB/s"', '[link.scale_out]\nlatency = { value = "2 us"'
        ),
        encoding="utf-8",
    )
    if device_files.find("l4").scale_out is None:
        with pytest.raises(BadRequest, match=r"link\.scale_out\.bandwidth is missing"):
            device_files.cluster(str(path))
    else:
        assert device_files.cluster(str(path)).device.scale_out.latency_s == 2e-6  # type: ignore[union-attr]


def test_texts_are_no_quantities() -> None:
    values = device_tables.values(
        {"host": {"processor": {"value": "2 x CPU", "source": "s"}}, "sources": {"s": "x"}}, "file"
    )
    assert values["host.processor"].written == "2 x CPU"
