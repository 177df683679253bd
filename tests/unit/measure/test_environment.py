"""The environment of a run: what is in it, what is not, and when two of them agree."""

from __future__ import annotations

import copy
import getpass
import json
import os
import platform
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gemmstone.core.errors import MissingBackend
from gemmstone.measure import environment as environments
from gemmstone.measure import machine, software
from gemmstone.measure.environment import differences, environment, fingerprint, matters, noted


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n", encoding="utf-8")
    return root


CPU = "sys/devices/system/cpu"
SERVER = {
    "proc/cpuinfo": "\n".join(
        (
            "processor\t: 0",
            "vendor_id\t: GenuineIntel",
            "cpu family\t: 6",
            "model\t\t: 143",
            "model name\t: Intel(R) Xeon(R) Platinum 8480+",
            "stepping\t: 8",
            "flags\t\t: fpu sse4_2 avx avx2 fma avx512f amx_bf16 hypervisor",
            "",
            "processor\t: 1",
            "model name\t: another",
        )
    ),
    "proc/meminfo": "MemTotal:       24684096 kB\nMemFree: 1 kB",
    f"{CPU}/cpu0/topology/physical_package_id": "0",
    f"{CPU}/cpu1/topology/physical_package_id": "1",
    f"{CPU}/smt/active": "1",
    f"{CPU}/cpu0/cache/index0/level": "1",
    f"{CPU}/cpu0/cache/index0/type": "Data",
    f"{CPU}/cpu0/cache/index0/size": "48K",
    f"{CPU}/cpu0/cache/index3/level": "3",
    f"{CPU}/cpu0/cache/index3/type": "Unified",
    f"{CPU}/cpu0/cache/index3/size": "105M",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "performance",
    f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "2000000",
    f"{CPU}/intel_pstate/no_turbo": "0",
    "sys/devices/system/node/node0/x": "",
    "sys/devices/system/node/node1/x": "",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    "proc/sys/vm/nr_hugepages": "4",
    "proc/sys/vm/swappiness": "60",
    "proc/loadavg": "3.47 1.2 0.9 1/200 4711",
}


def test_hardware_of_a_made_up_server(tmp_path: Path) -> None:
    found = machine.hardware(tree(tmp_path, SERVER))
    assert found["cpu"]["name"] == "Intel(R) Xeon(R) Platinum 8480+"
    assert (found["cpu"]["family"], found["cpu"]["model"], found["cpu"]["stepping"]) == (6, 143, 8)
    assert (found["cpu"]["sockets"], found["cpu"]["smt"]) == (2, True)
    assert found["cpu"]["isa"] == ["sse4_2", "avx", "avx2", "fma", "avx512f", "amx_bf16"]
    assert found["caches"] == {"l1d": 48 << 10, "l3": 105 << 20}
    assert found["memory_bytes"] == 24684096 * 1024
    assert found["numa_nodes"] == 2


def test_an_arm_server_spells_its_numbers_in_hexadecimal(tmp_path: Path) -> None:
    lines = ("Features\t: fp asimd sve2 i8mm", "CPU implementer\t: 0x41", "CPU architecture: 8", "CPU part\t: 0xd4f")
    found = machine.hardware(tree(tmp_path, {"proc/cpuinfo": "\n".join(lines)}))["cpu"]
    assert (found["vendor"], found["family"], found["model"]) == ("0x41", 8, 0xD4F)
    assert found["isa"] == ["asimd", "i8mm", "sve2"]


def test_state_of_a_made_up_server(tmp_path: Path) -> None:
    found = machine.state(tree(tmp_path, SERVER))
    assert found == {
        "governor": "performance",
        "turbo": True,
        "transparent_hugepages": "madvise",
        "hugepages": 4,
        "swappiness": 60,
        "clock_hz": [2e9, 2e9],
        "load_average": 3.47,
        "virtualised": True,
        "container": False,
    }


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    found = {"hardware": machine.hardware(tmp_path), "state": machine.state(tmp_path)}
    assert found["hardware"]["memory_bytes"] is None
    assert found["hardware"]["cpu"]["sockets"] is None
    assert found["state"]["turbo"] is None
    assert found["state"]["virtualised"] is None


GROUPS = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "quota", "limit"),
    [
        ({}, None, None),
        # version 2: the least on the way up counts
        (
            {
                "proc/self/cgroup": "0::/kube/pod",
                f"{GROUPS}/kube/pod/cpu.max": "400000 100000",
                f"{GROUPS}/kube/cpu.max": "150000 100000",
                f"{GROUPS}/kube/pod/memory.max": "max",
                f"{GROUPS}/memory.max": "8589934592",
            },
            1.5,
            8 << 30,
        ),
        ({"proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "max 100000"}, None, None),
        # a container whose path is the host's
        ({"proc/self/cgroup": "0::/docker/abc", f"{GROUPS}/cpu.max": "200000 100000"}, 2.0, None),
        # version 1
        (
            {
                "proc/self/cgroup": "5:memory:/a\n3:cpu,cpuacct:/a\n0::/",
                f"{GROUPS}/cpu,cpuacct/a/cpu.cfs_quota_us": "250000",
                f"{GROUPS}/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
                f"{GROUPS}/memory/a/memory.limit_in_bytes": "1073741824",
                f"{GROUPS}/memory/memory.limit_in_bytes": "9223372036854771712",
            },
            2.5,
            1 << 30,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/",
                f"{GROUPS}/cpu/cpu.cfs_quota_us": "-1",
                f"{GROUPS}/cpu/cpu.cfs_period_us": "100000",
            },
            None,
            None,
        ),
        # nonsense, and a path that leads out
        ({"proc/self/cgroup": "0::/../../..\n:::\nx", f"{GROUPS}/cpu.max": "lots 0"}, None, None),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path, files: dict[str, str], quota: float | None, limit: int | None
) -> None:
    found = machine.limits(tree(tmp_path, files))
    assert found["cpu_quota"] == quota
    assert found["memory_bytes"] == limit
    assert found["usable_cores"] == (found["cores"] if quota is None else min(found["cores"], quota))


def test_gpus_with_what_their_times_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise RuntimeError("Not Supported")

    fake = SimpleNamespace(
        NVML_CLOCK_SM=1,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: b"NVIDIA H100 80GB HBM3",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=85520809984),
        nvmlSystemGetDriverVersion=lambda: "570.86.15",
        nvmlDeviceGetVbiosVersion=lambda handle: "96.00.99.00.01",
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 700000,
        nvmlDeviceGetMaxClockInfo=lambda handle, kind: 1980,
        nvmlDeviceGetEccMode=lambda handle: [1, 1],
        nvmlDeviceGetMigMode=unknown,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.gpus() == [
        {
            "name": "NVIDIA H100 80GB HBM3",
            "memory_bytes": 85520809984,
            "driver": "570.86.15",
            "vbios": "96.00.99.00.01",
            "power_limit_w": 700.0,
            "max_clock_hz": 1.98e9,
            "ecc": True,
            "mig": None,
        }
    ]


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    assert machine.gpus() == []


def test_amd_devices_with_what_their_board_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(handle: str) -> None:
        raise RuntimeError("AMDSMI_STATUS_NOT_SUPPORTED")

    fake = SimpleNamespace(
        amdsmi_init=lambda: None,
        amdsmi_get_processor_handles=lambda: ["first"],
        amdsmi_get_gpu_asic_info=lambda handle: {"market_name": "AMD Instinct MI300X", "asic_serial": "0xDEADBEEF"},
        amdsmi_get_gpu_vram_usage=lambda handle: {"vram_total": 196_592},
        amdsmi_get_gpu_driver_info=lambda handle: {"driver_version": "6.12.12"},
        amdsmi_get_gpu_vbios_info=lost,
        amdsmi_get_power_cap_info=lambda handle: {"power_cap": 750_000_000},
    )
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "amdsmi", fake)
    (found,) = machine.gpus()
    assert (found["name"], found["driver"], found["vbios"]) == ("AMD Instinct MI300X", "6.12.12", None)
    assert (found["memory_bytes"], found["power_limit_w"]) == (196_592 << 20, 750.0)
    assert "DEADBEEF" not in str(found)


def test_software_has_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(software, "backend", lambda name: SimpleNamespace(version=lambda: "9.9"))
    found = software.software(("numpy",))
    assert found["numpy"] == np.__version__
    assert found["python"].endswith(platform.python_version())
    assert found["backends"] == {"numpy": "9.9"}
    assert found["blas"]


def test_a_backend_that_is_not_there_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise MissingBackend("install it")

    monkeypatch.setattr(software, "backend", missing)
    assert software.software(("triton",))["backends"] == {"triton": None}


def test_what_numpy_was_built_with_has_no_path_in_it() -> None:
    built = {
        "Build Dependencies": {"blas": {"name": "openblas", "version": "0.3.31 /opt/x", "lib directory": "/home/a"}}
    }
    assert software._built_with(built) == "openblas 0.3.31"
    assert software._built_with({}) is None
    assert software._built_with(None) is None


def here() -> dict[str, Any]:
    return environment(clock=lambda: 3.675e9)


def test_it_is_plain_data() -> None:
    found = here()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == {"hardware", "software", "limits", "state"}
    assert found["state"]["effective_clock_hz"] == 3.675e9


def test_it_says_nothing_of_whose_machine_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, paths and variables of this machine, those made up for the test among them."""
    monkeypatch.setenv("GEMMSTONE_SECRET", "hunter2-and-more")
    monkeypatch.setattr(platform, "node", lambda: "secrethost.example.com")
    told = json.dumps(here())
    own = {platform.uname().node, os.uname().nodename, str(Path.home()), str(Path.cwd()), sys.prefix, sys.executable}
    own |= {"secrethost", "hunter2-and-more"}
    own |= {value for value in os.environ.values() if len(value) > 8 and not re.fullmatch(r"[\w.+-]*\d[\w.+-]*", value)}
    user = getpass.getuser()
    assert [word for word in own if len(word) > 2 and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", told)] == []
    assert not re.search(rf'"{re.escape(user)}"', told)
    assert not re.search(r'[" ]/[a-z]+/', told)  # no path


def test_the_same_machine_twice_agrees() -> None:
    one, other = here(), here()
    assert fingerprint(one) == fingerprint(other)
    assert differences(one, other) == []


def test_what_was_written_and_read_again_agrees() -> None:
    """JSON has no tuples, and numbers may come back as fractions."""
    found = here()
    again = json.loads(json.dumps(found))
    again["limits"]["cores"] = float(again["limits"]["cores"])
    assert fingerprint(again) == fingerprint(found)
    assert differences(found, again) == []


def test_another_version_matters_and_another_load_does_not() -> None:
    one, other = here(), here()
    one["software"]["torch"], other["software"]["torch"] = "2.12.0", "2.13.0"
    one["state"]["load_average"], other["state"]["load_average"] = 0.1, 7.5
    other["software"]["kernel"] = "5.15.0"
    assert differences(one, other) == ["software.torch: 2.12.0 and 2.13.0"]
    assert "state.load_average: 0.1 and 7.5" in noted(one, other)
    assert len(noted(one, other)) == 2
    assert fingerprint(one) != fingerprint(other)
    other["software"]["torch"] = "2.12.0"
    assert fingerprint(one) == fingerprint(other)


def test_what_one_of_them_lacks_is_a_difference() -> None:
    one, other = here(), here()
    one["hardware"]["gpus"], other["hardware"]["gpus"] = [{"name": "NVIDIA H100", "driver": "570.86"}], []
    assert differences(one, other) == [
        "hardware.gpus.0.driver: 570.86 and none",
        "hardware.gpus.0.name: NVIDIA H100 and none",
    ]
    assert differences({}, {}) == []


def test_clocks_far_apart_are_a_difference_and_near_ones_are_not() -> None:
    one, near, far = here(), here(), here()
    near["state"]["effective_clock_hz"], far["state"]["effective_clock_hz"] = 3.6e9, 2.6e9
    assert differences(one, near) == []
    assert noted(one, near) == ["state.effective_clock_hz: 3675000000 and 3600000000"]
    assert differences(one, far) == ["state.effective_clock_hz: 3.67 GHz and 2.60 GHz"]
    assert noted(one, far) == []


def test_hostile_environments_are_bounded() -> None:
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"a": deep}
    wide = {"software": {str(index): index for index in range(100_000)}}
    long = {"software": {"torch": "x" * 1_000_000}}
    assert differences(deep, {}) == []
    assert len(differences(wide, {})) <= environments.MOST_FACTS
    assert all(len(line) < 300 for line in differences(long, {"software": {"torch": "y"}}))
    assert differences({"software": [1, 2], "state": 5}, {"software": [1, 2], "state": 5}) == []  # type: ignore[dict-item]


def test_every_noted_fact_is_one_that_is_told() -> None:
    found = copy.deepcopy(here())
    for name in environments.NOTED:
        part: Any = found
        for key in name.split("."):
            assert key in part, name
            part = part[key]
        assert not matters(name)
    assert matters("software.numpy")
    assert matters("state.governor")
