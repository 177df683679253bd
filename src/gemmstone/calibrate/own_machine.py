"""`gemmstone calibrate` on the machine itself: its newest run of kernels becomes a device and the coefficients of its kernels.

The device is described by a file like those of the catalogue, each value measured by the run that is named as its source or told
by the system. A GPU that the catalogue knows keeps its datasheet. What was measured goes the way of any user's file: through the
lint into fits, and into what fidelity `measured` looks up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.calibrate import host_times, machine_file, session
from gemmstone.calibrate.measurements import Measurements, columns
from gemmstone.catalog import calibration_files, device_files, measured_files
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.core.measurement import Run
from gemmstone.measure import agreement
from gemmstone.measure.calls import CALLS
from gemmstone.store import runs

KERNELS = "kernels"
ENGINE = "pytorch"  # whose calls predictions of this machine are made of
# What a machine that others use does to its own measurements; in a file of somebody else's it says that columns were mixed up.
NOISE = ("backwards",)
FIRST = "measure this machine first: gemmstone measure kernels"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to calibrate from: ids of runs (none: the newest of this machine), and what to call it."""

    runs: tuple[str, ...] = ()
    name: str = calibration_files.THIS_MACHINE
    check: bool = False
    accept: tuple[str, ...] = ()
    families: tuple[str, ...] = ()


def calibrate(asked: Asked, say: Say = lambda line: None) -> dict[str, Any]:
    """The device file, fits and engine coefficients of a measured machine, written under its name; what came of it as plain data.

    Raises NoAnswer where nothing was measured, BadRequest for a name that another device has or for measurements that are refused.
    """
    slug = _name(asked.name)
    found = _runs(asked.runs)
    kernels = [run for run in found if run.kind == KERNELS]
    if not kernels:
        raise NoAnswer(f"{', '.join(asked.runs) or 'the store'} holds no run of kernels: {FIRST}")
    newest = kernels[-1]
    # what was measured again counts as it was measured last
    every = {op.key: op for run in kernels for op in agreement.ops(runs.measurements(run))}
    ops = [op for op in every.values() if op.device == str(newest.asked.get("device", "cpu"))]
    versions = {op.backend: op.measurements[0].version for op in ops}  # the last of each, in the order of the runs
    ops = [op for op in ops if op.measurements[0].version == versions[op.backend]]
    into = calibration_files.named(slug)
    text = machine_file.text(slug, kernels, ops)
    measured = grouped(slug, newest, [op for op in ops if op.backend == ENGINE])
    if not measured:
        raise NoAnswer(
            f"run {newest.id} holds no call of {ENGINE}, which models are made of: pip install 'gemmstone[torch]'"
        )
    wanted = session.Asked(
        sources=(),
        name=slug,
        check=asked.check,
        accept=(*asked.accept, *NOISE),
        families=asked.families,
        learned=False,
    )
    with _all_or_nothing(into, slug, keep=not asked.check):
        machine_file.write(into / calibration_files.MACHINE, text)
        settled = session.settle(wanted, measured, into, say)
        if asked.check:
            return settled
        host = host_times.fit(slug, newest, [op for op in ops if op.backend == ENGINE])
        host_times.save(into, host)
    calibration_files.forget()
    return {
        **settled,
        "device": device_files.describe(slug),
        "runs": [run.id for run in found],
        "host": dict(host),
        "name": slug,
    }


@contextmanager
def _all_or_nothing(into: Path, slug: str, *, keep: bool) -> Iterator[None]:
    """Empties a machine's folder of what an earlier calibration wrote, which is no yardstick of this one; puts it back on failure."""
    names = (
        calibration_files.MACHINE,
        f"{slug}.json",
        f"{slug}{measured_files.SUFFIX}",
        calibration_files.ENGINES_FILE.name,
    )
    before = {path: path.read_bytes() for name in names if (path := into / name).is_file()}
    for path in before:
        path.unlink()
    calibration_files.forget()
    done = False
    try:
        yield
        done = keep
    finally:
        if not done:
            for name in names:
                (into / name).unlink(missing_ok=True)
            for path, content in before.items():
                path.write_bytes(content)
            calibration_files.forget()


def _name(name: str) -> str:
    """The name as a slug. Raises BadRequest for one that is none or that a shipped device has."""
    if not calibration_files.NAME.fullmatch(name):
        raise BadRequest(f"{name[:80]!r} is no name of a machine: letters, digits, dot, dash and underscore")
    if name in (*device_files.published(), *device_files.systems()):
        raise BadRequest(f"{name} is a device of the catalogue: give this machine another name, as --name my-{name}")
    return name


def _runs(asked: Sequence[str]) -> list[Run]:
    """The runs that were named, or all of this machine's, oldest first: what was measured last counts."""
    if asked:
        return [runs.find(one) for one in asked]
    here = machine_file.here()
    found = [run for run in runs.all_runs(KERNELS) if machine_file.identity(run) == here]
    if not found:
        raise NoAnswer(f"nothing was measured on this machine yet: {FIRST}")
    return found


def grouped(slug: str, run: Run, ops: Iterable[agreement.Op]) -> list[Measurements]:
    """What was measured as a user's file would hold it: the calls of each family, routine and format, medians in seconds."""
    kept: dict[tuple[str, str, float], list[agreement.Op]] = {}
    for op in ops:
        family = CALLS[op.call.family]
        if family.fitted:
            apart = {**family.defaults, **op.call.shape}.get("window", 0.0)
            kept.setdefault((op.call.family, op.call.dtype, apart), []).append(op)
    return [_measurements(slug, run, found) for found in kept.values()]


def _measurements(slug: str, run: Run, found: Sequence[agreement.Op]) -> Measurements:
    call, first = found[0].call, found[0].measurements[0]
    shape = columns(call.family, [op.call.shape for op in found])
    op = CALLS[call.family].op(shape, call.dtype)
    seconds = np.array([host_times.typical_s(one) for one in found])
    return Measurements(
        family=call.family,
        device=slug,
        engine=ENGINE,
        version=first.version,
        variant=op.variant,
        kernel=op.routine,
        op=op,
        seconds=seconds,
        rows=np.arange(1, seconds.size + 1),
        shape=shape,
        file=f"run {run.id}: {call.family} {call.dtype}",
        sha256=_digest(run),
    )


def _digest(run: Run) -> str:
    """The SHA-256 of a run's measurements, as it is stored."""
    import hashlib

    return hashlib.sha256(runs.contents(run)["measurements.parquet"]).hexdigest()
