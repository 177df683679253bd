"""A paper on whether results are stable from one environment to another."""

from __future__ import annotations

import numpy as np

from gemmstone.compare.stability import Pair, stability
from papers.row import Paper, Row

PROJECTS, RUNS = 30, 30


def pair(random: np.random.Generator, shift: float, scatter: float) -> Pair:
    """Runs in two environments, of which the second takes `shift` more."""
    one, other = random.normal(1.0, scatter, RUNS), random.normal(1.0 + shift, scatter, RUNS)
    return one.tolist(), other.tolist()


def share(unstable: int) -> float:
    """The share of projects that is found unstable where so many are shifted by 5% and the others are not."""
    random = np.random.default_rng(7)
    values = {str(n): pair(random, 0.05 if n < unstable else 0.0, 0.03) for n in range(PROJECTS)}
    return stability("made up", values).instability_frac


def found(shift: float, trials: int) -> float:
    """How often one project alone is called unstable; runs scatter by 5%."""
    random = np.random.default_rng(11)
    return float(np.mean([stability("one", {"p": pair(random, shift, 0.05)}).unstable for _ in range(trials)]))


SHARES = (
    ("performs otherwise", "23%", 7, 0.23, "23% of 30 is no whole number: 7 of 30 are 23.3%"),
    ("takes another time", "96.67%", 29, 0.9667, "29 of 30"),
    ("costs otherwise", "100%", 30, 1.0, "30 of 30"),
)
ENVIRONMENTS = Paper(
    seed="env-stability",
    title="The impact of environment configurations on the stability of AI-enabled systems",
    link="30 open-source projects in eight combinations of operating system, Python version and processor; here: "
    "`gemmstone.compare.stability` on made-up runs, 30 of each project in both environments",
    rows=(
        *(
            Row(
                setting=f"Linux against macOS, a project {what}; {unstable} of 30 shifted by 5%, runs scatter by 3%",
                said=said,
                here=lambda unstable=unstable: share(unstable),
                form="{:.2f}%",
                scale=0.01,
                expected=expected,
                within=0.015,
                why="rounded to two digits in print: half a digit is 2%, a project more or fewer 3% and more",
                remark=remark,
            )
            for what, said, unstable, expected, remark in SHARES
        ),
        Row(
            setting="a shift of 5% is found, 30 runs of each that scatter by 5%",
            said="over 95%, our bar",
            here=lambda: found(0.05, 2000),
            form="{:.1f}%",
            scale=0.01,
            low=0.95,
        ),
        Row(
            setting="identical distributions are called unstable",
            said="5% at most, our bar",
            here=lambda: found(0.0, 2000),
            form="{:.1f}%",
            scale=0.01,
            high=0.05,
        ),
    ),
    apart="Its projects were not run again: the shares are its own, and the test finds the projects that were made unstable, all of them and no "
    "other. `gemmstone runs compare` says the share of calls that differ from one environment to another, by metric.",
)
PAPERS = (ENVIRONMENTS,)
