"""What is watched while something is measured, against made-up trees of /proc and /sys."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gemmstone.core.measurement import Conditions
from gemmstone.measure import conditions
from gemmstone.measure.conditions import Watch, disturbed, watching

TICKS = os.sysconf("SC_CLK_TCK")
COUNTED = "proc/self/counted"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n", encoding="utf-8")
    return root


def stat(user: float = 0, nice: float = 0, system: float = 0, idle: float = 0, steal: float = 0) -> str:
    """/proc/stat in seconds of all processors; guests are counted in user, so they stand for nothing of their own."""
    fields = (user, nice, system, idle, 0, 0, 0, steal, 99, 99)
    return "cpu  " + " ".join(f"{field * TICKS:.0f}" for field in fields) + "\ncpu0 1 2 3"


def pressure(some_us: int) -> str:
    return f"some avg10=0.68 avg60=0.82 avg300=0.74 total={some_us}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7"


def watched(root: Path, seconds: float, later: dict[str, str], device: str = "cpu") -> Conditions:
    now = [50.0]
    with Watch(device, root=root, clock=lambda: now[0]) as watch:
        now[0] += seconds
        tree(root, later)
    return watch.conditions


@pytest.fixture
def idle_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process spends nothing, so that all that is busy is others'."""
    monkeypatch.setattr(conditions, "_own_s", lambda root: 0.0)


@pytest.mark.usefixtures("idle_process")
def test_stolen_and_used_by_others_are_shares_of_all_processors(tmp_path: Path) -> None:
    """Two processors for 10 s: 2.4 s stolen of 20, 5 s at work."""
    root = tree(tmp_path, {"proc/stat": stat(user=100, nice=3, system=20, idle=500, steal=4)})
    found = watched(root, 10.0, {"proc/stat": stat(user=103, nice=4, system=21, idle=512.6, steal=6.4)})
    assert found.steal_frac == pytest.approx(0.12)
    assert found.other_cpu_frac == pytest.approx(0.25)
    assert found.elapsed_s == 10.0
    assert disturbed(found) == "other processes used 25% of the processor"


def test_what_this_process_and_its_children_spent_is_not_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 of 20 processor-seconds busy, of which this process had 3 and a child of its own 4."""
    process = os.getpid()
    root = tree(tmp_path, {"proc/stat": stat(idle=100)})
    children = {f"proc/{process}/task/{process}/children": "4711 "}

    def child(seconds: float) -> dict[str, str]:
        # comm may hold blanks and brackets
        name = "4711 (a) b) S 1 1 1 0 -1 4194304 1 2 3 4"
        return {"proc/4711/stat": f"{name} {seconds * TICKS:.0f} 0 0 0 20 0 1 0"}

    tree(root, {**children, **child(10.0)})
    spent = iter([100.0, 103.0])
    monkeypatch.setattr(conditions.time, "process_time", lambda: next(spent))
    monkeypatch.setattr(conditions.os, "times", lambda: SimpleNamespace(children_user=1.0, children_system=2.0))
    found = watched(root, 10.0, {"proc/stat": stat(user=8, idle=112), **child(14.0)})
    assert found.other_cpu_frac == pytest.approx(1.0 / 20.0)


@pytest.mark.usefixtures("idle_process")
def test_pressure_is_microseconds_of_waiting_over_time(tmp_path: Path) -> None:
    before = {f"proc/pressure/{name}": pressure(12_910_853_965) for name in ("cpu", "memory", "io")}
    after = {
        "proc/pressure/cpu": pressure(12_910_853_965 + 4_000_000),
        "proc/pressure/memory": pressure(12_910_853_965 + 1_000_000),
        "proc/pressure/io": pressure(12_910_853_965),
    }
    found = watched(tree(tmp_path, before), 10.0, after)
    assert (found.cpu_pressure_frac, found.memory_pressure_frac, found.io_pressure_frac) == (0.4, 0.1, 0.0)
    assert disturbed(found) == "tasks waited for memory 10% of the time"


@pytest.mark.usefixtures("idle_process")
def test_what_the_system_does_not_tell_is_none_and_not_zero(tmp_path: Path) -> None:
    found = watched(tmp_path, 10.0, {})
    assert found.steal_frac is None
    assert found.other_cpu_frac is None
    assert found.cpu_pressure_frac is None
    assert found.memory_pressure_frac is None
    assert found.io_pressure_frac is None
    assert found.clock_hz is None
    assert found.temperature_c is None
    assert disturbed(found) == ""


@pytest.mark.usefixtures("idle_process")
@pytest.mark.parametrize(
    "files",
    [
        {"proc/stat": "cpu  a b c d e f g h", "proc/pressure/cpu": "some avg10=0.00 total=-4"},
        {"proc/stat": "cpu  1 2 3", "proc/pressure/cpu": "none"},
        {"proc/stat": "", "proc/pressure/cpu": "", "proc/cpuinfo": "cpu MHz : fast"},
    ],
)
def test_files_of_nonsense_tell_nothing(tmp_path: Path, files: dict[str, str]) -> None:
    found = watched(tree(tmp_path, files), 10.0, files)
    assert found.steal_frac is None
    assert found.cpu_pressure_frac is None
    assert found.clock_hz is None


@pytest.mark.usefixtures("idle_process")
def test_ticks_tell_nothing_of_a_moment(tmp_path: Path) -> None:
    """In 50 ms a processor has five ticks."""
    root = tree(tmp_path, {"proc/stat": stat(idle=100)})
    assert watched(root, 0.05, {"proc/stat": stat(user=0.05, idle=100.05)}).other_cpu_frac is None
    root = tree(tmp_path, {"proc/stat": stat(idle=100)})
    assert watched(root, 0.2, {"proc/stat": stat(user=0.2, idle=100.2)}).other_cpu_frac == pytest.approx(0.5)


@pytest.mark.usefixtures("idle_process")
def test_clocks_are_the_slowest_and_fastest_seen_at_any_look(tmp_path: Path) -> None:
    clock = "sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
    root = tree(tmp_path, {clock.format(0): "3400000", clock.format(1): "3300000", "proc/cpuinfo": "cpu MHz : 1"})
    with watching(root=root) as watch:
        tree(root, {clock.format(1): "2100000"})
        watch.look()
        tree(root, {clock.format(1): "3300000"})
    assert watch.conditions.clock_hz == (2.1e9, 3.4e9)
    assert disturbed(watch.conditions) == "the clock went between 2.10 and 3.40 GHz"


@pytest.mark.usefixtures("idle_process")
def test_clocks_without_cpufreq_are_those_of_cpuinfo(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/cpuinfo": "cpu MHz\t\t: 2596.134\n\ncpu MHz\t\t: 2600.000"})
    assert watched(root, 1.0, {}).clock_hz == (2596.134e6, 2.6e9)


@pytest.mark.usefixtures("idle_process")
def test_temperature_and_thermal_slowdown_of_a_processor(tmp_path: Path) -> None:
    throttled = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    zones = {"sys/class/thermal/thermal_zone0/type": "acpitz", "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp"}
    heat = {"sys/class/thermal/thermal_zone1/temp": "91000", throttled: "5"}
    found = watched(tree(tmp_path, {**zones, **heat}), 1.0, {throttled: "6"})
    assert found.temperature_c == 91.0
    assert found.throttled == "thermal limit"
    assert disturbed(found) == "the device was slowed: thermal limit"


@pytest.mark.usefixtures("idle_process")
def test_temperature_of_processors_that_have_it_in_hwmon(tmp_path: Path) -> None:
    files = {"sys/class/hwmon/hwmon1/name": "k10temp", "sys/class/hwmon/hwmon1/temp1_input": "66500"}
    assert watched(tree(tmp_path, files), 1.0, {}).temperature_c == 66.5


@pytest.mark.usefixtures("idle_process")
def test_a_gpu_is_asked_through_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks, reasons = iter([1980, 1410]), iter([0x1, 0x4 | 0x40])
    fake = SimpleNamespace(
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetClockInfo=lambda handle, kind: next(clocks),
        nvmlDeviceGetTemperature=lambda handle, kind: 84,
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: next(reasons),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    conditions._gpu.cache_clear()
    try:
        found = watched(tmp_path, 1.0, {}, "cuda:0")
    finally:
        conditions._gpu.cache_clear()
    assert found.clock_hz == (1.41e9, 1.98e9)
    assert found.temperature_c == 84
    assert found.throttled == "power limit, hardware thermal limit"


def test_this_machine_is_watched() -> None:
    """Real files, whatever they tell: all shares are shares."""
    with watching() as watch:
        for _ in range(100_000):
            pass
    found = watch.conditions
    assert found.elapsed_s > 0
    for share in (found.steal_frac, found.other_cpu_frac, found.cpu_pressure_frac, found.io_pressure_frac):
        assert share is None or 0.0 <= share <= 1.0
    assert found.involuntary_switches is not None
    assert found.involuntary_switches >= 0


@pytest.mark.parametrize(
    ("found", "phrase"),
    [
        (Conditions(elapsed_s=1), ""),
        (Conditions(steal_frac=0.02, other_cpu_frac=0.04, cpu_pressure_frac=0.2, io_pressure_frac=0.2), ""),
        (Conditions(steal_frac=0.12, other_cpu_frac=0.06), "12% of the processor was stolen by the hypervisor"),
        (Conditions(steal_frac=0.03, other_cpu_frac=0.5), "other processes used 50% of the processor"),
        (Conditions(cpu_pressure_frac=0.4), "tasks waited for a processor 40% of the time"),
        (Conditions(io_pressure_frac=0.4), "tasks waited for storage 40% of the time"),
        (Conditions(clock_hz=(3.3e9, 3.4e9)), ""),
    ],
)
def test_one_phrase_says_what_disturbs_most(found: Conditions, phrase: str) -> None:
    assert disturbed(found) == phrase
