"""Work in turn under a meter, with a made-up clock that the work itself moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gemmstone.core.errors import BadRequest
from gemmstone.measure.alternate import Block, alternated
from gemmstone.measure.meters.window import Meter, Sensor, Window


class Machine:
    """Seconds go by when something works; its meter counts what that drew, and a drift on top that grows by the second."""

    def __init__(self, drift_w_per_s: float = 0.0) -> None:
        self.now_s = self.joules = 0.0
        self.drift = drift_w_per_s
        self.done: list[str] = []

    def work(self, name: str, seconds: float, watts: float) -> Callable[[], None]:
        def step() -> None:
            self.joules += seconds * (watts + self.drift * (self.now_s + seconds / 2))
            self.now_s += seconds
            self.done.append(name)

        return step

    def meter(self, update_s: float = 0.01) -> Meter:
        sensor = Sensor("energy", lambda: self.joules)
        return Meter(name="fake", device="cpu", scope="board", sensors=(sensor,), update_s=update_s, most_w=1e4)

    def alternate(
        self, work: dict[str, Callable[[], None]], rounds: int, seconds: float, update_s: float
    ) -> list[Block]:
        def clock() -> float:
            return self.now_s

        return alternated(
            work,
            self.meter(update_s),
            rounds=rounds,
            seconds=seconds,
            clock=clock,
            window=lambda meter: Window(meter, clock=clock, background=False),
        )


def test_blocks_go_to_and_fro_and_last_long_enough() -> None:
    here = Machine()
    work = {"fp32": here.work("fp32", 0.5, 100.0), "bf16": here.work("bf16", 0.25, 80.0)}
    blocks = here.alternate(work, 3, 2.0, 0.01)
    assert [block.name for block in blocks] == ["fp32", "bf16", "bf16", "fp32", "fp32", "bf16"]
    assert [block.round for block in blocks] == [0, 0, 1, 1, 2, 2]
    assert {(b.name, b.steps, b.step_s, b.step_j) for b in blocks} == {("fp32", 4, 0.5, 50.0), ("bf16", 8, 0.25, 20.0)}
    assert {b.power.mean_w for b in blocks if b.power is not None} == {100.0, 80.0}
    assert here.done[:2] == ["fp32", "bf16"]  # warm-ups


def test_a_block_is_as_long_as_the_meter_needs() -> None:
    here = Machine()
    (block,) = here.alternate({"work": here.work("work", 1.0, 100.0)}, 1, 2.0, update_s=1.0)
    assert block.steps == 22  # twenty updates and a tenth more
    assert block.power is not None


def test_a_drift_falls_on_both_alike() -> None:
    """Up by 1 W a second: in one order the second of a pair would seem to draw 2 W more; to and fro both draw the same."""
    here = Machine(drift_w_per_s=1.0)
    work = {name: here.work(name, 0.5, 100.0) for name in ("fp32", "bf16")}
    blocks = here.alternate(work, 4, 2.0, 0.01)
    watts = {name: [b.power.mean_w for b in blocks if b.power is not None and b.name == name] for name in work}
    assert sum(watts["fp32"]) == pytest.approx(sum(watts["bf16"]))
    assert watts["bf16"][0] - watts["fp32"][0] == pytest.approx(2.0)


def test_a_meter_that_answers_nothing_says_why() -> None:
    here = Machine()
    (block,) = here.alternate({"work": here.work("work", 1.0, 0.0)}, 1, 2.0, 0.01)
    assert block.power is None
    assert block.step_j is None
    assert block.why == "fake: energy stood still for 2 s"


def test_nothing_to_alternate() -> None:
    here = Machine()
    for work, rounds, seconds in (
        ({}, 1, 1.0),
        ({"a": here.work("a", 1, 1)}, 0, 1.0),
        ({"a": here.work("a", 1, 1)}, 1, 0.0),
    ):
        with pytest.raises(BadRequest, match="rounds of some work"):
            here.alternate(work, rounds, seconds, 0.01)
