"""A learned correction of a calibrated kernel form: an ensemble of symmetric trees over features of a shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Residual:
    """log(measured / calibrated) of one fit as a sum of trees, all splits of a level being the same.

    `feature` and `border` [questions] are the questions that trees ask, value > border; `splits` [depth, trees] says which, the
    first being the lowest bit of the leaf that is taken from `leaves` [trees, 2^depth]. low and high [features] are the
    range that was measured; units the compute units that features count waves of blocks by. of: the fingerprint of
    the coefficients that it corrects. error_frac, holdout_mean and holdout_median mean what they do in a Fit.
    """

    device: str
    family: str
    engine: str
    variant: str
    kernel: str
    of: str
    units: float
    feature: npt.NDArray[np.intp]
    border: npt.NDArray[np.float32]
    splits: npt.NDArray[np.intp]
    leaves: npt.NDArray[np.float32]
    low: Array
    high: Array
    error_frac: float
    holdout_mean: float
    holdout_median: float
    points: int
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What names a fit of a device."""
        return self.family, self.engine, self.variant, self.kernel
