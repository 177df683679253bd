"""One budget for kernels, links and the ladder."""

from __future__ import annotations

from typing import Any

import pytest

from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.measure import everything


class World:
    """A clock, and parts that take what they are given or longer."""

    def __init__(self, **takes_s: float) -> None:
        self.now_s = 100.0
        self.takes_s = takes_s
        self.given_s: dict[str, float] = {}
        self.said: list[str] = []

    def part(self, name: str) -> everything.Part:
        def measure(seconds: float) -> dict[str, Any]:
            self.given_s[name] = seconds
            self.now_s += self.takes_s.get(name, seconds)
            return {"interrupted": self.takes_s.get(name) == 0.0}

        return measure

    def measured(self, budget_s: float, spent_s: float = 0.0) -> dict[str, Any]:
        parts = {name: self.part(name) for name in everything.LEAST_S}
        return everything.everything(
            parts, budget_s=budget_s, spent_s=spent_s, say=self.said.append, clock=lambda: self.now_s
        )


def test_parts_share_the_time() -> None:
    world = World(kernels=68.0)  # two seconds of its 70 had gone before
    document = world.measured(100.0, spent_s=2.0)
    assert world.given_s == pytest.approx({"kernels": 70.0, "links": 18.0, "ladder": 12.0})
    assert document["elapsed_s"] == pytest.approx(100.0)
    assert not document["interrupted"]
    assert world.said == []


def test_who_takes_longer_takes_it_from_those_that_follow() -> None:
    world = World(links=25.0)
    document = world.measured(100.0)
    assert world.given_s["ladder"] == pytest.approx(5.0)
    assert document["elapsed_s"] == pytest.approx(100.0)


def test_what_there_is_no_time_for_is_left_out_and_told() -> None:
    world = World(kernels=19.5)
    document = world.measured(20.0)
    assert set(world.given_s) == {"kernels"}
    assert document["links"] is None
    assert document["ladder"] is None
    assert [line.split(":")[0] for line in world.said] == ["links", "ladder"]
    assert document["elapsed_s"] <= 20.0


def test_a_part_without_an_answer_leaves_the_others_theirs() -> None:
    def nothing(seconds: float) -> dict[str, Any]:
        raise NoAnswer("no drive here")

    world = World()
    parts = {"kernels": nothing, "links": nothing, "ladder": world.part("ladder")}
    document = everything.everything(parts, budget_s=60.0, say=world.said.append, clock=lambda: world.now_s)
    assert document["ladder"] == {"interrupted": False}
    assert document["kernels"] is None
    assert world.said == ["kernels: no drive here", "links: no drive here"]
    with pytest.raises(NoAnswer, match="longer --budget"):
        everything.everything({"links": nothing}, budget_s=60.0, clock=lambda: 0.0)


def test_an_interruption_ends_all() -> None:
    world = World(links=0.0)
    document = world.measured(100.0)
    assert document["interrupted"]
    assert document["ladder"] is None


@pytest.mark.parametrize("budget_s", [1.0, 19.9, -5.0, 1e9])
def test_a_budget_that_cannot_be_shared_is_refused(budget_s: float) -> None:
    with pytest.raises(BadRequest, match="between 20s and 24h"):
        World().measured(budget_s)
