"""A pipeline of stages that hand micro-batches on, with transfers that hold the stages up or run beside their work.

Transfers are "blocking" where sending and receiving keep both stages from computing, as kernels of one stream on either side
do, and "non-blocking" where a link does it beside them and what arrives waits in a buffer (EnergonAI, arXiv:2209.02341,
non-blocking pipeline parallelism). With equal micro-batches, K stages of t seconds and transfers of c seconds

    blocking        one micro-batch every t + 2 c  (t + c with two stages, each of which has one neighbour)
    non-blocking    one micro-batch every max(t, c)

and without transfers the share of time that a stage idles is (K - 1) / (M + K - 1) for M micro-batches (GPipe,
arXiv:1811.06965, section 2.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.schedules.timetable import Task, list_schedule

SENDS = ("blocking", "non-blocking")


class Pipeline(NamedTuple):
    """When each stage computed each micro-batch [stages, micro-batches], seconds."""

    start_s: Array
    end_s: Array

    @property
    def total_s(self) -> float:
        """Seconds from the start of the first stage to the end of the last."""
        return float(self.end_s.max())

    @property
    def bubble_frac(self) -> float:
        """The share of the stages' time in which they do not compute."""
        return 1.0 - float((self.end_s - self.start_s).sum()) / (len(self.end_s) * self.total_s)

    @property
    def interval_s(self) -> float:
        """Mean seconds between the ends of neighbouring micro-batches, the filling of the pipeline left out."""
        done = self.end_s[-1]
        return float(done[-1] - done[0]) / (len(done) - 1) if len(done) > 1 else self.total_s


def pipeline(compute_s: npt.ArrayLike, send_s: npt.ArrayLike, sends: str = "non-blocking") -> Pipeline:
    """The schedule of micro-batches that are all there from the start.

    compute_s [stages, micro-batches]; send_s: of the hand-over behind each stage but the last, one number, or
    [stages - 1, micro-batches].
    """
    compute = np.asarray(compute_s, dtype=float)
    if compute.ndim != 2 or not compute.size:
        raise BadRequest("a pipeline needs seconds for each stage and micro-batch")
    if sends not in SENDS:
        raise BadRequest(f"transfers are {' or '.join(SENDS)}, not {sends[:40]!r}")
    stages, batches = compute.shape
    moved = np.broadcast_to(np.asarray(send_s, dtype=float), (stages - 1, batches))
    timetable = list_schedule(list(_tasks(compute, moved, sends == "blocking")))
    # Tasks stand micro-batch by micro-batch: the stages with the hand-overs between them.
    row = np.arange(batches)[None, :] * (2 * stages - 1) + 2 * np.arange(stages)[:, None]
    return Pipeline(timetable.start_s[row], timetable.end_s[row])


def _tasks(compute: Array, moved: Array, blocking: bool) -> Iterator[Task]:
    stages, batches = compute.shape
    width = 2 * stages - 1
    for batch in range(batches):
        for stage in range(stages):
            index = batch * width + 2 * stage
            earlier = index - width  # the same stage, one micro-batch before
            done = (index - 1,) if stage else ()
            # A stage that has to hand over does so before it computes anew.
            handed = (earlier + 1,) if blocking and stage + 1 < stages else (earlier,)
            yield Task(
                name=f"stage {stage}, micro-batch {batch}",
                duration_s=float(compute[stage, batch]),
                takes=(f"stage {stage}",),
                after=(*done, *(handed if batch else ())),
                rank=float(batch),
            )
            if stage + 1 < stages:
                both = (f"stage {stage}", f"stage {stage + 1}")
                # What the next stage received before is on its way on when it receives again.
                free = (earlier + 1, earlier + 3 if stage + 2 < stages else earlier + 2) if blocking else (earlier + 1,)
                yield Task(
                    name=f"hand-over {stage}, micro-batch {batch}",
                    duration_s=float(moved[stage, batch]),
                    takes=both if blocking else (f"link {stage}",),
                    after=(index, *(free if batch else ())),
                    rank=float(batch),
                )


def bubble_frac(stages: int, batches: int) -> float:
    """The idle share of a pipeline of equal stages without transfers: (K - 1) / (M + K - 1).

    >>> round(bubble_frac(8, 32), 3)
    0.179
    """
    return (stages - 1) / (batches + stages - 1)
