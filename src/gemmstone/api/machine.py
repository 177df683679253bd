"""Verbs that measure this machine and make a device of it. What measures is imported where it is asked for: no prediction needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gemmstone.api.head import head
from gemmstone.catalog import calibration_files
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.scenario import load_model

if TYPE_CHECKING:
    from gemmstone.core.measurement import Call


def calibrate(
    sources: Sequence[str],
    *,
    name: str = "",
    out: str = "",
    families: Sequence[str] = (),
    devices: Sequence[str] = (),
    check: bool = False,
    strict: bool = False,
    accept: Sequence[str] = (),
    learned: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Coefficients fitted to measurements in files and folders: the document `gemmstone.calibrate/1`.

    They are written into `out`, or under `name` into the user's data folder, once the measurements passed the lint; `check`
    does no more than look. `learned`: whether to learn what the forms miss, too; where its library is installed by default.
    `say` gets a line per fit and finding.
    """
    from gemmstone.calibrate import session  # lazy: no other verb needs what reads tables

    asked = session.Asked(
        sources=tuple(sources),
        name=name,
        out=out,
        families=tuple(families),
        devices=tuple(devices),
        check=check,
        strict=strict,
        accept=tuple(accept),
        learned=learned,
    )
    document = session.calibrate(asked, say)
    return {**head("calibrate", session.warnings(document)), **document}


def calibrate_machine(
    runs: Sequence[str] = (),
    *,
    name: str = "",
    families: Sequence[str] = (),
    check: bool = False,
    accept: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """This machine's newest measurements, or the `runs` that were named, as a device that predictions take: `gemmstone.calibrate/1`.

    It is called this-machine unless a `name` is given; every other verb knows it by that name at once.
    """
    from gemmstone.calibrate import own_machine, session  # lazy: no other verb needs what reads runs and fits

    asked = own_machine.Asked(
        runs=tuple(runs),
        name=name or own_machine.Asked().name,
        check=check,
        accept=tuple(accept),
        families=tuple(families),
    )
    document = own_machine.calibrate(asked, say)
    return {**head("calibrate", session.warnings(document)), **document}


def suggest_measurements(
    device: str, count: int, *, engine: str = "vllm", family: str = "gemm", known: Sequence[str] = ()
) -> dict[str, Any]:
    """What to measure first on a device, most telling first, given files of what is `known`: `gemmstone.calibrate/1`."""
    from gemmstone.calibrate import session  # lazy: no other verb needs what reads tables

    return {**head("calibrate", []), "suggested": session.suggest(device, count, family, engine, known)}


def measure_ladder(
    n: int = 1024,
    *,
    budget_s: float = 45.0,
    seed: int = 0,
    label: str = "",
    store: bool = True,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> dict[str, Any]:
    """One product of two n x n matrices from naive C to the fastest that is installed: the document `gemmstone.measure/1`.

    Rungs that do not end within `budget_s` are left out with the time that they would take.
    """
    from gemmstone.measure.ladder import session  # lazy: no prediction measures

    asked = session.Asked(n=n, budget_s=budget_s, seed=seed, label=label, store=store)
    return {**head("measure", []), **session.measured(asked, progress)}


def measure_kernels(
    *,
    budget: str = "",
    model: str = "",
    families: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    backends: Sequence[str] = (),
    device: str = "cpu",
    threads: int = 0,
    label: str = "",
    resume: str = "",
    spent_s: float = 0.0,
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Kernels measured on this machine within a budget and kept in the store: the document `gemmstone.measure/1`.

    `model`: exactly the shapes of that model; without it those that tell most. `spent_s` of the budget are gone already. `say`
    gets a line per warning. Interrupted, the document says so, and `resume` (the run's id, or latest) goes on.
    """
    from gemmstone.measure import kernels  # lazy: no prediction measures

    asked = kernels.Asked(
        budget=budget,
        model=load_model(model) if model else None,
        families=tuple(families),
        formats=tuple(dtypes),
        backends=tuple(backends),
        device=device,
        threads=threads,
        label=label,
        resume=resume,
    )
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        say(line)

    document = kernels.kernels(
        asked, order=_most_telling(device, threads), spent_s=spent_s, progress=progress, say=hear
    )
    return {**head("measure", said), **document}


def measure_links(
    *,
    budget: str = "",
    folder: str = ".",
    parts: Sequence[str] = (),
    label: str = "",
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
) -> dict[str, Any]:
    """Collectives, copies, transfers, reads from the drive under `folder` and launches, kept as a run: `gemmstone.measure/1`.

    `parts`: only collectives, copies, devices, drive or launches. Interrupted, the document says so.
    """
    from gemmstone.measure.links import session  # lazy: no prediction measures

    asked = session.Asked(budget=budget, folder=folder, parts=tuple(parts), label=label)
    return {**head("measure", []), **session.links(asked, progress=progress)}


def measure_device(
    *,
    budget: str = "",
    device: str = "cpu",
    label: str = "",
    resume: str = "",
    spent_s: float = 0.0,
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """What a device is made of, measured: latency and bandwidth by level, products by format, launches: `gemmstone.measure/1`.

    `profile` has a value and its unit for each, None where nothing here measures it.
    """
    from gemmstone.measure import device as devices  # lazy: no prediction measures

    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        say(line)

    document = devices.measured(
        device, budget=budget, label=label, resume=resume, spent_s=spent_s, progress=progress, say=hear
    )
    return {**head("measure", said), **document}


def measure_all(
    *,
    budget_s: float = 420.0,
    folder: str = ".",
    label: str = "",
    spent_s: float = 0.0,
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Kernels, links and the ladder one after the other, each a run of its own: `gemmstone.measure/1` with a document of each.

    They share the budget. What there is no time for is None, with a warning; interrupted, it ends with what was being measured.
    """
    from gemmstone.measure import everything  # lazy: no prediction measures

    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        say(line)

    parts: dict[str, Callable[[float], dict[str, Any]]] = {
        "kernels": lambda seconds: measure_kernels(
            budget=f"{seconds}s", label=label, spent_s=spent_s, progress=progress, say=hear
        ),
        "links": lambda seconds: measure_links(budget=f"{seconds}s", folder=folder, label=label, progress=progress),
        "ladder": lambda seconds: measure_ladder(
            budget_s=seconds, label=label, progress=lambda done, total: progress(done, total, "ladder")
        ),
    }
    found = everything.everything(parts, budget_s=budget_s, spent_s=spent_s, say=hear)
    return {**head("measure", said), **found}


def measure_model(
    model: str,
    *,
    inputs: Sequence[int] = (64, 512),
    batches: Sequence[int] = (1,),
    dtype: str = "bf16",
    on: str = "",
    engine: str = "pytorch",
    backend: str = "pytorch",
    device: str = "cpu",
    threads: int = 0,
    label: str = "",
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Forward passes of a model with random weights beside what is predicted `on` this machine: `gemmstone.measure/1`.

    A prompt of each length in `inputs`, and a step of decoding behind as many tokens, for each number of sequences.
    """
    from gemmstone.calibrate import closed_loop  # lazy: no prediction measures
    from gemmstone.core import dtypes
    from gemmstone.measure import models

    if backend != models.BACKEND:
        raise BadRequest(f"models are measured with {models.BACKEND}, not with {backend[:40]!r}")
    passes = models.Asked(
        model=load_model(model),
        cases=models.cases(inputs, batches),
        dtype=dtypes.resolve(dtype),
        device=device,
        threads=threads,
    )
    asked = closed_loop.Asked(
        name=model, passes=passes, on=on or calibration_files.THIS_MACHINE, engine=engine, label=label
    )
    return {**head("measure", []), **closed_loop.loop(asked, progress=progress, say=say)}


def _most_telling(device: str, threads: int) -> Callable[[str, str], list[Call]]:
    """Orders the calls of a family in a format by what they tell of a machine that is about to be measured."""
    from gemmstone.calibrate import worth  # lazy: no prediction measures

    def order(family: str, dtype: str) -> list[Call]:
        known = worth.guessed(device, threads)
        return [] if known is None else worth.calls(family, dtype, known)

    return order


def measure_power(*, device: str = "", seconds: float = 0.0) -> dict[str, Any]:
    """Meters of power that are on this machine, or why not, and what they show over `seconds`: `gemmstone.measure/1`."""
    from gemmstone.measure import power  # lazy: no prediction measures

    return {**head("measure", []), **power.readings(device, seconds)}
