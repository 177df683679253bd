"""Nano-batches on the resources of a device: a schedule of every operation, and the search for the best split.

NanoFlow (arXiv:2408.12757, sections 3 and 4) cuts a batch into parts that go through the layers beside each other, so that
products of one part, cache reads of another and sums of a third overlap. Here each operation of each part in each layer is a
task that holds the resource it is bound by and shares the others as far as it needs them; a part's operations follow each
other, and parts are independent. What the technique `nano-batch` takes as a perfect schedule is the bound

    t >= max over resources of all that the resource has to do

which a schedule approaches from above. A smaller part reads the weights anew, which is in its operations' times. How kernels
that share a device hinder each other beyond that is not modelled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gemmstone.core.deployment import Step
from gemmstone.core.errors import BadRequest
from gemmstone.core.estimate import Estimate
from gemmstone.graph import techniques
from gemmstone.graph.build import LAYERS
from gemmstone.predict.step import RESOURCES, StepTimer
from gemmstone.simulate.schedules.timetable import Task, Timetable, busy_s, list_schedule, longest_after

MOST_PARTS = 16
SPLITS = (  # shares of the batch that the search tries, the whole first
    (1.0,),
    *((share, 1.0 - share) for share in (0.5, 0.4375, 0.375, 0.3125, 0.25)),
    (1 / 3, 1 / 3, 1 / 3),
    (0.25, 0.25, 0.25, 0.25),
)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An operation of one part of a batch in one layer: seconds, what bounds it, and the fraction it needs of the others."""

    name: str
    time_s: float
    resource: str
    shares: dict[str, float]


Layer = tuple[Operation, ...]


class NanoSchedule(NamedTuple):
    """How a batch was cut, which part went first, and when each operation ran. `bound_s`: no schedule of it is shorter."""

    shares: tuple[float, ...]
    order: str
    tasks: tuple[Task, ...]
    timetable: Timetable
    bound_s: float

    @property
    def total_s(self) -> float:
        """Seconds of all layers."""
        return self.timetable.total_s


def layers(timer: StepTimer, step: Step, share: float) -> tuple[Layer, ...]:
    """The operations of a share of a step's batch, layer by layer, as the timer prices them."""
    if not 0 < share <= 1:
        raise BadRequest(f"a nano-batch is a share of the batch from 0 to 1, not {share:g}")
    groups = techniques.built(timer.model, timer.deployment, step.part(1.0 / share))
    found: list[Layer] = []
    for group in groups:
        if group.name in LAYERS:
            made = tuple(filter(None, (_operation(timer.pricing.price(op)) for op in group.ops)))
            found += [made] * round(group.repeats)
    return tuple(found)


def _operation(part: Estimate) -> Operation | None:
    time_s = float(np.ravel(part.time_s)[0])
    if time_s <= 0:
        return None
    needs = {name: float(np.ravel(part.limits[name])[0]) * part.count for name in RESOURCES if name in part.limits}
    resource = max(needs, key=lambda name: needs[name])
    shares = {name: min(need / time_s, 1.0) for name, need in needs.items() if need > 0 and name != resource}
    return Operation(name=part.name, time_s=time_s, resource=resource, shares=shares)


ORDERS = ("first part first", "longest way first")


def schedule(parts: Sequence[tuple[Layer, ...]], shares: Sequence[float] = (), order: str = ORDERS[1]) -> NanoSchedule:
    """A schedule of the parts of a batch, each given layer by layer."""
    if not 1 <= len(parts) <= MOST_PARTS:
        raise BadRequest(f"nano-batches cut a batch into 1 to {MOST_PARTS} parts, not {len(parts)}")
    tasks = list(_tasks(parts))
    if order == ORDERS[1]:
        ways = longest_after(tasks)
        tasks = [replace(task, rank=-float(way)) for task, way in zip(tasks, ways, strict=True)]
    bound_s = max((busy_s(tasks, resource) for resource in RESOURCES), default=0.0)
    return NanoSchedule(tuple(shares), order, tuple(tasks), list_schedule(tasks), bound_s)


def _tasks(parts: Sequence[tuple[Layer, ...]]) -> Iterator[Task]:
    index = 0
    for part, own in enumerate(parts):
        before: tuple[int, ...] = ()
        for number, layer in enumerate(own):
            for operation in layer:
                yield Task(
                    name=f"{operation.name} of layer {number}, part {part}",
                    duration_s=operation.time_s,
                    takes=(operation.resource,),
                    shares=operation.shares,
                    after=before,
                    rank=float(part),
                )
                before = (index,)
                index += 1


def search(timer: StepTimer, step: Step, splits: Sequence[tuple[float, ...]] = SPLITS) -> list[NanoSchedule]:
    """Schedules of all splits of a step's batch in all orders, quickest first."""
    for split in splits:
        if not math.isclose(sum(split), 1.0, rel_tol=1e-9) or min(split) <= 0:
            raise BadRequest(f"the parts of a batch are shares above 0 that sum to 1, not {split}")
    priced = {share: layers(timer, step, share) for split in splits for share in split}
    found = [schedule([priced[share] for share in split], split, order) for split in splits for order in ORDERS]
    return sorted(found, key=lambda made: made.total_s)
