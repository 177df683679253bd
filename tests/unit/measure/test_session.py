"""Sessions on a machine of which the clock is ours: budgets, passes, what is left out, interruptions, going on."""

from __future__ import annotations

from collections import Counter

import pytest
from measuring import Machine

from gemmstone.core.measurement import Call, Measurement
from gemmstone.measure import agreement, session
from gemmstone.measure.backends import Prepared
from gemmstone.measure.suite import Item

FAMILIES = ("gemm", "norm", "attention_decode")


def shape(family: str, number: int) -> dict[str, float]:
    if family == "gemm":
        return {"m": number + 1.0, "n": 64.0, "k": 64.0}
    if family == "norm":
        return {"tokens": number + 1.0, "width": 64.0}
    return {"batch": number + 1.0, "context": 64.0, "heads": 4.0, "kv_heads": 4.0, "head_dim": 64.0}


def items(count: int, families: tuple[str, ...] = FAMILIES) -> list[Item]:
    return [
        Item(call=Call(family=family, dtype="fp32", shape=shape(family, number)), backend="pytorch")
        for family in families
        for number in range(count)
    ]


class Draft:
    """Keeps measurements in memory, as the store's does on a disk."""

    def __init__(self) -> None:
        self.kept: list[Measurement] = []

    def add(self, measurement: Measurement) -> None:
        self.kept.append(measurement)

    def measurements(self) -> list[Measurement]:
        return list(self.kept)


def measure(
    machine: Machine, asked: list[Item], budget_s: float, draft: Draft | None = None
) -> tuple[session.Outcome, Draft]:
    draft = draft or Draft()
    return session.measure(asked, draft, budget_s=budget_s, here=machine.world()), draft


def test_every_call_is_measured_in_two_passes_that_lie_apart() -> None:
    asked = items(4)
    outcome, draft = measure(Machine(), asked, 60.0)
    assert [one.round for one in draft.kept] == [0] * 12 + [1] * 12
    assert Counter(one.key for one in draft.kept) == {item.key: 2 for item in asked}
    assert [one.key for one in draft.kept[:12]] == [one.key for one in draft.kept[12:]]
    assert (outcome.kept, outcome.once, outcome.left_out, outcome.interrupted) == (12, 0, [], False)


@pytest.mark.parametrize("budget_s", [10.0, 60.0])
@pytest.mark.parametrize("call_s", [1e-4, 0.02, 0.3])
def test_a_budget_is_kept_within_five_percent_whatever_calls_take(budget_s: float, call_s: float) -> None:
    machine = Machine(takes=lambda item, visit: call_s * (1.0 + 0.3 * (visit % 2)))
    started = machine.at_s
    outcome, draft = measure(machine, items(100), budget_s)
    assert machine.at_s - started <= 1.05 * budget_s
    # nothing is left out while there is time for it
    assert not outcome.left_out or machine.at_s - started >= 0.85 * budget_s - session.CALLS_A_SAMPLING * 1.3 * call_s
    assert draft.kept
    assert len(outcome.left_out) == 300 - outcome.kept


def test_what_was_spent_before_counts() -> None:
    machine = Machine()
    started = machine.at_s
    session.measure(items(300), Draft(), budget_s=60.0, spent_s=20.0, here=machine.world())
    assert machine.at_s - started <= 43.0


def test_every_family_has_its_share_when_time_is_short() -> None:
    outcome, draft = measure(Machine(), items(100), 30.0)
    first = Counter(one.call.family for one in draft.kept if one.round == 0)
    assert outcome.left_out
    assert set(first) == set(FAMILIES)
    # products weigh four, attention two, the rest one
    assert first["gemm"] / first["norm"] == pytest.approx(4.0, rel=0.35)
    assert first["attention_decode"] / first["norm"] == pytest.approx(2.0, rel=0.35)


def test_time_that_is_left_goes_to_calls_that_were_left_out() -> None:
    machine = Machine(takes=lambda item, visit: 1e-3 if len(machine.prepared) < 40 else 1e-4)
    outcome, draft = measure(machine, items(80), 60.0)
    seen = Counter(one.key for one in draft.kept)
    assert outcome.kept > 100
    assert sum(count >= 2 for count in seen.values()) >= outcome.kept - outcome.once


def test_calls_whose_passes_disagree_are_measured_again_and_only_those() -> None:
    asked = items(3)
    odd = asked[0].call.title
    machine = Machine(takes=lambda item, visit: 2e-3 if item.call.title == odd and visit == 1 else 1e-3)
    _, draft = measure(machine, asked, 60.0)
    seen = Counter(one.call.title for one in draft.kept)
    assert seen[odd] == 3
    assert {count for title, count in seen.items() if title != odd} == {2}
    found = {op.call.title: op for op in agreement.ops(draft.kept)}
    assert found[odd].median_s == pytest.approx(1e-3)  # two of three
    assert found[odd].disagreement_frac == pytest.approx(0.0)


def test_a_call_that_never_settles_is_not_measured_for_ever() -> None:
    machine = Machine(takes=lambda item, visit: 1e-3 * 1.5**visit)
    _, draft = measure(machine, items(1, ("gemm",)), 300.0)
    assert len(draft.kept) == session.MOST_PASSES
    found = agreement.ops(draft.kept)
    assert found[0].disagreement_frac == pytest.approx(1.5**2 - 1)  # three of five
    said = agreement.verdict(found, session.mean_conditions(draft.kept))
    assert said == "too noisy: 1 of 1 ops differ by up to 125% between passes; steal 4%"


def test_an_interruption_keeps_what_is_there_and_the_rest_is_gone_on_with() -> None:
    asked = items(4)
    first = Machine(stop_after=7)
    outcome, draft = measure(first, asked, 60.0)
    assert outcome.interrupted
    assert outcome.kept == len(draft.kept) == 7
    assert len(outcome.left_out) == 5

    second = Machine()
    outcome, draft = measure(second, asked, 60.0, draft)
    assert not outcome.interrupted
    assert Counter(one.key for one in draft.kept) == {item.key: 2 for item in asked}
    assert Counter((one.key, one.round) for one in draft.kept).most_common(1)[0][1] == 1  # nothing twice
    assert len(second.prepared) == 24 - 7


def test_a_call_that_fails_is_told_and_the_others_go_on() -> None:
    asked = items(2)
    broken = asked[1].call.title

    class Broken(Machine):
        def prepare(self, item: Item) -> Prepared:
            if item.call.title == broken:
                raise RuntimeError("no kernel\nfor this")
            return super().prepare(item)

    outcome, _ = measure(Broken(), asked, 60.0)
    assert outcome.failed == {broken: "no kernel for this"}
    assert outcome.kept == 5
    assert outcome.left_out == []


def test_results_are_checked_in_the_first_pass_alone() -> None:
    _, draft = measure(Machine(), items(1), 60.0)
    assert {one.max_error for one in draft.kept if one.round == 0} == {1e-7}
    assert {one.max_error for one in draft.kept if one.round == 1} == {None}


def test_conditions_are_means_over_time() -> None:
    _, draft = measure(Machine(), items(1), 60.0)
    assert session.mean_conditions(draft.kept) == {"steal_frac": pytest.approx(0.04)}


def test_the_clock_of_a_core_is_looked_at_before_and_after() -> None:
    machine = Machine(clocks_hz=[3.2e9, 2.9e9])
    outcome, _ = measure(machine, items(1), 60.0)
    assert outcome.clocks_hz == (3.2e9, 2.9e9)
    on_gpu = [Item(call=item.call, backend="pytorch", device="cuda:0") for item in items(1)]
    outcome, _ = measure(Machine(clocks_hz=[3.2e9, 2.9e9]), on_gpu, 60.0)
    assert outcome.clocks_hz == (None, None)  # its own clocks stand with every measurement
