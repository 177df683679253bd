"""Runs against each other: what differs is found as often as it should, what does not is not, and what may not be compared is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_runs import ENVIRONMENT, GEMM, measured

from gemmstone.compare import significance
from gemmstone.compare.runs import Measured, compare
from gemmstone.compare.stability import stability
from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Call, Measurement, Run
from gemmstone.measure import environment

OTHERS = [Call(family="norm", dtype="fp32", shape={"tokens": 64.0, "width": 2.0**n}) for n in range(8, 12)]


def run(number: int, measurements: list[Measurement], **changed: Any) -> Measured:
    found = {section: {**ENVIRONMENT[section], **changed.get(section, {})} for section in ENVIRONMENT}
    return Measured(Run(id=f"20260101T000000000-{number:06x}", kind="kernels", environment=found), measurements)


def drifting(
    number: int, *, ratio: float = 1.0, drift: float, rounds: int = 2, calls: list[Call] | None = None
) -> Measured:
    """A run whose rounds have each a level of their own, `drift` being its scatter; samples scatter by 1%."""
    random = np.random.default_rng(number)
    made = []
    for which in range(rounds):
        for place, call in enumerate(calls or [GEMM, *OTHERS]):
            level = ratio * np.exp(drift * random.standard_normal())
            made.append(measured(call, 1e-3 * level, seed=1000 * number + 10 * which + place, round=which))
    return run(number, made)


def verdicts(document: dict[str, Any]) -> list[str]:
    return [call["verdict"] for call in document["calls"]]


class TestVerdicts:
    def test_a_change_in_one_call_is_found_in_that_call(self):
        sides = [
            [run(10 * side + n, [measured(call, 1e-3 * (1.1 if side and call is GEMM else 1.0), seed=97 * n + 13 * side + i)
             for i, call in enumerate([GEMM, *OTHERS])]) for n in range(4)]
            for side in (0, 1)
        ]  # fmt: skip
        found = compare(*sides)
        assert found["basis"] == ["runs"]
        (gemm,) = [call for call in found["calls"] if call["family"] == "gemm"]
        assert gemm["verdict"] == "significant"
        assert gemm["low"] < 1.1 < gemm["high"]
        assert gemm["ratio"] == pytest.approx(1.1, rel=0.01)
        assert gemm["units"] == [4, 4]
        assert set(verdicts(found)) - {"significant"} == {"not significant"}
        family = {entry["family"]: entry for entry in found["families"]}
        assert (family["gemm"]["slower"], family["gemm"]["faster"]) == (1, 0)
        assert family["gemm"]["p_value"] < 0.001 < family["norm"]["p_value"]
        assert family["norm"]["ratio"] == pytest.approx(1.0, abs=0.01)
        (time,) = [entry for entry in found["stability"] if entry["metric"] == "time"]
        assert (time["unstable"], time["instability_frac"], time["needed"]) == (
            None,
            None,
            5,
        )  # 2 / 70 five times is 0.14

    def test_runs_enough_say_in_how_many_calls_two_sides_differ(self):
        sides = [
            [run(10 * side + n, [measured(call, 1e-3 * (1.1 if side and call is GEMM else 1.0), seed=97 * n + 13 * side + i)
             for i, call in enumerate([GEMM, *OTHERS])]) for n in range(5)]
            for side in (0, 1)
        ]  # fmt: skip
        (time,) = [entry for entry in compare(*sides)["stability"] if entry["metric"] == "time"]
        assert (time["unstable"], time["calls"], time["needed"]) == (1, 5, None)

    @pytest.mark.parametrize(("runs", "rounds", "basis"), [(1, 2, "samples"), (1, 3, "rounds"), (2, 2, "runs")])
    def test_the_units_are_the_most_independent_there_are(self, runs, rounds, basis):
        sides = [[drifting(10 * side + n, drift=0.01, rounds=rounds) for n in range(runs)] for side in (1, 2)]
        found = compare(*sides)
        assert found["basis"] == [basis]
        assert found["calls"][0]["units"][0] == {"samples": 60, "rounds": 3, "runs": 2}[basis]

    @pytest.mark.parametrize(("runs", "rounds"), [(1, 2), (1, 4), (3, 2)])
    def test_drift_is_not_called_a_difference(self, runs, rounds):
        """Levels that differ by 3% from round to round, samples that scatter by 1%: a test of samples alone would call most of them
        different. Of 60 comparisons of nothing with nothing a family-wise level of 5% allows 3; 8 have a chance of one in 100."""
        wrong = alone = 0
        for trial in range(60):
            one, other = (
                [drifting(1000 * trial + 100 * side + n + 1, drift=0.03, rounds=rounds) for n in range(runs)]
                for side in (0, 1)
            )
            found = compare(one, other)
            wrong += "significant" in verdicts(found)
            samples = [
                np.concatenate([m.kept_s for r in side for m in r.measurements if m.call is GEMM])
                for side in (one, other)
            ]
            alone += significance.rank_p(samples[0], samples[1]) <= 0.05
        assert wrong <= 8
        assert alone > 20

    @pytest.mark.parametrize(("runs", "rounds"), [(1, 2), (1, 4), (3, 2)])
    def test_a_fifth_is_found_through_that_drift(self, runs, rounds):
        found = 0
        for trial in range(20):
            one = [drifting(1000 * trial + n + 1, drift=0.02, rounds=rounds) for n in range(runs)]
            other = [drifting(1000 * trial + 500 + n, drift=0.02, rounds=rounds, ratio=1.2) for n in range(runs)]
            found += verdicts(compare(one, other)).count("significant")
        assert found >= 0.8 * 20 * 5

    def test_what_is_too_few_to_tell_says_how_many_it_takes(self):
        one = [drifting(n, drift=0.05, calls=[GEMM]) for n in (1, 2)]
        other = [drifting(n, drift=0.05, ratio=1.06, calls=[GEMM]) for n in (3, 4)]
        (call,) = compare(one, other)["calls"]
        assert call["verdict"] == f"needs {call['needed']} runs"
        logs = [
            np.log([np.median([m.median_s for m in side.measurements]) for side in sides]) for sides in (one, other)
        ]
        pooled = np.sqrt((np.var(logs[0], ddof=1) + np.var(logs[1], ddof=1)) / 2)
        assert call["needed"] == significance.needed(abs(logs[1].mean() - logs[0].mean()), pooled)

    def test_more_calls_need_more_runs(self):
        """One of a hundred tests must be surer of itself than one alone."""
        one = [drifting(n, drift=0.03, calls=[GEMM]) for n in (1, 2)]
        other = [drifting(n, drift=0.03, ratio=1.06, calls=[GEMM]) for n in (3, 4)]
        many = [Call(family="norm", dtype="fp32", shape={"tokens": 1.0, "width": float(n)}) for n in range(1, 100)]
        with_many = [
            [Measured(r.run, [*r.measurements, *(measured(c, seed=i) for i, c in enumerate(many))]) for r in side]
            for side in (one, other)
        ]
        alone, among = compare(one, other)["calls"][0], compare(*with_many)["calls"][0]
        assert among["needed"] > 1.5 * alone["needed"]

    def test_runs_without_any_scatter(self):
        steady = [replace(measured(), samples_s=np.full(33, 1e-3)), replace(measured(), samples_s=np.full(33, 2e-3))]
        same = compare([run(1, steady[:1]), run(2, steady[:1])], [run(3, steady[:1]), run(4, steady[:1])])
        assert (same["calls"][0]["ratio"], verdicts(same)) == (1.0, ["not significant"])
        other = compare([run(1, steady[:1]), run(2, steady[:1])], [run(3, steady[1:]), run(4, steady[1:])])
        assert (other["calls"][0]["ratio"], verdicts(other)) == (2.0, ["significant"])

    def test_a_time_of_zero_has_no_ratio(self):
        none = replace(measured(), samples_s=np.zeros(33))
        with pytest.raises(BadRequest, match=r"gemm fp32 .* has a time of zero"):
            compare([run(1, [none])], [run(2, [measured()])])


class TestWhatMayBeCompared:
    def test_calls_of_one_side_are_named(self):
        found = compare([run(1, [measured(), measured(OTHERS[0])])], [run(2, [measured(), measured(OTHERS[1])])])
        assert [call["call"] for call in found["calls"]] == [GEMM.title]
        assert [[name.partition(",")[0] for name in side] for side in found["only"]] == [
            [OTHERS[0].title],
            [OTHERS[1].title],
        ]

    @pytest.mark.parametrize(
        ("changed", "name"),
        [
            ({"hardware": {"cpu": "Example 9001"}}, "hardware.cpu"),
            ({"software": {"numpy": "2.3.0"}}, "software.numpy"),
            ({"limits": {"cpus": 1.0}}, "limits.cpus"),
        ],
    )
    def test_environments_that_differ_are_refused_by_name_and_can_be_accepted(self, changed, name):
        sides = [run(1, [measured()])], [run(2, [measured(seed=1)], **changed)]
        found = compare(*sides)
        assert not found["answered"]
        assert "calls" not in found
        (line,) = found["refused"]
        assert line.startswith(f"{name}: ")
        for accepted in (name, name.partition(".")[0], "all"):
            answered = compare(*sides, accepted=[accepted])
            assert answered["answered"]
            assert answered["differences"] == [line]
            assert len(answered["calls"]) == 1
        assert not compare(*sides, accepted=[name[:-1], "state", "software.torch"])["answered"]

    def test_runs_of_one_side_that_differ_are_refused_as_well(self):
        one = [run(1, [measured()]), run(2, [measured(seed=1)], software={"numpy": "2.3.0"})]
        found = compare(one, [run(3, [measured(seed=2)])])
        assert [line.partition(":")[0] for line in found["refused"]] == ["software.numpy"]

    def test_clocks_may_differ_a_little(self):
        def clocked(number: int, hertz: float) -> list[Measured]:
            return [run(number, [measured(seed=number)], state={"effective_clock_hz": hertz})]

        assert compare(clocked(1, 3.0e9), clocked(2, 3.0e9 * (1 - 0.9 * environment.CLOCK_FRAC)))["answered"]
        found = compare(clocked(1, 3.0e9), clocked(2, 3.0e9 * (1 - 1.1 * environment.CLOCK_FRAC)))
        assert found["refused"][0].startswith("state.effective_clock_hz: 3.00 GHz")

    def test_threads_and_versions_of_what_ran_count(self):
        one, other = run(1, [measured()]), run(2, [measured(threads=4, version="2.3.0", seed=1)])
        found = compare([one], [other])
        assert [line.partition(":")[0] for line in found["refused"]] == ["backends", "threads"]
        assert len(compare([one], [other], accepted=["threads", "backends"])["calls"]) == 1

    def test_a_run_is_not_compared_with_itself(self):
        one = run(1, [measured()])
        with pytest.raises(BadRequest, match="both sides"):
            compare([one], [one])


class TestHolm:
    def test_as_r_corrects(self):
        """R: p.adjust(c(0.01, 0.02, 0.03, 0.005), "holm")."""
        assert significance.holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
        assert significance.holm([]) == []
        assert significance.holm([0.9, 0.8]) == [1.0, 1.0]

    def test_ranks_as_r_tests_them(self):
        """R: wilcox.test(extra ~ group, data = sleep, exact = FALSE): W = 25.5, p = 0.06933."""
        one = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
        other = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
        assert significance.rank_p(one, other) == pytest.approx(0.06933, abs=5e-6)
        assert significance.rank_p([1.0, 1.0], [1.0, 1.0]) == 1.0

    def test_cliffs_delta_by_counting(self):
        random = np.random.default_rng(3)
        one, other = random.integers(0, 9, 20), random.integers(0, 9, 25)
        counted = sum((b > a) - (b < a) for a in one.tolist() for b in other.tolist()) / 500
        assert significance.cliffs_delta(list(one), list(other)) == pytest.approx(counted)
        assert significance.cliffs_delta([1, 2], [3, 4]) == 1.0


class TestStability:
    """The seed's bar: with 30 runs a shift of 5% is found more than 95 times in 100, identical distributions at most 5 times."""

    def shifted(self, shift: float, trials: int, seed: int) -> float:
        """The share of trials in which one subject of 30 runs each is called unstable; runs scatter by 5%."""
        random = np.random.default_rng(seed)
        one, other = random.normal(1.0, 0.05, (trials, 30)), random.normal(1.0 + shift, 0.05, (trials, 30))
        return float(
            np.mean(
                [stability("time", {"s": pair}).unstable for pair in zip(one.tolist(), other.tolist(), strict=True)]
            )
        )

    def test_a_shift_of_a_twentieth_is_found(self):
        assert self.shifted(0.05, 2000, seed=1) > 0.95

    def test_nothing_is_found_where_nothing_is(self):
        assert self.shifted(0.0, 4000, seed=2) <= 0.05

    def test_among_many_subjects_any_false_one_is_as_rare(self):
        random = np.random.default_rng(4)
        wrong = 0
        for _ in range(100):
            values = {str(n): tuple(random.normal(1.0, 0.05, (2, 30)).tolist()) for n in range(30)}
            wrong += stability("time", values).unstable > 0
        assert wrong <= 11  # 5 expected; more than 11 have a chance of one in 200

    def test_an_effect_has_a_size_and_a_direction(self):
        made = stability("time", {"up": (list(range(10)), list(range(20, 30))), "same": ([1.0] * 10, [1.0] * 10)})
        up, same = made.subjects
        assert (up.effect, up.size, up.unstable) == (1.0, "large", True)
        assert (same.effect, same.p_value, same.unstable) == (0.0, 1.0, False)
        assert (made.unstable, made.instability_frac) == (1, 0.5)

    def test_too_few_runs_are_refused(self):
        with pytest.raises(BadRequest, match="p has 3 runs"):
            stability("time", {"p": ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0])})
        with pytest.raises(BadRequest, match="no number"):
            stability("time", {"p": ([1.0, 2.0, 3.0, float("nan")], [1.0, 2.0, 3.0, 4.0])})
