"""The hardware catalogue: every file is complete and sourced, known facts are right, wrong names are met politely."""

import re
import tomllib
from pathlib import Path

import pytest

from gemmstone.catalog import device_files
from gemmstone.catalog import device_tables as tables
from gemmstone.catalog.device_fields import FIELDS, LEVELS
from gemmstone.core import units
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device, HostTier, NearMemory
from gemmstone.core.lookup import fold

SLUGS = device_files.published()
GIB = 2.0**30

# Devices whose 8-bit floating-point rate is not twice bf16, and why.
FP8_FACTOR = {
    "gaudi3": 1.0,  # the matrix engines run fp8 and bf16 at one rate (Intel whitepaper)
    "inferentia2": 1.0,  # cFP8 at the 16-bit rate (Neuron documentation)
    "trainium1": 1.0,
    "trainium2": 1299 / 667,
    "trainium3": 2517 / 671,  # fp8 and fp4 share one rate
}
BF16_FACTOR = {"mi100": 0.5}  # of fp16 (AMD)
FULL_TF32 = ("inferentia2", "trainium1", "trainium2", "trainium3")  # at the 16-bit rate (Neuron documentation)
# What no source gives, so that a prediction is refused until the user gives it.
UNKNOWN_PEAKS = {"dimensity-9400", "snapdragon-8-gen-3"}
UNKNOWN_BANDWIDTH = {"ascend-910b"}


def near(value: float, fact: float, tolerance: float = 0.01) -> bool:
    return abs(value / fact - 1) <= tolerance


def test_every_slug_that_other_programs_rely_on_resolves() -> None:
    named = (
        "h100-sxm h100-pcie h100-nvl h200-sxm a100-sxm-40gb a100-sxm-80gb a100-pcie-80gb b200-sxm b300-sxm gb200 gb300 "
        "gh200 h20 l4 l40 l40s a10 a10g a30 a40 a6000 v100-sxm-32gb p100 t4 rtx-3090 rtx-4090 rtx-5090 rtx-pro-6000 "
        "arc-b60 max-1550 mi210 mi250 mi250x mi300x mi325x mi355x gaudi2 gaudi3 tpu-v4 tpu-v5e tpu-v5p tpu-v6e sn40l "
        "ascend-910b ascend-910c inferentia2 trainium2 m2-ultra m3-ultra m4-max snapdragon-8-elite gb10 jetson-orin "
        "jetson-thor epyc-7742 epyc-9654 xeon-8480 grace rpi-5"
    )
    for slug in named.split():
        assert device_files.find(slug).slug == slug


def test_the_catalogue_covers_what_people_deploy_on() -> None:
    expected = (
        "h100-sxm h100-pcie h200-sxm b200-sxm b300-sxm gb200 a100-sxm-40gb a100-sxm-80gb a100-pcie-80gb l40s l4 a10g"
    )
    expected += (
        " t4 v100-sxm-32gb rtx-4090 rtx-5090 rtx-pro-6000 mi250 mi300x mi325x mi355x gaudi2 gaudi3 max-1550 tpu-v6e"
    )
    assert set(expected.split()) <= set(SLUGS)
    assert len(SLUGS) >= 24


@pytest.mark.parametrize("slug", SLUGS)
def test_every_file_loads_and_is_complete(slug: str) -> None:
    device = device_files.find(slug)
    assert device.slug == slug == fold(slug)
    assert device.kind in ("gpu", "accelerator", "cpu", "soc")
    assert 2015 <= device.year <= 2027
    peaks = {"cpu": {"fp32"}, "soc": {"fp16", "fp32"}}.get(device.kind, {"bf16", "fp16", "int8"})
    if device.year < 2016:
        peaks = {"fp32"}  # half precision was no faster
    assert bool(peaks & set(device.peak_flop_per_s)) == (slug not in UNKNOWN_PEAKS)
    assert 8e9 <= device.memory_bytes <= (6e12 if device.kind == "cpu" else 6e11)
    if slug in UNKNOWN_BANDWIDTH:
        assert device.memory_bandwidth_bytes_per_s == 0
    else:
        assert (1.5e10 if device.kind in ("cpu", "soc") else 1e11) < device.memory_bandwidth_bytes_per_s < 3e13
    if device.kind == "gpu":
        assert device.scale_up is not None
        assert device.scale_up.domain >= 1
        assert device.tdp_w is not None or slug == "h800-sxm"  # an export part without a public datasheet
    if device.idle_w is not None and device.tdp_w is not None:
        assert 0.02 < device.idle_w / device.tdp_w < 0.35


@pytest.mark.parametrize("slug", SLUGS)
def test_every_value_has_a_public_source_and_every_source_is_used(slug: str) -> None:
    document = tomllib.loads((device_files.DIRECTORY / f"{slug}.toml").read_text(encoding="utf-8"))
    description = device_files.describe(slug)
    used = {value["source"] for value in description["values"]}
    assert used == set(document["sources"].values())
    for source in used:
        assert re.search(r"https?://|github\.com/|GitHub", source), source
        assert not re.search(r"(?<![\w:/.])/\w+/\w|[{}]", source), "a source is public, not a path of some machine"
        assert re.search(r"20[12]\d|@[0-9a-f]{10}", source), f"undated: {source}"
    assert set(device_files.find(slug).sources) == {value["field"] for value in description["values"]}


@pytest.mark.parametrize("slug", SLUGS)
def test_dense_peaks_stand_in_sane_proportions(slug: str) -> None:
    device = device_files.find(slug)
    peak = device.peak_flop_per_s
    wide = peak.get("bf16", peak.get("fp16", 0.0))
    if "bf16" in peak and "fp16" in peak:
        assert peak["bf16"] == BF16_FACTOR.get(slug, 1.0) * peak["fp16"]
    if "fp8" in peak:
        assert near(peak["fp8"], FP8_FACTOR.get(slug, 2.0) * wide, 0.02)
    if "nvfp4" in peak:
        # Twice fp8; the "Ultra" parts (B300, GB300) three times, GeForce four because only its fp8 is halved.
        assert "fp8" in peak
        assert 1.9 < peak["nvfp4"] / peak["fp8"] < 4.1
        assert peak["mxfp4"] == peak["nvfp4"]
    if "tf32" in peak:
        assert near(peak["tf32"], wide if slug in FULL_TF32 else wide / 2, 0.02)
    if "fp32" in peak and wide and device.kind != "soc":
        assert peak["fp32"] < wide


@pytest.mark.parametrize("slug", SLUGS)
def test_what_the_driver_reports_is_close_to_the_nameplate(slug: str) -> None:
    values = {value["field"]: value["value"] for value in device_files.describe(slug)["values"]}
    if "memory.reported" in values:
        assert 0.94 < values["memory.reported"] / values["memory.capacity"] < 1.08


@pytest.mark.parametrize("slug", SLUGS)
def test_conflicts_name_the_value_that_is_used_first(slug: str) -> None:
    description = device_files.describe(slug)
    written = {value["field"]: value["written"] for value in description["values"]}
    for field, seen in description["conflicts"].items():
        if field not in written:  # sources differ so far that none is taken
            assert slug in UNKNOWN_BANDWIDTH
            assert field == "memory.bandwidth"
            continue
        number = float(re.match(r"[\d.]+", seen[0]).group())  # type: ignore[union-attr]
        assert near(number, float(re.match(r"[\d.]+", written[field]).group()), 0.005), field  # type: ignore[union-attr]


def test_names_of_devices_do_not_collide() -> None:
    owner: dict[str, str] = {}
    for slug in SLUGS:
        device = device_files.find(slug)
        for name in {fold(slug), fold(device.name), *map(fold, device.aliases)}:
            assert owner.setdefault(name, slug) == slug, f"{name} means {owner[name]} and {slug}"
            assert device_files.find(name).slug == slug


def test_facts_of_six_devices() -> None:
    """Typed from the vendors' pages: NVIDIA H100, H200, A100, HGX B200 (dense), AMD MI300X, Intel Gaudi 2."""
    facts = {
        "h100-sxm": (989.4e12, 3.35e12, 450e9, 700),
        "h200-sxm": (989.4e12, 4.8e12, 450e9, 700),
        "a100-sxm-80gb": (312e12, 2.039e12, 300e9, 400),
        "b200-sxm": (2250e12, 7.7e12, 900e9, 1000),
        "mi300x": (1307.4e12, 5.3e12, 448e9, 750),
        "gaudi2": (432e12, 2.45e12, 262.5e9, 600),
    }
    for slug, (bf16, bandwidth, link, tdp) in facts.items():
        device = device_files.find(slug)
        assert near(device.peak_flop_per_s["bf16"], bf16, 0.001)
        assert near(device.memory_bandwidth_bytes_per_s, bandwidth, 0.001)
        assert device.scale_up is not None
        assert near(device.scale_up.bandwidth_bytes_per_s, link, 0.001)
        assert device.tdp_w == tdp
    assert device_files.find("h100-sxm").compute_units == 132
    assert device_files.find("b200-sxm").peak_flop_per_s["nvfp4"] == 9e15
    assert device_files.find("gb200").peak_flop_per_s["bf16"] == 2.5e15


def test_engines_see_the_memory_that_the_driver_reports() -> None:
    assert device_files.find("h100-sxm").memory_bytes == 81559 * 2.0**20
    assert near(device_files.find("h200-sxm").memory_bytes, 150.75e9)
    assert near(device_files.find("b200-sxm").memory_bytes, 192.3e9)
    assert device_files.find("a100-sxm-80gb").memory_bytes == 80 * GIB


def test_an_mi250_is_the_card_with_both_dies() -> None:
    device = device_files.find("mi250")
    assert device.memory_bytes == 128e9
    assert "both dies" in device_files.describe("mi250")["note"]


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("AMD EPYC 9654 96-Core Processor", "epyc-9654"),
        ("Intel(R) Xeon(R) Platinum 8480+", "xeon-8480"),
        ("Intel(R) Data Center GPU Max 1550", "max-1550"),
        ("TPU v5 lite", "tpu-v5e"),
        ("h100_sxm", "h100-sxm"),
        ("  H100-SXM ", "h100-sxm"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("a100_pcie", "a100-pcie-80gb"),
        ("NVIDIA H200", "h200-sxm"),
        ("b200_sxm", "b200-sxm"),
        ("rtx_pro_6000_server", "rtx-pro-6000"),
        ("AMD Instinct MI300X", "mi300x"),
        ("HL-225", "gaudi2"),
        ("Tesla T4", "t4"),
    ],
)
def test_vendor_strings_and_system_names_resolve(name: str, slug: str) -> None:
    assert device_files.find(name).slug == slug


def test_a_slug_reads_only_its_own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = tables.read
    device_files._shipped.cache_clear()
    device_files._aliases.cache_clear()
    monkeypatch.setattr(tables, "read", lambda path: read.append(path.name) or original(path))
    assert device_files.find("h100-sxm").vendor == "NVIDIA"
    assert read == ["h100-sxm.toml"]
    assert device_files._aliases.cache_info().currsize == 0


def test_an_unknown_device_gets_a_suggestion() -> None:
    with pytest.raises(BadRequest, match=r"unknown device 'h1000': did you mean .*'h100-sxm'"):
        device_files.find("h1000")


def test_what_no_source_gives_is_listed() -> None:
    assert device_files.describe("h100-sxm")["unknown"] == []
    assert device_files.describe("ascend-910b")["unknown"] == [
        "memory.bandwidth",
        "power.tdp",
        "link.scale_up.bandwidth",
    ]
    assert device_files.describe("dimensity-9400")["unknown"][0] == "compute.peak"
    assert device_files.describe("dgx-h100")["unknown"] == []


def test_describe_is_plain_data_with_units_sources_and_conflicts() -> None:
    description = device_files.describe("b200-sxm")
    values = {value["field"]: value for value in description["values"]}
    assert values["memory.bandwidth"]["unit"] == "bytes_per_s"
    assert values["price.per_hour"]["place"]
    assert values["price.per_hour"]["date"]
    assert any("8 TB/s" in seen for seen in description["conflicts"]["memory.bandwidth"])
    assert all(value["unit"] == FIELDS[field] for field, value in values.items())


MINE = """
slug = "mine"
name = "My chip"
vendor = "me"
architecture = "toy"
kind = "accelerator"
year = 2026
[compute.peak]
bf16 = { value = "100 TFLOP/s", source = "s" }
[memory]
capacity = { value = "64 GB", source = "s" }
bandwidth = { value = "2 TB/s", source = "s" }
[sources]
s = "design document, 2026"
"""


def mine(tmp_path: Path, text: str) -> Device:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return device_files.find(str(path))


def test_a_device_of_ones_own_is_a_path(tmp_path: Path) -> None:
    device = mine(tmp_path, MINE)
    assert (device.slug, device.memory_bytes, device.peak_flop_per_s) == ("mine", 64e9, {"bf16": 1e14})
    assert device.scale_up is None
    assert device_files.cluster(f"4x{tmp_path / 'mine.toml'}").num_devices == 4


def test_host_drives_and_an_engine_near_memory_are_read(tmp_path: Path) -> None:
    tables = """
[host]
memory = { value = "480 GB", source = "s" }
bandwidth = { value = "384 GB/s", source = "s" }
peak.fp32 = { value = "7 TFLOP/s", source = "s" }
[storage]
capacity = { value = "4 TB", source = "s" }
bandwidth = { value = "7 GB/s", source = "s" }
[near_memory]
bandwidth = { value = "8 TB/s", source = "s" }
peak.bf16 = { value = "50 TFLOP/s", source = "s" }
[sources]"""
    device = mine(tmp_path, MINE.replace("\n[sources]", tables))
    assert device.host_tier == HostTier(
        memory_bytes=480e9,
        memory_bandwidth_bytes_per_s=384e9,
        peak_flop_per_s={"fp32": 7e12},
        storage_bytes=4e12,
        storage_bandwidth_bytes_per_s=7e9,
    )
    assert device.near_memory == NearMemory(bandwidth_bytes_per_s=8e12, peak_flop_per_s={"bf16": 5e13})
    assert mine(tmp_path, MINE).host_tier is None


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("bandwidth =", "bandwith =", "unknown field 'memory.bandwith'"),
        ("year = 2026", "year = 2026\ncolour = 'red'", "unknown key 'colour'"),
        ('"2 TB/s", source = "s"', '"2 TB/s", source = "t"', "does not explain"),
        ('"2 TB/s", source = "s"', '"2 TB/s"', "has to be a table of"),
        ('"2 TB/s", source = "s"', '"2 TB/s", source = "s", sparse = true', "has to be a table of"),
        ('"2 TB/s"', '"2 TB"', "does not measure"),
        ('"2 TB/s"', '"-2 TB/s"', "has to be positive"),
        ('"2 TB/s"', "nan", "finite"),
        ('"2 TB/s"', "[1]", "a number or a text"),
        ('"2 TB/s", source = "s"', '"2 TB/s", source = ["s"]', "has to be a text"),
        ('{ value = "64 GB", source = "s" }', "64", "has to be a table of"),
        ("year = 2026", "aliases = 7\nyear = 2026", "aliases"),
        (
            "[memory]",
            "[link.scale_up]\ndomain = { value = 8, source = 's' }\n[memory]",
            "link.scale_up.bandwidth is missing",
        ),
        ('s = "design document, 2026"', "s = 7", "does not explain"),
        ("[memory]", "[memory", "not TOML"),
        ("[compute.peak]", "[conflicts]\nbogus = ['1']\n[compute.peak]", "unknown field 'bogus'"),
        ("[compute.peak]", "[conflicts]\n'memory.bandwidth' = 3\n[compute.peak]", "list of texts"),
    ],
)
def test_a_file_that_breaks_the_layout_is_refused_by_key(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in MINE
    with pytest.raises(BadRequest, match=re.escape(complaint)) as caught:
        mine(tmp_path, MINE.replace(old, new, 1))
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_huge_or_binary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="cannot read"):
        device_files.find(str(tmp_path / "absent.toml"))
    with pytest.raises(BadRequest, match="larger than"):
        mine(tmp_path, MINE + "#" * 100_000)
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    with pytest.raises(BadRequest, match="not TOML"):
        device_files.find(str(tmp_path / "binary.toml"))
    with pytest.raises(BadRequest, match="not TOML"):
        mine(tmp_path, "a = " + "[" * 30_000)
    with pytest.raises(BadRequest, match="cannot read"):
        device_files.find("nul\0byte.toml")


# What others measured -------------------------------------------------------------------------------------------------

MEASURED = [
    slug for slug in SLUGS if any(v["field"].startswith("measured.") for v in device_files.describe(slug)["values"])
]


def test_a_dozen_devices_say_what_was_measured_on_them() -> None:
    assert len(MEASURED) >= 12


@pytest.mark.parametrize("slug", MEASURED)
def test_measured_products_stay_below_the_datasheet_and_near_words_come_sooner(slug: str) -> None:
    """The fastest product that a search found is below the dense peak, and above half of it: a peak that is too high shows."""
    device = device_files.find(slug)
    found = {value["field"]: value for value in device_files.describe(slug)["values"]}
    cycles = [
        float(found[f"measured.cycles.{level}"]["written"]) for level in LEVELS if f"measured.cycles.{level}" in found
    ]
    assert cycles == sorted(cycles)
    assert len(cycles) in (0, 3)
    for name, value in found.items():
        if name.startswith("measured.matmul."):
            rate = units.parse(value["written"], "flop_per_s")
            assert 0.5 < rate / device.peak_flop_per_s[name.rpartition(".")[2]] < 1.0, name
            assert "m x n x k" in value["note"]


def test_what_was_measured_is_no_property_to_change() -> None:
    with pytest.raises(BadRequest, match=r"measured\.matmul\.bf16"):
        device_files.edit(device_files.find("h100-sxm"), "measured.matmul.bf16=x2")
