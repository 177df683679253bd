"""Going up: each rung's time is guessed from a small part, those that fit the time are measured, and every result is checked."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from gemmstone.core.errors import BadRequest, MissingBackend, NoAnswer
from gemmstone.core.measurement import Call, Conditions, Measurement
from gemmstone.measure import host, timing
from gemmstone.measure.backends import Prepared
from gemmstone.measure.conditions import watching
from gemmstone.measure.ladder import check, on_gpu
from gemmstone.measure.ladder.arithmetic import flop
from gemmstone.measure.ladder.problem import FLOAT_BYTES, OPERANDS_BYTES, Problem, Ready, made
from gemmstone.measure.ladder.rungs import GPU, RUNGS, Rung
from gemmstone.measure.peak import Peak, datasheet, peak, usable_cores

MOST_N = 1_000_000
TRIED_N = {True: 4096, False: 512}  # of the product that says how long a rung takes, by Rung.slow
PLANNED = 0.8  # of the budget, for one pass of every rung: the rest is for checks, warm-ups and more passes
TRIFLE_S = 0.1  # of a pass that is never left out, however little time there is
LEAST_S = 0.1  # that each rung is given
SLOW_S = 0.5  # from which a rung is warmed up by a part of itself
LONG_S, LONG_PASSES = 1.0, 3  # passes that long are few: nobody waits for the six that an interval of the median needs
MEMORY_SHARE = 0.9  # of what is free
REFERENCE_BYTES = 32.0  # of an element that is checked: float64 rows of the reference
Say = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Climbed:
    """A rung after the climb: its samples and error, or why it was left out. guess_s: what it would take; bound: of max_error."""

    rung: Rung
    skipped: str = ""
    guess_s: float | None = None
    samples_s: tuple[float, ...] = ()
    warm_up: int = 0
    calls: int = 1
    max_error: float = math.nan
    bound: float = math.nan
    threads: int = 1
    busy_cores: float = math.nan
    device: str = "cpu"
    version: str = ""
    started: str = ""
    conditions: Conditions = field(default_factory=Conditions)

    @property
    def kept_s(self) -> list[float]:
        """The samples that count."""
        return list(self.samples_s[self.warm_up :])

    @property
    def wrong(self) -> bool:
        """Whether its result is further from float64 than its format explains."""
        return not self.skipped and not self.max_error <= self.bound


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """All rungs of a climb in their order, the peaks by format and place, and how the machine was used."""

    n: int
    threads: int
    budget_s: float
    elapsed_s: float
    rungs: tuple[Climbed, ...]
    peaks: dict[tuple[str, str], Peak | None]
    checked_rows: int
    conditions: Conditions


def climb(
    n: int, *, budget_s: float, seed: int = 0, rungs: Sequence[Rung] = RUNGS, say: Say = lambda name, done, total: None
) -> Ladder:
    """Measures the product of two n x n matrices on every rung that ends within the budget.

    Raises BadRequest for a size that does not fit in memory, NoAnswer where no rung ends in time.
    """
    until = time.perf_counter() + budget_s
    threads = usable_cores()
    _check_size(n)
    with watching() as watch:
        started = time.perf_counter()
        peaks = _peaks(rungs, threads)
        problem = made(min(n, TRIED_N[True]), threads, seed)
        planned = _admitted([_guessed(rung, problem, n) for rung in rungs], until)
        if all(one.skipped for one in planned):
            raise _nothing(n, planned, budget_s)
        problem = problem if problem.n == n else made(n, threads, seed)
        exact = check.reference(problem.a, problem.b, seed)
        done = list(planned)
        # the fastest first: what they do not need of their time is there for more passes of the slow ones
        order = sorted((i for i, one in enumerate(planned) if not one.skipped), key=lambda i: planned[i].guess_s or 0.0)
        for number, i in enumerate(order):
            say(planned[i].rung.name, number, len(order))
            limit_s = _share_s([planned[j] for j in order[number:]], until)
            done[i] = _measured(planned[i], problem, exact, limit_s)
        # peaks are taken twice: whatever else ran meanwhile took from one of them
        peaks = {key: _larger(peaks[key], found) for key, found in _peaks(rungs, threads).items()}
    if all(one.skipped for one in done):
        raise _nothing(n, done, budget_s)
    return Ladder(
        n=n,
        threads=threads,
        budget_s=budget_s,
        elapsed_s=time.perf_counter() - started,
        rungs=tuple(done),
        peaks=peaks,
        checked_rows=exact.rows.size,
        conditions=watch.conditions,
    )


def _check_size(n: int) -> None:
    if not 1 <= n <= MOST_N:
        raise BadRequest(f"--n is from 1 to {MOST_N:,}, not {n:,}")
    elements = OPERANDS_BYTES + FLOAT_BYTES
    rows = n if n <= check.ALL_ROWS else check.SAMPLED_ROWS
    need, free = elements * float(n) ** 2 + REFERENCE_BYTES * rows * n, MEMORY_SHARE * host.available_bytes()
    if need > free:
        most = int(math.sqrt(free / elements))
        raise BadRequest(
            f"three {n:,} x {n:,} matrices of float32 need {need / 1e9:,.1f} GB and {free / 1e9:,.1f} GB are free: --n {most} fits"
        )


def _peaks(rungs: Sequence[Rung], threads: int) -> dict[tuple[str, str], Peak | None]:
    """The peaks by format and place: measured on the processor, the datasheet's on a device; None where neither is to be had."""
    found: dict[tuple[str, str], Peak | None] = {}
    for dtype, kind in dict.fromkeys((rung.dtype, "cuda" if rung.place == GPU else "cpu") for rung in rungs):
        try:
            if kind == "cuda":
                found[dtype, kind] = datasheet(on_gpu.device_name(), dtype)
            else:
                found[dtype, kind] = peak(dtype, threads, stand_in=found.get(("fp32", "cpu")))
        except (MissingBackend, BadRequest):
            found[dtype, kind] = None
    return found


def _larger(one: Peak | None, other: Peak | None) -> Peak | None:
    return max(filter(None, (one, other)), key=lambda found: found.flop_per_s, default=None)


def _guessed(rung: Rung, problem: Problem, n: int) -> Climbed:
    """A rung with the seconds that one pass of size n would take, tried on a smaller one, or with why it cannot run here."""
    need, free = rung.extra_bytes * float(n) ** 2, MEMORY_SHARE * host.available_bytes()
    if need > free:
        return Climbed(rung=rung, skipped=f"needs {need / 1e9:,.1f} GB more and {free / 1e9:,.1f} GB are free")
    small = problem.leading(TRIED_N[rung.slow])
    try:
        ready = rung.prepare(small)
        check.check_formats(rung.dtype, ready.operands)
        with ready.around():
            share_s = _tried(ready)
    except (MissingBackend, BadRequest) as error:
        return Climbed(rung=rung, skipped=str(error))
    except (
        RuntimeError,
        MemoryError,
        NotImplementedError,
    ) as error:  # a library that lacks the product says so in its own way
        return Climbed(rung=rung, skipped=_own_words(error))
    return Climbed(rung=rung, guess_s=share_s * (n / small.n) ** 3)


def _tried(ready: Ready) -> float:
    """Seconds of a whole pass, from one part of it or one pass, after another that warmed up."""

    def once() -> float:
        started = time.perf_counter()
        share = 1.0 if ready.part is None else ready.part()
        if ready.part is None:
            ready.call()
        ready.synchronize()
        return (time.perf_counter() - started) / share

    return min(once(), once())


def _own_words(error: BaseException) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__


def _admitted(guessed: Sequence[Climbed], until: float) -> list[Climbed]:
    """The fastest first, rungs are taken while a pass of each ends in time; the others say what they would take."""
    left = PLANNED * max(until - time.perf_counter(), 0.0)
    found = list(guessed)
    for i in sorted(range(len(found)), key=lambda i: found[i].guess_s or 0.0):
        guess_s = found[i].guess_s
        if guess_s is None:
            continue
        if guess_s > max(left, TRIFLE_S):
            found[i] = replace(found[i], skipped=f"would take about {_about(guess_s)} a pass: more --budget")
        else:
            left -= guess_s
    return found


def _about(seconds: float) -> str:
    unit, size = next(
        (unit, size) for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 0.0)) if seconds >= 2 * size
    )
    return f"{seconds / (size or 1.0):.2g} {unit}"


def _share_s(left: Sequence[Climbed], until: float) -> float:
    """Seconds for the first of the rungs that are left: its own pass and its part of what is not planned."""
    guesses = [one.guess_s or 0.0 for one in left]
    spare_s = until - time.perf_counter() - sum(guesses)
    return max(guesses[0] + max(spare_s, 0.0) / len(guesses) * PLANNED, LEAST_S)


def _measured(one: Climbed, problem: Problem, exact: check.Reference, limit_s: float) -> Climbed:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        ready = one.rung.prepare(problem)
        ready.clear()
        with watching(ready.device) as watch:
            cpu_s, from_s = time.process_time(), time.perf_counter()
            with ready.around():
                samples, warm_up, calls = _samples(ready, one.guess_s or 0.0, limit_s)
            busy = (time.process_time() - cpu_s) / (time.perf_counter() - from_s)
        found = ready.rows(exact.rows)
    except (MissingBackend, BadRequest) as error:
        return replace(one, skipped=str(error))
    except (RuntimeError, MemoryError) as error:
        return replace(one, skipped=_own_words(error))
    return replace(
        one,
        samples_s=tuple(float(seconds) for seconds in samples),
        warm_up=warm_up,
        calls=calls,
        max_error=check.error(found, exact),
        bound=check.bound(one.rung.dtype, exact),
        threads=ready.threads,
        busy_cores=busy,
        device=ready.device,
        version=ready.version,
        started=started,
        conditions=watch.conditions,
    )


def _samples(ready: Ready, guess_s: float, limit_s: float) -> tuple[Any, int, int]:
    """Seconds of passes, how many of them are warm-ups, and passes a sample. A slow rung is warmed up by a part of itself."""
    if guess_s < SLOW_S or ready.part is None:
        most = timing.MOST if guess_s < SLOW_S else max(1, int(limit_s / guess_s) - 1)
        found = timing.timed(Prepared(ready.call, ready.synchronize), limit_s=limit_s, most=most)
        return found.samples_s, found.warm_up, found.calls
    ready.part()
    gc.collect()
    taken: list[float] = []
    most = timing.MOST if guess_s < LONG_S else LONG_PASSES
    # one more has to end in time
    while not taken or (len(taken) < most and sum(taken) * (1.0 + 1.0 / len(taken)) <= limit_s):
        started = time.perf_counter()
        ready.call()
        taken.append(time.perf_counter() - started)
        if len(taken) >= timing.LEAST and timing.interval(taken).half_frac <= timing.WITHIN:
            break
    return np.array(taken), 0, 1


def _nothing(n: int, rungs: Sequence[Climbed], budget_s: float) -> NoAnswer:
    guesses = [one.guess_s for one in rungs if one.guess_s is not None]
    if not guesses:
        return NoAnswer(f"no rung runs here: {rungs[0].skipped}")
    least = math.ceil(min(guesses) / PLANNED * 1.5)
    return NoAnswer(f"no rung ends within {budget_s:g} s for --n {n}: the fastest needs --budget {least}s or so")


def measurement(one: Climbed, n: int) -> Measurement:
    """A rung as the store keeps it."""
    call = Call(family="gemm", dtype=one.rung.dtype, shape={"m": n, "n": n, "k": n})
    element_bytes = {"fp64": 8.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0}.get(one.rung.dtype, 4.0)
    return Measurement(
        call=call,
        backend=one.rung.name,
        version=one.version,
        device=one.device,
        threads=one.threads,
        samples_s=np.array(one.samples_s),
        warm_up=one.warm_up,
        calls=one.calls,
        flop=flop(n),
        read_bytes=2.0 * element_bytes * n * n,
        write_bytes=element_bytes * n * n,
        max_error=one.max_error,
        conditions=one.conditions,
        started=one.started,
    )
