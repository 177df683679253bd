"""Measured calls of kernels with the row each stands in, whatever file they came from.

A user's own file has a row per call and says in columns what was called: see measure.calls, and docs/howto/calibrate.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gemmstone.calibrate.fit import Groups, Index, Sample, group_ids, take
from gemmstone.core.deployment import Array
from gemmstone.core.work import Op
from gemmstone.measure.calls import CALLS

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Calls of one kernel: an Op whose numbers are arrays [points], seconds as written (NaN where that is no number).

    `rows` are the rows of the file as a person counts them, `shape` the columns that say what was called. Calls with the
    same shape are repeats of one.
    """

    family: str
    device: str
    engine: str
    version: str
    variant: str
    kernel: str
    op: Op
    seconds: Array
    rows: Rows
    shape: Mapping[str, Array]
    file: str
    sha256: str

    @property
    def title(self) -> str:
        """What was measured, in words for a message."""
        return " ".join(
            part for part in (self.family, self.variant, "on", self.device, self.engine, self.kernel) if part
        )

    def at(self, index: Index) -> Measurements:
        """Some of these calls."""
        return replace(
            self,
            op=take(self.op, index),
            seconds=self.seconds[index],
            rows=self.rows[index],
            shape={name: values[index] for name, values in self.shape.items()},
        )

    def call(self, point: int) -> str:
        """One call in words: its shape and time."""
        shape = ", ".join(f"{name} {values[point]:g}" for name, values in self.shape.items())
        return f"{shape}: {self.seconds[point]:.4g} s"


def columns(family: str, shapes: Sequence[Mapping[str, float]]) -> dict[str, Array]:
    """The numbers of some calls of a family as arrays [calls], defaults filled in."""
    known = CALLS[family]
    return {
        name: np.array([float(shape.get(name, known.defaults.get(name, np.nan))) for shape in shapes])
        for name in (*known.columns, *known.defaults)
    }


def sample(found: Measurements) -> Sample:
    """What is fitted: the calls of one kernel, with the groups that are held out together."""
    columns = [found.shape[name] for name in CALLS[found.family].groups]
    return Sample(
        device=found.device,
        engine=found.engine,
        variant=found.variant,
        kernel=found.kernel or found.op.routine,
        op=found.op,
        seconds=found.seconds,
        groups=_groups(columns, found),
        inputs={
            "table": found.file,
            "version": f"{found.engine} {found.version}".strip(),
            "sha256": found.sha256,
        },
    )


def _groups(columns: Sequence[Array], found: Measurements) -> Groups:
    """Groups by the family's columns; by single shapes where that leaves too few to hold some out."""
    groups = group_ids(*columns)
    return groups if np.unique(groups).size >= 3 else group_ids(*found.shape.values())
