"""The description of a measured machine: a file like those of the catalogue, whose values name the run that they come from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gemmstone.catalog import device_files
from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Device
from gemmstone.core.measurement import Run
from gemmstone.measure import agreement, machine

PRODUCTS = ("gemm", "batched_gemm")
NOT_ITS_OWN = "fp32's"  # how the peak of a format was measured that the processor has no instructions for
VENDORS = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel", "0x41": "Arm"}
Identity = tuple[str, float, tuple[str, ...]]
Value = tuple[str, float, str, str]  # field, number in SI units, source, note


def here() -> Identity:
    """What makes a run one of this machine: processor, processors that may be used, accelerators."""
    return _identity({"hardware": machine.hardware(), "limits": machine.limits()})


def identity(run: Run) -> Identity:
    """The same of the machine that a run was made on."""
    return _identity(run.environment)


def _identity(environment: Mapping[str, Any]) -> Identity:
    hardware, limits = environment.get("hardware") or {}, environment.get("limits") or {}
    names = tuple(str(gpu.get("name")) for gpu in hardware.get("gpus") or ())
    return str((hardware.get("cpu") or {}).get("name")), float(limits.get("usable_cores") or 0), names


def text(slug: str, found: Sequence[Run], ops: Sequence[agreement.Op]) -> str:
    """The file of a machine. A GPU of the catalogue keeps its datasheet; all else is what was measured and what the system tells."""
    run = found[-1]
    hardware = run.environment.get("hardware") or {}
    asked = str(run.asked.get("device", "cpu"))
    if asked != "cpu":
        return _of_the_catalogue(slug, _gpu_name(hardware, asked), run)
    name = str((hardware.get("cpu") or {}).get("name") or "unknown processor")
    known = _known(name)
    return _written(_head(slug, name, hardware, known, run), _values(found, ops, known), _sources(run, known))


def _gpu_name(hardware: Mapping[str, Any], device: str) -> str:
    gpus, place = hardware.get("gpus") or [], int(device.partition(":")[2] or 0)
    return str(gpus[place].get("name")) if place < len(gpus) else ""


def _of_the_catalogue(slug: str, name: str, run: Run) -> str:
    """The datasheet of a device under the machine's name."""
    known = _known(name)
    if known is None:
        raise BadRequest(
            f"{name or 'this accelerator'} is not in the catalogue: describe it in a device file and calibrate with --from"
        )
    lines = (device_files.DIRECTORY / f"{known.slug}.toml").read_text(encoding="utf-8").splitlines()
    note = f"The datasheet of {known.slug}; its kernels were measured in run {run.id}."
    kept = [line for line in lines if not line.startswith(("aliases =", "note ="))]
    return "\n".join(
        f"slug = {json.dumps(slug)}\nnote = {json.dumps(note)}" if line.startswith("slug =") else line for line in kept
    )


def _known(name: str) -> Device | None:
    try:
        return device_files.find(name) if name else None
    except BadRequest:
        return None


def _head(slug: str, name: str, hardware: Mapping[str, Any], known: Device | None, run: Run) -> dict[str, Any]:
    cpu = hardware.get("cpu") or {}
    vendor = str(cpu.get("vendor") or "unknown vendor")
    return {
        "slug": slug,
        "name": f"{name}, measured",
        "vendor": known.vendor if known else VENDORS.get(vendor, vendor),
        "architecture": known.architecture if known else f"{vendor}-{cpu.get('family')}-{cpu.get('model')}".lower(),
        "kind": "cpu",
        "year": int((run.started or "1970")[:4]),
        "note": "What this machine was measured to do, not what a datasheet says.",
    }


def _values(runs: Sequence[Run], ops: Sequence[agreement.Op], known: Device | None) -> list[Value]:
    run = runs[-1]
    limits, hardware = run.environment.get("limits") or {}, run.environment.get("hardware") or {}
    found: list[Value] = []
    cores = limits.get("usable_cores")
    if cores:
        found.append(("compute.units", float(max(1, int(cores))), "system", "processors that a process may use"))
    for dtype, (rate, note) in sorted(_peaks(runs, ops).items()):
        found.append((f"compute.peak.{dtype}", rate, "run", note))
    memory = [size for size in (hardware.get("memory_bytes"), limits.get("memory_bytes")) if size]
    if memory:
        found.append(("memory.capacity", float(min(memory)), "system", "installed, or what this process may use of it"))
    bandwidth = _bandwidth(ops)
    if bandwidth:
        found.append(("memory.bandwidth", *bandwidth))
    caches = hardware.get("caches") or {}
    if caches:
        found.append(("memory.on_chip.capacity", float(max(caches.values())), "system", "last-level cache"))
    if known is not None and known.tdp_w and cores and int(cores) == known.compute_units:
        found.append(("power.tdp", known.tdp_w, "catalogue", known.slug))
    return found


def _peaks(runs: Sequence[Run], ops: Iterable[agreement.Op]) -> dict[str, tuple[float, str]]:
    """FLOP/s by format: what a loop on registers reached, or a matrix product where one did better."""
    found: dict[str, tuple[float, str]] = {}
    for dtype, told in (one for run in runs for one in (run.summary.get("peaks") or {}).items()):
        if not str(told.get("how", "")).startswith(NOT_ITS_OWN) and dtype in machine_formats():
            found[dtype] = (float(told["flop_per_s"]), str(told.get("how", "")))
    for op in ops:
        dtype, rate = op.call.dtype, op.measurements[0].flop / op.median_s
        most = found.get(dtype, (0.0, ""))[0]
        if op.call.family in PRODUCTS and dtype in machine_formats() and rate > most and (most or dtype == "fp32"):
            found[dtype] = (rate, f"the fastest product: {op.call.title}")
    return found


def machine_formats() -> tuple[str, ...]:
    """Formats whose peaks a device file may hold."""
    from gemmstone.catalog.device_fields import FORMATS

    return FORMATS


def _bandwidth(ops: Iterable[agreement.Op]) -> tuple[float, str, str] | None:
    """The most bytes/s of a pass of STREAM or, where none was measured, of a product of one row, which reads its weights once."""
    reading = [
        op
        for op in ops
        if op.call.family.startswith("stream_") or (op.call.family == "gemm" and op.call.shape.get("m") == 1)
    ]
    if not reading:
        return None

    def rate(op: agreement.Op) -> float:
        return (op.measurements[0].read_bytes + op.measurements[0].write_bytes) / op.median_s

    best = max(reading, key=rate)
    return rate(best), "run", f"{best.call.title}, {best.backend}"


def _sources(run: Run, known: Device | None) -> dict[str, str]:
    found = {
        "run": f"measured, run {run.id}, {(run.finished or run.started)[:10]}",
        "system": "told by the operating system",
    }
    return found | ({"catalogue": "the catalogue's file of the same processor"} if known else {})


def _written(head: Mapping[str, Any], values: Iterable[Value], sources: Mapping[str, str]) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in head.items()]
    for field, number, source, note in values:
        section, _, name = field.rpartition(".")
        told = f", note = {json.dumps(note)}" if note else ""
        lines += ["", f"[{section}.{name}]", f'value = {number!r}\nsource = "{source}"{told and chr(10) + told[2:]}']
    lines += ["", "[sources]", *(f"{key} = {json.dumps(value)}" for key, value in sources.items())]
    return "\n".join(lines) + "\n"


def write(path: Path, content: str) -> None:
    """Writes a machine's file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(content, encoding="utf-8")
    aside.replace(path)
