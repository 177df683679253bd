"""Timetables whose arithmetic a reader does in the head, and the pipelines and nano-batches that are made of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.schedules import nano_batches
from gemmstone.simulate.schedules.pipeline import bubble_frac, pipeline
from gemmstone.simulate.schedules.timetable import Task, busy_s, list_schedule, longest_after


def task(seconds: float, *takes: str, after: tuple[int, ...] = (), rank: float = 0.0, **shares: float) -> Task:
    return Task(name="t", duration_s=seconds, takes=takes, after=after, rank=rank, shares=shares)


class TestTimetable:
    def test_tasks_of_one_resource_follow_each_other_by_rank(self) -> None:
        found = list_schedule([task(2, "a", rank=1), task(1, "a"), task(4, "b")])
        assert found.start_s.tolist() == [1, 0, 0]
        assert found.end_s.tolist() == [3, 1, 4]
        assert found.total_s == 4

    def test_a_task_waits_for_its_predecessors(self) -> None:
        found = list_schedule([task(2, "a"), task(1, "b", after=(0,)), task(1, "c", after=(0, 1))])
        assert found.start_s.tolist() == [0, 2, 3]

    def test_a_task_with_two_resources_waits_for_both(self) -> None:
        found = list_schedule([task(2, "a"), task(3, "b"), task(1, "a", "b", rank=1)])
        assert found.start_s.tolist() == [0, 0, 3]

    def test_who_shares_more_than_there_is_slows_down(self) -> None:
        """Wants of 0.6 and 0.6 get a half each: 6 s of work at 5/6 of the speed."""
        found = list_schedule([task(6, memory=0.6), task(6, memory=0.6)])
        assert found.end_s == pytest.approx([7.2, 7.2])

    def test_who_wants_little_is_not_slowed_by_who_holds_all(self) -> None:
        """A reader of 8 s at full speed gets what a product that needs a quarter leaves: 3 of 4 s of it, then all."""
        found = list_schedule([task(4, "compute", memory=0.25), task(8, "memory")])
        assert found.end_s == pytest.approx([4, 4 + (8 - 3)])

    def test_nothing_to_do(self) -> None:
        assert list_schedule([]).total_s == 0.0
        assert list_schedule([task(0, "a"), task(0, "a", after=(0,))]).total_s == 0.0

    @pytest.mark.parametrize(
        ("tasks", "word"),
        [
            ([task(float("nan"))], "cannot take"),
            ([task(-1)], "cannot take"),
            ([task(1, after=(3,))], "which there is not"),
            ([task(1, after=(1,)), task(1, after=(0,))], "circle"),
            ([task(1, memory=1.5)], "0 to 1"),
        ],
    )
    def test_what_cannot_be_is_refused(self, tasks: list[Task], word: str) -> None:
        with pytest.raises(BadRequest, match=word):
            list_schedule(tasks)

    def test_longest_way(self) -> None:
        tasks = [task(1), task(5, after=(0,)), task(2, after=(0,)), task(1, after=(2,))]
        assert longest_after(tasks).tolist() == [6, 5, 3, 1]
        with pytest.raises(BadRequest, match="behind"):
            longest_after([task(1, after=(1,)), task(1)])

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(st.floats(0.01, 10), st.sampled_from("abc"), st.floats(0, 1), st.lists(st.integers(0, 30))),
            max_size=30,
        )
    )
    def test_no_schedule_is_shorter_than_its_busiest_resource_or_its_longest_way(self, drawn: list) -> None:
        tasks = [
            task(seconds, takes, after=tuple({a for a in after if a < index}), memory=share)
            for index, (seconds, takes, share, after) in enumerate(drawn)
        ]
        found = list_schedule(tasks)
        least = max((busy_s(tasks, name) for name in ("a", "b", "c", "memory")), default=0.0)
        assert found.total_s >= least * (1 - 1e-9)
        assert found.total_s >= float(longest_after(tasks).max(initial=0.0)) * (1 - 1e-9)
        for index, one in enumerate(tasks):
            assert found.end_s[index] - found.start_s[index] >= one.duration_s * (1 - 1e-9)
            assert all(found.start_s[index] >= found.end_s[earlier] - 1e-9 for earlier in one.after)
        for name in "abc":
            held = sorted((found.start_s[i], found.end_s[i]) for i, one in enumerate(tasks) if name in one.takes)
            assert all(later[0] >= earlier[1] - 1e-9 for earlier, later in itertools.pairwise(held))


class TestPipeline:
    @pytest.mark.parametrize(("stages", "batches"), [(1, 1), (1, 7), (2, 5), (4, 4), (8, 32)])
    @pytest.mark.parametrize("sends", ["blocking", "non-blocking"])
    def test_bubble_of_equal_stages(self, stages: int, batches: int, sends: str) -> None:
        found = pipeline(np.full((stages, batches), 0.3), 0.0, sends)
        assert found.bubble_frac == pytest.approx(bubble_frac(stages, batches), abs=1e-12)
        assert found.total_s == pytest.approx(0.3 * (stages + batches - 1))

    def test_two_stages_by_hand(self) -> None:
        """Compute 10, send 2: the first stage starts anew at 12 where it has to hand over itself, at 10 where it has not."""
        blocking, beside = (pipeline(np.full((2, 3), 10.0), 2.0, way) for way in ("blocking", "non-blocking"))
        assert blocking.start_s.tolist() == [[0, 12, 24], [12, 24, 36]]
        assert beside.start_s.tolist() == [[0, 10, 20], [12, 22, 32]]

    @pytest.mark.parametrize(("stages", "blocked"), [(2, 1.1), (3, 1.2), (6, 1.2)])
    def test_pace(self, stages: int, blocked: float) -> None:
        compute = np.ones((stages, 200))
        assert pipeline(compute, 0.1, "blocking").interval_s == pytest.approx(blocked)
        assert pipeline(compute, 0.1).interval_s == pytest.approx(1.0)
        assert pipeline(compute, 1.5).interval_s == pytest.approx(1.5)  # the link's pace

    def test_the_slowest_stage_decides(self) -> None:
        compute = np.ones((3, 100)) * np.array([[1.0], [2.0], [0.5]])
        assert pipeline(compute, 0.0).interval_s == pytest.approx(2.0)

    def test_refusals(self) -> None:
        with pytest.raises(BadRequest, match="seconds for each stage"):
            pipeline([], 0.0)
        with pytest.raises(BadRequest, match="blocking or non-blocking"):
            pipeline([[1.0]], 0.0, "later")


def operation(seconds: float, resource: str) -> nano_batches.Operation:
    return nano_batches.Operation(name=resource, time_s=seconds, resource=resource, shares={})


def test_two_parts_of_two_resources_by_hand() -> None:
    """Part A computes 1 s and reads 1 s, part B behind it: 3 s for one layer, and one more second a resource for each layer."""
    layer = (operation(1.0, "compute"), operation(1.0, "memory"))
    for layers in (1, 2, 5):
        found = nano_batches.schedule([(layer,) * layers] * 2)
        assert found.total_s == pytest.approx(2 * layers + 1)
        assert found.bound_s == pytest.approx(2 * layers)
    assert nano_batches.schedule([(layer,) * 5]).total_s == pytest.approx(10.0)


def test_parts_that_cannot_be() -> None:
    with pytest.raises(BadRequest, match="1 to 16 parts"):
        nano_batches.schedule([])
