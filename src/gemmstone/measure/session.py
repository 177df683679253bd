"""Measures a list of calls in passes that lie apart in time, within a budget, keeping everything as soon as it is there.

Every call is measured in a first pass and again in a second: what the two disagree by is what the machine does to measurements,
which no number of samples in a row tells. Time that is left goes to calls whose passes disagree. A pass gives every family its
share of the time, and every call what is left of the pass, so that calls that are soon known leave theirs to those that are not.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from gemmstone.core.errors import GemmstoneError, MissingBackend
from gemmstone.core.measurement import Conditions, Measurement, Power
from gemmstone.measure import calls as table
from gemmstone.measure import host, meters
from gemmstone.measure.agreement import AGREES_FRAC, ops
from gemmstone.measure.backends import Prepared, backend
from gemmstone.measure.clock import effective_hz
from gemmstone.measure.conditions import watching
from gemmstone.measure.meters import Meter
from gemmstone.measure.suite import Item, guessed_s
from gemmstone.measure.timing import timed

Clock = Callable[[], float]
# Of the time there is: where the first pass ends, and where the second should; the rest is for calls that are measured again.
FIRST_FRAC, SECOND_FRAC = 0.5, 0.88
RESERVE_S, RESERVE_FRAC = 1.0, 0.01  # kept for writing the run
MOST_PASSES = 5
# Sampling of one call: at least so long where that is chosen beforehand, and at most so long whatever is left of the budget.
LEAST_S, TYPICAL_S, MOST_S = 0.15, 0.4, 2.0
CALLS_A_SAMPLING = 10  # warm-ups and samples without which there is no median worth the name
FILL_BYTES_PER_S = 1.5e9  # random numbers into fresh memory, until it was measured here
PREPARE_S = 0.03
WEIGHTS = {"gemm": 4.0, "attention_prefill": 2.0, "attention_decode": 2.0}  # shares of the time; all others one


class Watched(Protocol):
    """What tells the conditions of a span of time."""

    conditions: Conditions


class Metered(Protocol):
    """What tells the power over a span of time; None where the span was too short or nothing can be read."""

    @property
    def power(self) -> Power | None: ...


class World(NamedTuple):
    """What a session needs of the machine; tests have their own."""

    clock: Clock
    prepare: Callable[[Item], Prepared]
    version: Callable[[str], str]
    watching: Callable[[str], AbstractContextManager[Watched]]
    metered: Callable[[str], AbstractContextManager[Metered]]
    now: Callable[[], str]
    effective_hz: Callable[[], float | None] = lambda: None


class Keeps(Protocol):
    """A draft of the store, as far as a session needs it."""

    def add(self, measurement: Measurement) -> None: ...

    def measurements(self) -> list[Measurement]: ...


@dataclass(kw_only=True)
class Outcome:
    """How a session went: what was left out for want of time or could not be measured, and whether it was interrupted."""

    asked: int
    kept: int = 0  # calls with at least one measurement
    left_out: list[Item] = field(default_factory=list)
    once: int = 0  # calls for whose second measurement there was no time
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    elapsed_s: float = 0.0
    clocks_hz: tuple[float | None, float | None] = (None, None)  # of a core, before and after


def world() -> World:
    """The real one."""
    return World(time.perf_counter, _prepare, _version, watching, _metered, _now, effective_hz)


class _Unmetered:
    """A span whose power nothing tells."""

    power: Power | None = None


def _metered(device: str) -> AbstractContextManager[Metered]:
    meter = _meter(device)
    return meter.window() if meter is not None else nullcontext(_Unmetered())


@cache
def _meter(device: str) -> Meter | None:
    try:
        return meters.meter(device)
    except MissingBackend:
        return None


def _prepare(item: Item) -> Prepared:
    return backend(item.backend).prepare(item.call, item.device, item.threads)


def _version(name: str) -> str:
    return backend(name).version()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def interleaved(items: Sequence[Item], cost: Callable[[Item], float]) -> list[Item]:
    """The items of all families in turns, each in its own order, so that at any moment each has had its share of the time."""
    waiting: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        waiting[item.call.family].append(item)
    spent = dict.fromkeys(waiting, 0.0)
    found: list[Item] = []
    while waiting:
        # ties go to the family that was named first: dictionaries keep that order
        family = min(waiting, key=lambda name: spent[name] / WEIGHTS.get(name, 1.0))
        item = waiting[family].pop(0)
        found.append(item)
        spent[family] += cost(item)
        if not waiting[family]:
            del waiting[family]
    return found


class _Costs:
    """What calls cost in time: guessed at first, corrected by what the same kind has cost."""

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        self.known: dict[tuple[str, str, str, int], float] = {}
        self.prepared: dict[tuple[str, str, str, int], float] = {}
        self._ratios: dict[str, list[float]] = defaultdict(list)
        self._guesses: dict[tuple[str, str, str, int], tuple[float, float]] = {}
        for one in measurements:
            self.learn(one, Item(call=one.call, backend=one.backend, device=one.device, threads=one.threads))

    def learn(self, measured: Measurement, item: Item, prepare_s: float = 0.0) -> None:
        self.known[item.key] = measured.median_s
        self.prepared[item.key] = max(prepare_s, self.prepared.get(item.key, 0.0))
        self._ratios[item.call.family].append(measured.median_s / max(self._guessed(item)[0], 1e-9))

    def _guessed(self, item: Item) -> tuple[float, float]:
        """Seconds of one call and of its preparation, before anything was measured."""
        if item.key not in self._guesses:
            filled = max(float(table.operation(item.call).bytes), 2.0 * host.last_level_bytes())
            call_s = guessed_s(item.call, item.device, item.threads)
            self._guesses[item.key] = call_s, PREPARE_S + filled / FILL_BYTES_PER_S
        return self._guesses[item.key]

    def call_s(self, item: Item) -> float:
        """Seconds of one call."""
        if item.key in self.known:
            return self.known[item.key]
        ratios = self._ratios[item.call.family]
        return self._guessed(item)[0] * (float(np.median(ratios)) if ratios else 1.0)

    def prepare_s(self, item: Item) -> float:
        """Seconds until its first call."""
        return self.prepared.get(item.key) or self._guessed(item)[1]

    def typical_s(self, item: Item) -> float:
        """Seconds that are planned for it."""
        return self.prepare_s(item) + max(TYPICAL_S, CALLS_A_SAMPLING * self.call_s(item))


def measure(
    items: Sequence[Item],
    draft: Keeps,
    *,
    budget_s: float,
    spent_s: float = 0.0,
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
    here: World | None = None,
) -> Outcome:
    """Measures the items into the draft until the budget, of which `spent_s` are gone, is over. Ctrl-C ends it early.

    What the draft holds already is not measured again in that pass.
    """
    here = here or world()
    started = here.clock() - spent_s
    ends = started + max(budget_s - RESERVE_S - RESERVE_FRAC * budget_s, 0.3 * budget_s)
    session = _Session(draft, _Costs(draft.measurements()), Outcome(asked=len(items)), here, progress)
    ordered = interleaved(items, session.costs.typical_s)
    clock_hz = here.effective_hz if any(item.device == "cpu" for item in items) else lambda: None
    try:
        session.outcome.clocks_hz = (clock_hz(), None)
        while True:
            before = len(session.done)
            began = started if not before else here.clock()
            session.passes(ordered, began, ends)
            session.again(ordered, ends)
            if len(session.done) == before:  # all is measured, or there is no time for anything more
                break
        session.outcome.clocks_hz = (session.outcome.clocks_hz[0], clock_hz())
    except KeyboardInterrupt:
        session.outcome.interrupted = True
    outcome, measured = session.outcome, {key for key, _ in session.done}
    outcome.kept = len(measured)
    outcome.once = sum((key, 1) not in session.done for key in measured)
    outcome.left_out = [item for item in ordered if item.key not in measured and item.call.title not in outcome.failed]
    outcome.elapsed_s = here.clock() - started
    return outcome


class _Session:
    """What is done of a session, and how the rest is done."""

    def __init__(
        self, draft: Keeps, costs: _Costs, outcome: Outcome, here: World, progress: Callable[[float, float, str], None]
    ) -> None:
        self.draft, self.costs, self.outcome, self.here, self.progress = draft, costs, outcome, here, progress
        self.done = {(one.key, one.round) for one in draft.measurements()}

    def passes(self, ordered: Sequence[Item], began: float, ends: float) -> None:
        """The first pass over what was not measured yet, and the second over all that has one alone."""
        left = ends - began
        first = [item for item in ordered if (item.key, 0) not in self.done]
        self._pass(first, 0, began + FIRST_FRAC * left, began + FIRST_FRAC * left)
        second = [item for item in ordered if (item.key, 0) in self.done and (item.key, 1) not in self.done]
        self._pass(second, 1, began + SECOND_FRAC * left, ends)

    def _pass(self, waiting: Sequence[Item], number: int, fair: float, until: float) -> None:
        total = len(self.done) + len(waiting) * (2 if number == 0 else 1)
        rest_s = self._rest_s(waiting)
        for at, item in enumerate(waiting):
            self.progress(len(self.done), total, item.call.title)
            self._one(item, number, len(waiting) - at, rest_s[at], fair, until)

    def _rest_s(self, waiting: Sequence[Item]) -> list[float]:
        """Seconds that preparing all that follow each of them will take."""
        costs = [self.costs.prepare_s(item) for item in waiting]
        return [float(rest) for rest in np.cumsum(costs[::-1])[::-1] - costs] if costs else []

    def _one(self, item: Item, number: int, waiting: int, rest_s: float, fair: float, until: float) -> None:
        """One measurement, unless there is no time for it: all that wait should be done by `fair`, this one by `until`."""
        began = self.here.clock()
        call_s = self.costs.call_s(item)
        if began + self.costs.prepare_s(item) + CALLS_A_SAMPLING * call_s > until:
            return
        try:
            prepared = self.here.prepare(item)
            error = prepared.check() if prepared.check is not None and number == 0 else None
            ready = self.here.clock()
            share = (fair - ready - rest_s) / waiting
            limit_s = min(max(share, LEAST_S, CALLS_A_SAMPLING * call_s), MOST_S, max(until - ready, 0.0))
            found = _sampled(item, number, prepared, limit_s, self.here)
        except (GemmstoneError, RuntimeError, MemoryError, ValueError) as problem:
            self.outcome.failed[item.call.title] = " ".join(str(problem).split())[:200] or type(problem).__name__
            return
        self.costs.learn(found, item, ready - began)
        self.draft.add(replace(found, max_error=error))
        self.done.add((item.key, number))

    def again(self, ordered: Sequence[Item], ends: float) -> None:
        """Measures calls whose passes disagree once more, the worst first, while there is time."""
        by_key = {item.key: item for item in ordered}
        for _ in range(MOST_PASSES - 2):
            found = [op for op in ops(self.draft.measurements()) if op.key in by_key and 2 <= op.passes < MOST_PASSES]
            worst = sorted(found, key=lambda op: -op.disagreement_frac)
            worst = [op for op in worst if op.disagreement_frac > AGREES_FRAC]
            waiting = [by_key[op.key] for op in worst]
            rest_s = self._rest_s(waiting)
            for at, (op, item) in enumerate(zip(worst, waiting, strict=True)):
                self.progress(at, len(worst), f"again: {item.call.title}")
                self._one(item, op.measurements[-1].round + 1, len(waiting) - at, rest_s[at], ends, ends)


def _sampled(item: Item, number: int, prepared: Prepared, limit_s: float, here: World) -> Measurement:
    """Samples of a call that is ready, with what went on meanwhile."""
    started = here.now()
    with here.watching(item.device) as watched, here.metered(item.device) as metered:
        samples = timed(prepared, limit_s=limit_s, clock=here.clock)
    op = table.operation(item.call)
    return Measurement(
        call=item.call,
        backend=item.backend,
        version=here.version(item.backend),
        device=item.device,
        threads=item.threads,
        samples_s=samples.samples_s,
        warm_up=samples.warm_up,
        calls=samples.calls,
        flop=float(op.flop),
        read_bytes=float(op.read_bytes),
        write_bytes=float(op.write_bytes),
        round=number,
        power=metered.power,
        conditions=watched.conditions,
        started=started,
    )


def asked(items: Sequence[Item], **options: Any) -> dict[str, Any]:
    """What a run says that was asked for: options, and the calls, so that it can be gone on with after an interruption."""
    return {**options, "calls": [item.document() for item in items]}


def mean_conditions(measurements: Iterable[Measurement]) -> Mapping[str, float]:
    """Steal, other processes and pressure over all measurements, weighted by their time; what no system told is left out."""
    found: dict[str, float] = {}
    every = list(measurements)
    for name in ("steal_frac", "other_cpu_frac", "cpu_pressure_frac", "memory_pressure_frac"):
        told = [(getattr(one.conditions, name), one.conditions.elapsed_s) for one in every]
        seen = [(value, weight) for value, weight in told if value is not None and weight > 0]
        if seen:
            found[name] = float(sum(value * weight for value, weight in seen) / sum(weight for _, weight in seen))
    return found
