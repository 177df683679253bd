"""Training in fp32 and bf16 in turn on a machine, and what the tests of significance say of its blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mixed_precision import blocks, rows
from scipy import stats

from gemmstone.compare import significance


@pytest.mark.parametrize("column", ["step_s", "mean_w", "step_j"])
def test_p_values_are_scipys(column: str) -> None:
    groups = blocks(column)
    found = significance.difference(groups)
    assert found.p_value == pytest.approx(
        stats.ttest_ind(groups["bf16"], groups["fp32"], equal_var=False).pvalue, abs=1e-6
    )
    assert significance.variance(groups).p_value == pytest.approx(stats.f_oneway(*groups.values()).pvalue, abs=1e-6)


def test_a_bootstrap_agrees_with_scipys() -> None:
    groups = blocks("step_s")
    found = significance.difference(groups)
    theirs = stats.bootstrap(
        (groups["bf16"], groups["fp32"]),
        lambda a, b, axis: np.mean(a, axis=axis) - np.mean(b, axis=axis),
        method="percentile",
        n_resamples=5000,
        random_state=np.random.default_rng(3),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert found.low == pytest.approx(theirs.low, abs=0.1 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.1 * width)


def test_what_is_not_significant_is_called_so_and_says_how_many_runs_it_needs() -> None:
    found = significance.difference(blocks("mean_w"), "W")
    assert found.p_value > significance.ALPHA
    assert "not significant" in found.verdict
    assert f"needs {found.needed_runs} runs of each" in found.verdict


def test_bf16_takes_less_time_and_with_it_less_energy() -> None:
    time, energy = significance.difference(blocks("step_s"), "s"), significance.difference(blocks("step_j"), "J")
    assert time.significant
    assert time.high < 0
    assert energy.significant
    assert ", significant" in energy.verdict


@pytest.mark.parametrize("scatter_w", [5.0, 15.0, 40.0])
def test_runs_for_nine_watts_find_them_as_often_as_promised(scatter_w: float) -> None:
    """With that many runs chance finds 9 W four times in five; with one fewer it does not promise so."""
    runs = significance.needed(9.0, scatter_w)
    assert runs is not None
    for count, enough in ((runs, True), (runs - 1, False)):
        shift, degrees = 9.0 / scatter_w * math.sqrt(count / 2), 2 * count - 2
        critical = stats.t.ppf(0.975, degrees)
        power = stats.nct.sf(critical, degrees, shift) + stats.nct.cdf(-critical, degrees, shift)
        assert (power >= 0.8) == enough


def test_the_table_is_labelled_as_modelled() -> None:
    assert {(row["meter"], row["source"]) for row in rows()} == {("modelled", "modelled")}
