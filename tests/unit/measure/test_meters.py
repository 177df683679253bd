"""Every meter against made-up trees of files, modules and commands: what it reads, and why it does not."""

from __future__ import annotations

import math
import os
import stat
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.measure import meters
from gemmstone.measure.meters import METERS, acpi, amdsmi, battery, ipmi, modelled, nvml, rapl
from gemmstone.measure.meters.window import Meter, Unreadable, Window
from gemmstone.predict.node import processor_w


def tree(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n", encoding="utf-8")
    return root


def over(meter: Meter, seconds: float, between: Any = lambda: None) -> Window:
    """A window of a made-up length, with something done in the middle."""
    now = [0.0]
    with Window(meter, clock=lambda: now[0], background=False) as opened:
        between()
        now[0] = seconds
    return opened


# --- RAPL ---------------------------------------------------------------------------------------------------------

PACKAGE, MEMORY = "sys/class/powercap/intel-rapl:0", "sys/class/powercap/intel-rapl:0:2"
RAPL = {
    f"{PACKAGE}/name": "package-0",
    f"{PACKAGE}/energy_uj": 262_143_000_000,
    f"{PACKAGE}/max_energy_range_uj": 262_143_328_850,
    f"{MEMORY}/name": "dram",
    f"{MEMORY}/energy_uj": 5_000_000,
    f"{MEMORY}/max_energy_range_uj": 65_712_999_613,
    "sys/class/powercap/intel-rapl:0:0/name": "core",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": 1,
    "sys/class/powercap/intel-rapl:1/name": "psys",
    "sys/class/powercap/intel-rapl:1/energy_uj": 1,
    "sys/class/powercap/intel-rapl-mmio:0/name": "package-0",
    "sys/class/powercap/intel-rapl-mmio:0/energy_uj": 1,
}


def test_rapl_adds_package_and_memory_and_goes_on_where_a_counter_starts_over(tmp_path: Path) -> None:
    """0.32885 J are left of the package's range; 99.67115 J after it, and 20 J of memory: 120 J in 2 s."""
    root = tree(tmp_path, RAPL)
    meter = rapl.find("cpu", root=root)
    assert [sensor.name for sensor in meter.sensors] == ["package-0", "dram"]
    assert meter.scope == "package and memory"
    later = {f"{PACKAGE}/energy_uj": 99_671_150, f"{MEMORY}/energy_uj": 25_000_000}
    found = over(meter, 2.0, lambda: tree(root, later))
    assert found.power is not None
    assert found.power.energy_j == pytest.approx(120.0)
    assert found.power.source == "measured"


def test_rapl_answers_windows_of_twenty_milliseconds_and_looks_twice_a_round(tmp_path: Path) -> None:
    meter = rapl.find("cpu", root=tree(tmp_path, RAPL))
    assert meter.shortest_s == pytest.approx(0.02)
    # the shorter of the two ranges, at the most watts a package has
    assert meter.poll_s == pytest.approx(65_712.999613 / rapl.MOST_W / 2)


def test_rapl_leaves_out_memory_that_is_shown_and_not_counted(tmp_path: Path) -> None:
    meter = rapl.find("cpu", root=tree(tmp_path, {**RAPL, f"{MEMORY}/energy_uj": 0}))
    assert [sensor.name for sensor in meter.sensors] == ["package-0"]
    assert meter.scope == "package"


def test_rapl_counts_the_packages_of_two_sockets(tmp_path: Path) -> None:
    second = {
        f"sys/class/powercap/intel-rapl:1/{name}": value
        for name, value in (("name", "package-1"), ("energy_uj", 7), ("max_energy_range_uj", 262_143_328_850))
    }
    meter = rapl.find("cpu", root=tree(tmp_path, {**RAPL, **second}))
    assert [sensor.name for sensor in meter.sensors] == ["package-0", "dram", "package-1"]
    assert meter.note == "2 packages"


def test_rapl_says_that_root_alone_may_read_it(tmp_path: Path) -> None:
    root = tree(tmp_path, RAPL)
    (root / PACKAGE / "energy_uj").unlink()
    (root / PACKAGE / "energy_uj").mkdir()  # no more readable, for root as well
    with pytest.raises(MissingBackend, match="only root may read RAPL: sudo chmod"):
        rapl.find("cpu", root=root)


def test_rapl_that_becomes_unreadable_or_garbage_refuses(tmp_path: Path) -> None:
    root = tree(tmp_path, RAPL)
    meter = rapl.find("cpu", root=root)
    assert over(meter, 2.0, lambda: tree(root, {f"{PACKAGE}/energy_uj": "?"})).why == (
        "rapl: package-0 can no longer be read"
    )
    tree(root, RAPL)
    assert over(meter, 2.0, lambda: tree(root, {f"{PACKAGE}/energy_uj": -5})).why == "rapl: package-0 shows -5e-06"
    tree(root, RAPL)
    assert over(meter, 2.0).why == "rapl: package-0 stood still for 2 s"


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "Linux shows no RAPL here"),
        ({"sys/class/powercap/intel-rapl:1/name": "psys"}, "RAPL shows no package here"),
        ({f"{PACKAGE}/name": "package-0", f"{PACKAGE}/energy_uj": 1}, "does not say where its counter starts over"),
    ],
)
def test_rapl_that_is_not_there(tmp_path: Path, files: dict[str, object], why: str) -> None:
    with pytest.raises(MissingBackend, match=why):
        rapl.find("cpu", root=tree(tmp_path, files))


# --- NVML ---------------------------------------------------------------------------------------------------------


class FakeNvml:
    """The functions of NVML that are asked; a board that knows `known` of energy, instant, average."""

    NVML_FI_DEV_POWER_INSTANT = 186
    NVML_SUCCESS = 0

    def __init__(self, *known: str, energy_mj: float = 1e6, mig: int = 0) -> None:
        self.known, self.energy_mj, self.mig, self.lost = known, energy_mj, mig, False

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"board {index}"

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        return f"board of {name}"

    def nvmlDeviceGetMigMode(self, board: str) -> list[int]:
        return [self.mig, self.mig]

    def _answer(self, name: str, value: float) -> float:
        if self.lost:
            raise RuntimeError("GPU is lost")
        if name not in self.known:
            raise RuntimeError("Not Supported")
        return value

    def nvmlDeviceGetTotalEnergyConsumption(self, board: str) -> float:
        return self._answer("energy", self.energy_mj)

    def nvmlDeviceGetFieldValues(self, board: str, fields: list[int]) -> list[Any]:
        assert fields == [186]
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=self._answer("instant", 321_000)))]

    def nvmlDeviceGetPowerUsage(self, board: str) -> float:
        return self._answer("average", 300_000)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("no_torch")
def test_nvml_takes_the_counter_of_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml("energy", "instant", "average")
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    meter = nvml.find("cuda:1")
    assert meter.shortest_s == pytest.approx(2.0)
    assert meter.poll_s == math.inf  # the counter never starts over: its ends are enough

    def work() -> None:
        fake.energy_mj += 7_000_000.0

    found = over(meter, 10.0, work)
    assert found.power is not None
    assert (found.power.energy_j, found.power.mean_w, found.power.scope) == (7000.0, 700.0, "board")


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(
    ("known", "watts", "shortest_s"), [(("instant", "average"), 321.0, 2.0), (("average",), 300.0, 20.0)]
)
def test_nvml_without_a_counter_reads_watts(
    monkeypatch: pytest.MonkeyPatch, known: tuple[str, ...], watts: float, shortest_s: float
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(*known))
    meter = nvml.find("cuda")
    (sensor,) = meter.sensors
    assert not sensor.counts
    assert sensor.read() == watts
    assert meter.shortest_s == pytest.approx(shortest_s)


@pytest.mark.usefixtures("no_torch")
def test_nvml_of_a_board_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml("energy")
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    found = over(nvml.find("cuda:0"), 10.0, lambda: setattr(fake, "lost", True))
    assert found.power is None
    assert found.why == "nvml: the device does not answer: GPU is lost"


@pytest.mark.usefixtures("no_torch")
def test_nvml_of_a_driver_that_was_loaded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml("energy")
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    found = over(nvml.find("cuda:0"), 10.0, lambda: setattr(fake, "energy_mj", 5.0))
    assert found.why == "nvml: energy counter went backwards: its driver was loaded anew"


@pytest.mark.usefixtures("no_torch")
def test_nvml_says_that_it_sees_all_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("energy", mig=1))
    assert nvml.find("cuda:0").note == "the whole board, with all instances on it"


@pytest.mark.usefixtures("no_torch")
def test_nvml_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    with pytest.raises(MissingBackend, match="the device has no meter: the device does not answer: Not Supported"):
        nvml.find("cuda:0")
    with pytest.raises(MissingBackend, match="cuda:2: NVML sees 2 devices"):
        nvml.find("cuda:2")
    with pytest.raises(MissingBackend, match=r"called cuda:N, not 'cuda:x'"):
        nvml.find("cuda:x")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingBackend, match=r"gemmstone\[nvidia\]"):
        nvml.find("cuda:0")


def test_nvml_takes_the_board_that_cuda_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's first device may be another than NVML's: the unique name tells."""
    fake = FakeNvml("energy")
    asked: list[str] = []
    monkeypatch.setattr(fake, "nvmlDeviceGetTotalEnergyConsumption", lambda board: asked.append(board) or 1.0)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bb,GPU-aa")
    nvml.find("cuda:1")
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        get_device_properties=lambda index: SimpleNamespace(uuid=f"of torch {index}"),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    nvml.find("cuda:1")
    assert asked == ["board of GPU-aa", "board of GPU-of torch 1"]


def test_nvml_of_an_instance_asks_its_board(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml("energy", mig=1)
    asked: list[str] = []
    monkeypatch.setattr(fake, "nvmlDeviceGetTotalEnergyConsumption", lambda board: asked.append(board) or 1.0)
    monkeypatch.setattr(
        fake, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", lambda found: f"parent of {found}", raising=False
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-cc")
    nvml.find("cuda:0")
    assert asked == ["parent of board of MIG-cc"]


# --- AMD SMI ------------------------------------------------------------------------------------------------------


def smi(**fields: object) -> SimpleNamespace:
    return SimpleNamespace(
        amdsmi_init=lambda: None,
        amdsmi_get_processor_handles=lambda: ["first", "second"],
        amdsmi_get_power_info=lambda handle: fields,
    )


def test_amdsmi_takes_the_first_field_that_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "amdsmi", smi(current_socket_power="N/A", average_socket_power=412))
    meter = amdsmi.find("cuda:1")
    assert meter.sensors[0].read() == 412.0
    assert meter.poll_s == pytest.approx(0.1)


def test_amdsmi_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "amdsmi", smi(current_socket_power="N/A", average_socket_power=0))
    with pytest.raises(MissingBackend, match="does not tell its power"):
        amdsmi.find("cuda:0")
    with pytest.raises(MissingBackend, match="AMD SMI sees 2 devices"):
        amdsmi.find("cuda:2")
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    with pytest.raises(MissingBackend, match="comes with ROCm"):
        amdsmi.find("cuda:0")


def test_amdsmi_skips_devices_that_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = smi(current_socket_power=100)
    seen: list[str] = []
    fake.amdsmi_get_power_info = lambda handle: seen.append(handle) or {"current_socket_power": 100}
    monkeypatch.setitem(sys.modules, "amdsmi", fake)
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    amdsmi.find("cuda:0")
    assert seen == ["second"]


def test_amdsmi_of_a_device_that_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = smi(current_socket_power=100)
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "amdsmi", fake)
    meter = amdsmi.find("cuda:0")

    def gone(handle: str) -> None:
        raise RuntimeError("AMDSMI_STATUS_DRIVER_NOT_LOADED")

    found = over(meter, 10.0, lambda: setattr(fake, "amdsmi_get_power_info", gone))
    assert found.why == "amdsmi: the device does not answer: AMDSMI_STATUS_DRIVER_NOT_LOADED"


# --- ACPI ---------------------------------------------------------------------------------------------------------

HWMON = "sys/class/hwmon/hwmon3"


def test_acpi_reads_microwatts_and_its_interval(tmp_path: Path) -> None:
    files = {f"{HWMON}/name": "power_meter", f"{HWMON}/power1_average": 412_000_000}
    other = {"sys/class/hwmon/hwmon0/name": "coretemp", "sys/class/hwmon/hwmon0/power1_average": 1}
    meter = acpi.find("cpu", root=tree(tmp_path, {**files, **other, f"{HWMON}/power1_average_interval": 5000}))
    assert meter.sensors[0].read() == pytest.approx(412.0)
    assert (meter.scope, meter.update_s, meter.shortest_s) == ("node", 5.0, 100.0)


def test_acpi_that_is_not_there_or_not_readable(tmp_path: Path) -> None:
    with pytest.raises(MissingBackend, match="no ACPI power meter"):
        acpi.find("cpu", root=tmp_path)
    root = tree(tmp_path, {f"{HWMON}/name": "power_meter", f"{HWMON}/power1_average": "none"})
    with pytest.raises(MissingBackend, match="hwmon3/power1_average cannot be read: run as root"):
        acpi.find("cpu", root=root)


# --- IPMI ---------------------------------------------------------------------------------------------------------

SAID = """
    Instantaneous power reading:                   {watts} Watts
    Minimum during sampling period:                 15 Watts
    Maximum during sampling period:                401 Watts
    Average power reading over sample period:      221 Watts
    Sampling period:                          00000001 Seconds.
    Power reading state is:                   {state}
"""


def command(folder: Path, said: str, status: int = 0) -> tuple[str, ...]:
    """A command that says what ipmitool says."""
    (folder / "said").write_text(said, encoding="utf-8")
    script = folder / "ipmitool"
    script.write_text(f'#!/bin/sh\ncat "{folder}/said"\necho "Could not open device" >&2\nexit {status}\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script), "dcmi", "power", "reading"


def test_ipmi_reads_watts_of_now(tmp_path: Path) -> None:
    meter = ipmi.find("cpu", command=command(tmp_path, SAID.format(watts=220, state="activated")))
    assert meter.sensors[0].read() == 220.0
    assert (meter.scope, meter.shortest_s) == ("node", 20.0)


@pytest.mark.parametrize(
    ("said", "status", "why"),
    [
        ("", 1, "failed: Could not open device"),
        ("nonsense", 0, "tells no power"),
        (SAID.format(watts=0, state="activated"), 0, "tells 0 W of a server that runs"),
        (SAID.format(watts=220, state="deactivated"), 0, "switched off"),
    ],
)
def test_ipmi_that_does_not_answer(tmp_path: Path, said: str, status: int, why: str) -> None:
    with pytest.raises(MissingBackend, match=why):
        ipmi.find("cpu", command=command(tmp_path, said, status))


def test_ipmi_without_the_command() -> None:
    with pytest.raises(MissingBackend, match="IPMI needs no-such-tool"):
        ipmi.find("cpu", command=("no-such-tool",))


# --- battery ------------------------------------------------------------------------------------------------------

BAT = "sys/class/power_supply/BAT0"
DISCHARGING = {f"{BAT}/type": "Battery", f"{BAT}/status": "Discharging"}
MOUSE = {f"sys/class/power_supply/hid/{name}": value for name, value in (("type", "Battery"), ("scope", "Device"))}


@pytest.mark.parametrize(
    "files",
    [
        {f"{BAT}/power_now": 15_400_000},
        {f"{BAT}/power_now": -15_400_000},
        {f"{BAT}/current_now": 1_400_000, f"{BAT}/voltage_now": 11_000_000},
        {f"{BAT}/current_now": -1_400_000, f"{BAT}/voltage_now": 11_000_000},
    ],
)
def test_battery_tells_watts(tmp_path: Path, files: dict[str, object]) -> None:
    meter = battery.find("cpu", root=tree(tmp_path, {**DISCHARGING, **MOUSE, **files}))
    assert [sensor.name for sensor in meter.sensors] == ["BAT0"]
    assert meter.sensors[0].read() == pytest.approx(15.4)
    assert meter.scope == "battery"


@pytest.mark.parametrize(
    ("full", "left", "later"),
    [
        ({f"{BAT}/energy_full": 50_000_000}, {f"{BAT}/energy_now": 40_000_000}, {f"{BAT}/energy_now": 39_900_000}),
        (
            {f"{BAT}/charge_full": 5_000_000, f"{BAT}/voltage_min_design": 10_000_000},
            {f"{BAT}/charge_now": 4_000_000},
            {f"{BAT}/charge_now": 3_990_000},
        ),
    ],
)
def test_battery_without_watts_counts_what_it_loses(
    tmp_path: Path, full: dict[str, object], left: dict[str, object], later: dict[str, object]
) -> None:
    """A tenth of a watt-hour: 360 J."""
    root = tree(tmp_path, {**DISCHARGING, **full, **left})
    (sensor,) = battery.find("cpu", root=root).sensors
    before = sensor.read()
    tree(root, later)
    assert sensor.read() - before == pytest.approx(360.0)
    assert sensor.least_steps > 1


def test_battery_that_is_plugged_in_during_a_window(tmp_path: Path) -> None:
    root = tree(tmp_path, {**DISCHARGING, f"{BAT}/power_now": 15_400_000})
    found = over(battery.find("cpu", root=root), 30.0, lambda: tree(root, {f"{BAT}/status": "Charging"}))
    assert found.power is None
    assert found.why == "battery: the battery is not discharging: pull the plug to measure with it"


def test_battery_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingBackend, match="no battery"):
        battery.find("cpu", root=tree(tmp_path, MOUSE))
    with pytest.raises(MissingBackend, match="tells neither its power nor its charge"):
        battery.find("cpu", root=tree(tmp_path, DISCHARGING))
    with pytest.raises(MissingBackend, match="pull the plug"):
        battery.find("cpu", root=tree(tmp_path, {f"{BAT}/status": "Full"}))


# --- the model ----------------------------------------------------------------------------------------------------


def processors(name: str, family: int, model: int, busy: float = 0.0, idle: float = 0.0) -> dict[str, object]:
    return {
        "proc/cpuinfo": f"processor\t: 0\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {name}\n\n",
        "proc/stat": ticks(busy, idle),
    }


def ticks(busy_s: float, idle_s: float) -> str:
    rate = os.sysconf("SC_CLK_TCK")
    return f"cpu  {busy_s * rate:.0f} 0 0 {idle_s * rate:.0f} 0 0 0 0 0 0"


def test_the_model_of_a_catalogued_processor_is_its_tdp_by_load(tmp_path: Path) -> None:
    """Half of 128 threads of an EPYC 7763 (280 W) busy for 10 s."""
    root = tree(tmp_path, processors("AMD EPYC 7763 64-Core Processor", 25, 1))
    meter = modelled.find("cpu", root=root, logical=128, cores=64)
    found = over(meter, 10.0, lambda: tree(root, {"proc/stat": ticks(640.0, 640.0)}))
    assert found.power is not None
    assert found.power.mean_w == pytest.approx(processor_w(280.0, 0.5))
    assert (found.power.source, found.power.scope) == ("modelled", "package")
    assert found.power.error_frac is not None
    assert 0.1 < found.power.error_frac < 1.0


def test_the_model_of_a_virtual_machine_is_its_cores_share(tmp_path: Path) -> None:
    root = tree(tmp_path, processors("Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz", 6, 106))
    meter = modelled.find("cpu", root=root, logical=8, cores=4)
    found = over(meter, 10.0, lambda: tree(root, {"proc/stat": ticks(80.0, 0.0)}))
    assert found.power is not None
    assert found.power.mean_w == pytest.approx(processor_w(270.0, 1.0) * 4 / 40)


def test_the_model_of_another_processor_is_a_servers_watts_a_thread(tmp_path: Path) -> None:
    """A virtual machine on EPYC 9004 that does not say which: 2 threads, one busy: 2 x 0.739 + 1 x (2.282 - 0.739) W."""
    root = tree(tmp_path, processors("AMD EPYC", 25, 17))
    meter = modelled.find("cpu", root=root, logical=2, cores=2)
    found = over(meter, 10.0, lambda: tree(root, {"proc/stat": ticks(10.0, 10.0)}))
    assert found.power is not None
    assert found.power.mean_w == pytest.approx(2 * 0.739 + (2.282 - 0.739))
    assert (found.power.source, found.power.scope) == ("modelled", "node")
    assert "EPYC 4th generation" in meter.note


def test_the_model_of_an_unknown_processor_is_the_middle_of_the_table(tmp_path: Path) -> None:
    root = tree(tmp_path, processors("Nobody's Processor", 99, 1))
    meter = modelled.find("cpu", root=root, logical=4, cores=4)
    found = over(meter, 10.0, lambda: tree(root, {"proc/stat": ticks(40.0, 0.0)}))
    assert found.power is not None
    full = sorted(row.full_w for row in modelled.THREADS)
    assert 4 * full[0] < found.power.mean_w < 4 * full[-1]
    assert "unknown architecture" in meter.note


def test_the_models_error_holds_most_of_its_table() -> None:
    """Two thirds of the architectures within one standard deviation of the middle, all within 2.2."""
    off = [abs(math.log(row.full_w / modelled.MIDDLE[2])) / modelled.spread() for row in modelled.THREADS]
    assert sum(distance <= 1 for distance in off) >= 0.6 * len(off)
    assert max(off) < 2.2


def test_an_idle_machine_draws_what_it_draws_idle(tmp_path: Path) -> None:
    root = tree(tmp_path, processors("AMD EPYC", 25, 17))
    found = over(modelled.find("cpu", root=root, logical=2, cores=2), 10.0)
    assert found.power is not None
    assert found.power.mean_w == pytest.approx(2 * 0.739)


def test_the_model_needs_something_that_tells_how_busy_it_is(tmp_path: Path) -> None:
    with pytest.raises(MissingBackend, match="nothing tells how busy"):
        modelled.find("cpu", root=tmp_path)
    with pytest.raises(MissingBackend, match="needs a meter"):
        modelled.find("cuda:0")


# --- the table ----------------------------------------------------------------------------------------------------


def test_every_meter_has_a_file_and_every_file_a_row() -> None:
    folder = Path(meters.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "window"}
    assert files == set(METERS)
    assert list(METERS)[-1] == "modelled"


def test_all_are_looked_at_and_say_why_not() -> None:
    found = dict(meters.looked("cpu"))
    assert isinstance(found["modelled"], Meter)
    found |= dict(meters.looked("cuda:0"))
    assert set(found) == set(METERS)
    assert all(isinstance(one, Meter) or (one and "\n" not in one) for one in found.values())


def test_a_meter_by_name_and_the_best() -> None:
    assert meters.meter("cpu", "modelled").source == "modelled"
    assert meters.meter("cpu").device == "cpu"
    with pytest.raises(BadRequest, match="unknown meter"):
        meters.meter("cpu", "wattmeter")
    with pytest.raises(MissingBackend, match="sees processors"):
        meters.meter("cuda:0", "rapl")
    with pytest.raises(
        MissingBackend, match="nothing here tells the power of 'tpu': devices are called cpu and cuda:N"
    ):
        meters.meter("tpu")


def test_unreadable_is_no_answer_to_a_user() -> None:
    """It ends a window and never leaves it."""
    assert not issubclass(Unreadable, MissingBackend)
