"""Measured times of kernels, as they are looked up: no coefficients, the calls themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gemmstone.core.deployment import Array
from gemmstone.core.work import Op


@dataclass(frozen=True, kw_only=True)
class MeasuredKernel:
    """Calls of one kernel on one device: an Op whose numbers are arrays [points], and their seconds.

    error_along and error_across: relative errors (standard deviations of the log) of interpolating between its points along
    the last number of the shape, and between whole shapes, each found by leaving points out. 0 where there were too few
    points to tell.
    """

    family: str
    device: str
    engine: str
    version: str
    variant: str
    kernel: str
    op: Op
    seconds: Array
    error_along: float = 0.0
    error_across: float = 0.0
    inputs: Mapping[str, str] = field(default_factory=dict)
