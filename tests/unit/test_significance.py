"""Whether groups of runs differ: fixtures with results that textbooks and other programs print."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from gemmstone.compare import significance
from gemmstone.core.errors import BadRequest, MissingBackend

# "sleep" of R: extra hours of sleep with two drugs (Student 1908). t.test(extra ~ group): t = -1.8608, df = 17.776, p = 0.07939
SLEEP = {
    "drug 1": [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    "drug 2": [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
}
# "PlantGrowth" of R: dried weights of plants (Dobson 1983). aov(weight ~ group): F = 4.846 on 2 and 27, p = 0.0159
PLANTS = {
    "control": [4.17, 5.58, 5.18, 6.11, 4.50, 4.61, 5.17, 4.53, 5.33, 5.14],
    "treatment 1": [4.81, 4.17, 4.41, 3.59, 5.87, 3.83, 6.03, 4.89, 4.32, 4.69],
    "treatment 2": [6.31, 5.12, 5.54, 5.50, 5.37, 5.29, 4.92, 6.15, 5.80, 5.26],
}


def test_welch_as_r_prints_it() -> None:
    found = significance.difference(SLEEP, "h")
    assert found.statistic == pytest.approx(1.8608, abs=5e-5)
    assert found.degrees == pytest.approx(17.776, abs=5e-4)
    assert found.p_value == pytest.approx(0.07939, abs=5e-6)
    assert found.difference == pytest.approx(2.33 - 0.75)
    assert not found.significant
    assert "not significant (p = 0.079)" in found.verdict
    assert "there are 10" in found.verdict


def test_analysis_of_variance_as_r_prints_it() -> None:
    found = significance.variance(PLANTS)
    assert found.statistic == pytest.approx(4.846, abs=5e-4)
    assert found.degrees == (2, 27)
    assert found.p_value == pytest.approx(0.01591, abs=5e-6)
    assert found.explained_frac == pytest.approx(0.2641, abs=5e-5)  # 3.76634 of 3.76634 + 10.49209
    assert ", significant" in found.verdict


def test_p_values_are_scipys() -> None:
    """By its own Student distribution and by hand: t = gap / sqrt(s1^2 / n1 + s2^2 / n2), Welch-Satterthwaite degrees."""
    from scipy import special

    random = np.random.default_rng(1)
    one, other = random.normal(280, 12, 14), random.normal(271, 20, 9)
    found = significance.difference({"fp32": list(one), "mixed": list(other)}, "W")
    parts = np.array([np.var(one, ddof=1) / 14, np.var(other, ddof=1) / 9])
    t = (other.mean() - one.mean()) / np.sqrt(parts.sum())
    degrees = parts.sum() ** 2 / (parts[0] ** 2 / 13 + parts[1] ** 2 / 8)
    assert found.p_value == pytest.approx(special.betainc(degrees / 2, 0.5, degrees / (degrees + t * t)), abs=1e-6)


@pytest.mark.parametrize(("effect", "runs"), [(0.2, 394), (0.5, 64), (0.8, 26)])
def test_runs_that_are_needed_as_cohen_tabulates_them(effect: float, runs: int) -> None:
    """Two-sided, 5%, power 80%: Cohen's table 2.4.1 and G*Power."""
    assert significance.needed(effect, 1.0) == runs


def test_needed_runs_find_the_difference_that_often() -> None:
    """9 W at a standard deviation of 15 W: of ten thousand experiments of that size about 8,000 are significant."""
    runs = significance.needed(9.0, 15.0)
    assert runs == 45
    random = np.random.default_rng(5)
    from scipy import stats

    found = stats.ttest_ind(random.normal(9, 15, (10000, runs)), random.normal(0, 15, (10000, runs)), axis=1).pvalue
    assert np.mean(found <= 0.05) == pytest.approx(0.8, abs=0.015)


def test_chance_is_called_significant_one_time_in_twenty() -> None:
    from scipy import stats

    random = np.random.default_rng(11)
    groups = random.normal(100, 10, (2000, 2, 8))
    share = np.mean(stats.ttest_ind(groups[:, 0], groups[:, 1], axis=1, equal_var=False).pvalue <= significance.ALPHA)
    assert share == pytest.approx(0.05, abs=0.015)
    mine = [significance.difference({"a": list(pair[0]), "b": list(pair[1])}) for pair in groups[:20]]
    assert all(("not significant" in found.verdict) == (found.p_value > 0.05) for found in mine)


def test_the_interval_holds_the_difference_and_narrows_with_runs() -> None:
    random = np.random.default_rng(2)
    widths = []
    for runs in (10, 160):
        found = significance.difference(
            {"fp32": list(random.normal(280, 10, runs)), "mixed": list(random.normal(271, 10, runs))}, "W"
        )
        assert found.low < found.difference < found.high
        assert found.low < -9 < found.high
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.35)


def test_a_large_effect_needs_few_runs_and_says_so() -> None:
    found = significance.difference({"capped": [300.0, 302, 299, 301], "free": [350.0, 352, 349, 351]}, "W")
    assert found.significant
    assert "effect large" in found.verdict
    assert "needs" not in found.verdict
    assert found.needed_runs == 2


@pytest.mark.parametrize(
    ("groups", "complaint"),
    [
        ({"a": [1.0, 2.0]}, "2 groups of runs are compared, not 1"),
        ({"a": [1.0, 2.0], "b": [1.0]}, "b has 1 runs"),
        ({"a": [1.0, 2.0], "b": [1.0, float("nan")]}, "b has a value that is no number"),
        ({"a": [1.0, 1.0], "b": [2.0, 2.0]}, "do not vary"),
    ],
)
def test_groups_that_cannot_be_compared(groups: dict[str, list[float]], complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        significance.difference(groups)


def test_impossible_questions() -> None:
    with pytest.raises(BadRequest, match="two or more groups"):
        significance.variance({"a": [1.0, 2.0]})
    with pytest.raises(BadRequest, match="must be positive"):
        significance.needed(0.0, 1.0)
    assert significance.needed(1e-4, 1.0) is None


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MissingBackend, match="calibrate"):
        significance.needed(1.0, 1.0)
