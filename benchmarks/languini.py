"""How well training steps are predicted that the Languini Kitchen measured on five GPUs.

python benchmarks/languini.py TABLES

Prints, by device: the mean error of the fit, of models left out, of batches above 16 by a fit on those up to 16, and how many of
the steps that ran out of memory, and of those that ran, are told so; the last two also for models left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gemmstone.calibrate import languini
from gemmstone.calibrate.languini import Step
from gemmstone.core.errors import GemmstoneError
from gemmstone.core.training import TrainingFit

TABLE = "training_languini_single_gpu.csv"
MAPE_BAR, LARGER_BAR, MEMORY_BAR = 0.08, 0.25, 0.90


def told(steps: Sequence[Step], fit: TrainingFit) -> tuple[int, int, int, int]:
    """Steps that failed and were predicted to, that failed, that ran and were predicted to, that ran."""
    failed = [step for step in steps if step.out_of_memory]
    ran = [step for step in steps if not step.out_of_memory]
    right = sum(languini.runs_out(step, fit) for step in failed)
    kept = sum(not languini.runs_out(step, fit) for step in ran)
    return right, len(failed), kept, len(ran)


def told_held_out(steps: Sequence[Step], fit: TrainingFit) -> tuple[int, int, int, int]:
    """The same, each model by the memory of the device's other models."""
    at_limit = languini.limits(steps, fit.device)
    sums = (0, 0, 0, 0)
    for config in sorted({step.config for step in at_limit}):
        others = [step for step in at_limit if step.config != config]
        one = languini.with_memory(fit, languini.fit_memory(others, fit.device))
        counted = told([step for step in steps if step.config == config], one)
        sums = tuple(a + b for a, b in zip(sums, counted, strict=True))  # type: ignore[assignment]
    return sums


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        steps, rejected = languini.read(Path(arguments[0]) / TABLE)
    except GemmstoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{len(steps)} steps of {TABLE}, {len(rejected)} rows left out")
    print("device           steps  fit    model  batch  out of memory told  ran told    of models left out")
    fits = languini.fit_all(steps)
    right = failed = 0
    for fit in fits:
        mine = [step for step in steps if step.device == fit.device]
        hits, misses, kept, ran = told(mine, fit)
        right, failed = right + hits, failed + misses
        out = told_held_out(mine, fit)
        held = languini.mape(languini.held_out(languini.measured(steps, fit.device), fit.device))
        print(
            f"{fit.device:15s} {fit.rows:6d} {fit.mape:6.1%} {held:6.1%} {fit.larger_mape:6.1%}"
            f"  {hits:3d} of {misses:3d}          {kept:3d} of {ran:3d}  {out[0]:3d} of {out[1]:3d}, {out[2]:3d} of {out[3]:3d}"
        )
    good = all(fit.mape <= MAPE_BAR and fit.larger_mape <= LARGER_BAR for fit in fits) and right >= MEMORY_BAR * failed
    print(f"out of memory told: {right} of {failed}. Bars {'met' if good else 'MISSED'}: 8%, 25%, 90%")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
