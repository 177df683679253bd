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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from gemmstone.core.errors import GemmstoneError, MissingBackend
from gemmstone.core.measurement import Conditions, Measurement, Power
from gemmstone.measure import calls as table
from gemmstone.measure import host, meters
from gemmstone.measure.agreement import AGREES_FRAC, Op, ops
from gemmstone.measure.backends import Prepared, backend
from gemmstone.measure.conditions import watching
from gemmstone.measure.meters import Meter
from gemmstone.measure.suite import Item, guessed_s
from gemmstone.measure.timing import timed

Clock = Callable[[], float]
FIRST_FRAC, SECOND_FRAC = 0.5, 0.88  # of the budget: where the first and the second pass end at the latest
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


def world() -> World:
    """The real one."""
    return World(time.perf_counter, _prepare, _version, watching, _metered, _now)


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
        for one in measurements:
            self.learn(one, Item(call=one.call, backend=one.backend, device=one.device, threads=one.threads))

    def learn(self, measured: Measurement, item: Item, prepare_s: float = 0.0) -> None:
        self.known[item.key] = measured.median_s
        self.prepared[item.key] = max(prepare_s, self.prepared.get(item.key, 0.0))
        guess = guessed_s(item.call, item.device, item.threads)
        self._ratios[item.call.family].append(measured.median_s / max(guess, 1e-9))

    def call_s(self, item: Item) -> float:
        """Seconds of one call."""
        if item.key in self.known:
            return self.known[item.key]
        ratios = self._ratios[item.call.family]
        return guessed_s(item.call, item.device, item.threads) * (float(np.median(ratios)) if ratios else 1.0)

    def prepare_s(self, item: Item) -> float:
        """Seconds until its first call."""
        if self.prepared.get(item.key):
            return self.prepared[item.key]
        filled = max(float(table.operation(item.call).bytes), 2.0 * host.last_level_bytes())
        return PREPARE_S + filled / FILL_BYTES_PER_S

    def least_s(self, item: Item) -> float:
        """Seconds without which it is not begun."""
        return self.prepare_s(item) + CALLS_A_SAMPLING * self.call_s(item)

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
    costs = _Costs(draft.measurements())
    ordered = interleaved(items, costs.typical_s)
    done = {(one.key, one.round) for one in draft.measurements()}
    outcome = Outcome(asked=len(items))
    total = 2.0 * len(ordered)
    try:
        for number, frac in ((0, FIRST_FRAC), (1, SECOND_FRAC)):
            wanted = [item for item in ordered if number == 0 or (item.key, 0) in done]
            waiting = [item for item in wanted if (item.key, number) not in done]
            until = min(started + frac * budget_s, ends) if number == 0 else ends
            fair = min(started + frac * budget_s, ends)
            for at, item in enumerate(waiting):
                progress(len(done), total, item.call.title)
                one = _one(item, number, waiting[at + 1 :], costs, (fair, until), outcome, here)
                if one is not None:
                    draft.add(one)
                    done.add((item.key, number))
            total = float(len(done) + (sum((item.key, 0) in done for item in ordered) if number == 0 else 0))
        _again(ordered, draft, ends, costs, outcome, here, progress)
    except KeyboardInterrupt:
        outcome.interrupted = True
    measured = {key for key, _ in done}
    outcome.kept = len(measured)
    outcome.once = sum((key, 0) in done and (key, 1) not in done for key in measured)
    outcome.left_out = [item for item in ordered if item.key not in measured and item.call.title not in outcome.failed]
    outcome.elapsed_s = here.clock() - started
    return outcome


def _again(
    ordered: Sequence[Item],
    draft: Keeps,
    ends: float,
    costs: _Costs,
    outcome: Outcome,
    here: World,
    progress: Callable[[float, float, str], None],
) -> None:
    """Measures calls whose passes disagree again, the worst first, while there is time."""
    by_key = {item.key: item for item in ordered}
    for _ in range(MOST_PASSES - 2):
        found = [op for op in ops(draft.measurements()) if op.disagreement_frac > AGREES_FRAC and op.key in by_key]
        found = [op for op in found if op.passes < MOST_PASSES]
        worst: list[Op] = sorted(found, key=lambda op: -op.disagreement_frac)
        if not worst:
            return
        waiting = [by_key[op.key] for op in worst]
        for at, (op, item) in enumerate(zip(worst, waiting, strict=True)):
            progress(at, len(worst), f"again: {item.call.title}")
            one = _one(item, op.passes, waiting[at + 1 :], costs, (ends, ends), outcome, here)
            if one is not None:
                draft.add(one)


def _one(
    item: Item,
    number: int,
    following: Sequence[Item],
    costs: _Costs,
    times: tuple[float, float],
    outcome: Outcome,
    here: World,
) -> Measurement | None:
    """One measurement; None where there is no time for it, or where it cannot be made.

    times: when all that follow should be done, and when this one must be.
    """
    fair, until = times
    began = here.clock()
    if began + costs.least_s(item) > until:
        return None
    try:
        prepared = here.prepare(item)
        error = prepared.check() if prepared.check is not None and number == 0 else None
        ready = here.clock()
        left = fair - ready - sum(costs.prepare_s(other) for other in following)
        share = left / (1 + len(following))
        limit_s = min(max(share, LEAST_S, CALLS_A_SAMPLING * costs.call_s(item)), MOST_S, max(until - ready, 0.0))
        started = here.now()
        with here.watching(item.device) as watched, here.metered(item.device) as metered:
            samples = timed(prepared, limit_s=limit_s, clock=here.clock)
    except (GemmstoneError, RuntimeError, MemoryError, ValueError) as problem:
        outcome.failed[item.call.title] = " ".join(str(problem).split())[:200] or type(problem).__name__
        return None
    op = table.operation(item.call)
    found = Measurement(
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
        max_error=error,
        power=metered.power,
        conditions=watched.conditions,
        started=started,
    )
    costs.learn(found, item, ready - began)
    return found


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
