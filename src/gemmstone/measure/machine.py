"""The machine under a measurement: its processors, memory and devices, what of them may be used, and how they are set.

Nothing here names a machine or its owner: no host or user name, no path, no serial number, no address.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from gemmstone.core.errors import MissingBackend
from gemmstone.measure import gpu, proc

# Instruction sets that kernels choose their code by, as /proc/cpuinfo spells them: x86, then Arm
ISA = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "svebf16", "sme"),
)
NO_LIMIT_BYTES = 1 << 60  # cgroup v1 writes a number near 2^63 for no limit
MOST_CORES = 4096
MOST_FOLDERS = 64


def hardware(root: Path = proc.ROOT) -> dict[str, Any]:
    """Processors, memory, NUMA nodes and GPUs. What is not known is None."""
    return {
        "cpu": _cpu(root),
        "caches": _caches(root),
        "memory_bytes": _memory_bytes(root),
        "numa_nodes": len(_folders(root / "sys/devices/system/node", r"node\d+")) or None,
        "gpus": gpus(),
    }


def _cpu(root: Path) -> dict[str, Any]:
    first = proc.first_processor(root)
    flags = set((first.get("flags") or first.get("Features") or "").split())
    packages = {
        proc.word(folder / "topology/physical_package_id")
        for folder in _folders(root / "sys/devices/system/cpu", r"cpu\d+", MOST_CORES)
    } - {None}
    return {
        "name": _name(first),
        "vendor": first.get("vendor_id") or first.get("CPU implementer"),
        "family": _whole(first.get("cpu family") or first.get("CPU architecture")),
        "model": _whole(first.get("model") or first.get("CPU part")),
        "stepping": _whole(first.get("stepping") or first.get("CPU revision")),
        "sockets": len(packages) or None,
        "logical": os.cpu_count(),
        "smt": _smt(root),
        "isa": [flag for flag in ISA if flag in flags],
    }


def _name(first: Mapping[str, str]) -> str:
    name = first.get("model name") or first.get("Model") or ""
    if not name and sys.platform == "darwin":
        name = _sysctl("machdep.cpu.brand_string")
    return (name or platform.machine())[:100]


def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()[:100]


def _smt(root: Path) -> bool | None:
    active = proc.number(root / "sys/devices/system/cpu/smt/active")
    return None if active is None else bool(active)


def _caches(root: Path) -> dict[str, int]:
    """Bytes of the caches that the first processor sees: l1d, l1i, l2, l3."""
    found = {}
    for folder in _folders(root / "sys/devices/system/cpu/cpu0/cache", r"index\d+"):
        level, size = _whole(proc.word(folder / "level")), proc.word(folder / "size") or ""
        kind = (proc.word(folder / "type") or "")[:1].lower()
        match = re.fullmatch(r"(\d{1,9})([KM])", size)
        if level and match:
            bytes_ = int(match.group(1)) << (10 if match.group(2) == "K" else 20)
            found[f"l{level}{kind if kind in ('d', 'i') else ''}"] = bytes_
    return found


def _memory_bytes(root: Path) -> int | None:
    match = re.match(r"MemTotal:\s+(\d{1,15}) kB", proc.text(root / "proc/meminfo", 4096) or "")
    if match:
        return int(match.group(1)) * 1024
    names = getattr(os, "sysconf_names", {})
    if root == proc.ROOT and "SC_PHYS_PAGES" in names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def gpus() -> list[dict[str, Any]]:
    """NVIDIA and AMD devices with what a time depends on: driver, VBIOS, limits, ECC, MIG; empty where there are none."""
    try:
        nvml = gpu.library()
        count = min(gpu.ask(nvml.nvmlDeviceGetCount) or 0, MOST_FOLDERS)
        return [_gpu(nvml, gpu.handle(nvml, f"cuda:{index}")) for index in range(count)]
    except MissingBackend:
        return _amd()


def _amd() -> list[dict[str, Any]]:
    """AMD devices by AMD SMI, whose answers are dictionaries with "N/A" for what a board does not have."""
    try:
        smi = import_module("amdsmi")
        smi.amdsmi_init()
        handles = smi.amdsmi_get_processor_handles()
    except Exception:
        return []

    def told(name: str, handle: Any, key: str) -> Any:
        found = gpu.ask(getattr(smi, name, None) or (lambda _: {}), handle)
        value = found.get(key) if isinstance(found, Mapping) else None
        return None if value in ("N/A", "") else value

    rows = []
    for handle in handles[:MOST_FOLDERS]:
        cap_uw = told("amdsmi_get_power_cap_info", handle, "power_cap")
        megabytes = told("amdsmi_get_gpu_vram_usage", handle, "vram_total")
        rows.append(
            {
                "name": _text(told("amdsmi_get_gpu_asic_info", handle, "market_name")),
                "memory_bytes": int(megabytes) << 20 if isinstance(megabytes, int) else None,
                "driver": _text(told("amdsmi_get_gpu_driver_info", handle, "driver_version")),
                "vbios": _text(told("amdsmi_get_gpu_vbios_info", handle, "version")),
                "power_limit_w": cap_uw / 1e6 if isinstance(cap_uw, int) else None,
                "max_clock_hz": None,
                "ecc": None,
                "mig": None,
            }
        )
    return rows


def _gpu(nvml: Any, handle: Any) -> dict[str, Any]:
    memory, limit_mw = (
        gpu.ask(nvml.nvmlDeviceGetMemoryInfo, handle),
        gpu.ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle),
    )
    ecc, mig = gpu.ask(nvml.nvmlDeviceGetEccMode, handle), gpu.ask(nvml.nvmlDeviceGetMigMode, handle)
    clock = gpu.ask(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM)
    return {
        "name": _text(gpu.ask(nvml.nvmlDeviceGetName, handle)),
        "memory_bytes": int(memory.total) if memory is not None else None,
        "driver": _text(gpu.ask(nvml.nvmlSystemGetDriverVersion)),
        "vbios": _text(gpu.ask(nvml.nvmlDeviceGetVbiosVersion, handle)),
        "power_limit_w": limit_mw / 1e3 if limit_mw else None,
        "max_clock_hz": clock * 1e6 if clock else None,
        "ecc": None if ecc is None else bool(ecc[0]),
        "mig": None if mig is None else bool(mig[0]),
    }


def _text(found: Any) -> str | None:
    if isinstance(found, bytes):
        found = found.decode("utf-8", "replace")
    return str(found)[:100] if found else None


def limits(root: Path = proc.ROOT) -> dict[str, Any]:
    """What of the machine this process may use: processors by affinity and quota, memory, open files, locked memory."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(root)
    return {
        "cores": affinity,
        "cpu_quota": quota,
        "usable_cores": affinity if quota is None else min(float(affinity), quota),
        "memory_bytes": _memory_limit(root),
        **_of_process(),
    }


def _of_process() -> dict[str, int | None]:
    if sys.platform == "win32":
        return {}
    import resource

    names = {"open_files": "RLIMIT_NOFILE", "locked_bytes": "RLIMIT_MEMLOCK", "address_bytes": "RLIMIT_AS"}
    soft = {
        name: resource.getrlimit(getattr(resource, key))[0] for name, key in names.items() if hasattr(resource, key)
    }
    return {name: None if value == resource.RLIM_INFINITY else value for name, value in soft.items()}


def _cpu_quota(root: Path) -> float | None:
    """Processors' worth of time a second that the control groups grant, the least of all above this process; None: no limit."""
    found = []
    for folder in _groups(root, "cpu"):
        parts = (proc.word(folder / "cpu.max") or "").split()
        if len(parts) != 2:
            parts = [proc.word(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
        if all(part.isdigit() for part in parts) and int(parts[1]) > 0 and int(parts[0]) > 0:
            found.append(int(parts[0]) / int(parts[1]))
    return min(found, default=None)


def _memory_limit(root: Path) -> int | None:
    found = []
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = proc.word(folder / name) or ""
            if limit.isdigit() and 0 < int(limit) < NO_LIMIT_BYTES:
                found.append(int(limit))
    return min(found, default=None)


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of the control groups that this process is in, its own first: version 2, or 1 where that has the controller."""
    top = root / "sys/fs/cgroup"
    found = []
    for line in (proc.text(root / "proc/self/cgroup", 8192) or "").splitlines()[:MOST_FOLDERS]:
        number, _, rest = line.partition(":")
        names, _, place = rest.partition(":")
        if number == "0" and not names:
            base = top / "unified" if (top / "unified").is_dir() else top
        elif controller in names.split(","):
            base = next((top / name for name in (names, controller) if (top / name).is_dir()), top / controller)
        else:
            continue
        parts = [part for part in place.split("/") if part not in ("", "..")][:32]
        # inside a container the path may be the host's, whose folders are not there; the container's own is then the top one
        found += [base.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return found


def state(root: Path = proc.ROOT) -> dict[str, Any]:
    """How the machine is set and what it does: governor, turbo, huge pages, swappiness, clocks, load, virtual or not."""
    cpu, flags = root / "sys/devices/system/cpu", proc.first_processor(root).get("flags", "").split()
    pages = re.search(r"\[(\w+)\]", proc.word(root / "sys/kernel/mm/transparent_hugepage/enabled") or "")
    clocks = proc.clocks_hz(root)
    return {
        "governor": proc.word(cpu / "cpu0/cpufreq/scaling_governor"),
        "turbo": _turbo(cpu),
        "transparent_hugepages": pages.group(1) if pages else None,
        "hugepages": _whole(proc.word(root / "proc/sys/vm/nr_hugepages")),
        "swappiness": _whole(proc.word(root / "proc/sys/vm/swappiness")),
        "clock_hz": [min(clocks), max(clocks)] if clocks else None,
        "load_average": _load(root),
        "virtualised": ("hypervisor" in flags or (root / "sys/hypervisor/type").exists()) if flags else None,
        "container": _is_container(root),
    }


def _turbo(cpu: Path) -> bool | None:
    off = proc.number(cpu / "intel_pstate/no_turbo")
    if off is not None:
        return not off
    on = proc.number(cpu / "cpufreq/boost")
    return None if on is None else bool(on)


def _load(root: Path) -> float | None:
    """Mean tasks that ran or waited in the last minute."""
    first = (proc.word(root / "proc/loadavg") or "").partition(" ")[0]
    if re.fullmatch(r"\d{1,6}(\.\d+)?", first):
        return float(first)
    return os.getloadavg()[0] if root == proc.ROOT and hasattr(os, "getloadavg") else None


def _is_container(root: Path) -> bool:
    marks = ("docker", "kubepods", "lxc", "containerd", "libpod")
    groups = proc.text(root / "proc/self/cgroup", 8192) or ""
    return any((root / name).exists() for name in (".dockerenv", "run/.containerenv")) or any(
        m in groups for m in marks
    )


def _folders(parent: Path, pattern: str, most: int = MOST_FOLDERS) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(parent) if re.fullmatch(pattern, name))
    except OSError:
        return []
    return [parent / name for name in names[:most]]


def _whole(text: str | None) -> int | None:
    """A whole number in decimal or, as Arm writes them, hexadecimal."""
    try:
        return int(text, 0) if text else None
    except ValueError:
        return None
