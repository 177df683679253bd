"""Errors of checks by group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gemmstone.validate.checks import Check

MEAN_CAP = 5.0  # a single error counts as at most this in a mean: one broken row must not hide the others
NEVER, FITTED = "never fitted", "fitted"
# What checks are grouped by -> the name of a check's group.
FACETS: Mapping[str, Callable[[Check], str]] = {
    "kind": lambda check: check.fact.kind,
    "metric": lambda check: check.metric,
    "device": lambda check: check.device or "unknown",
    "engine": lambda check: check.engine or "kernels alone",
    "precision": lambda check: check.precision or "the checkpoint's",
    "model": lambda check: check.model or "kernels alone",
    "fitted": lambda check: FITTED if check.fact.fitted else NEVER,
}
# The groupings that are shown unasked; "" is everything together.
USUAL = ("", "fitted", "kind,metric", "device", "engine", "precision")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Measured values with something in common: how many, how many answered, and how wrong the answers are.

    Errors are |predicted / measured - 1|, bias the median of predicted / measured, band_coverage the share of measured values
    inside the predicted 80% band; None where nothing was answered. fitted_frac: share of values that coefficients were
    fitted on.
    """

    by: str
    name: str
    n: int
    answered: int
    median_error: float | None
    mean_error: float | None
    bias: float | None
    band_coverage: float | None
    fitted_frac: float


def groups(checks: Sequence[Check], by: str) -> list[Group]:
    """Checks by one facet, or by several with commas between, in the order of their names; "" for all in one group."""
    facets = [FACETS[facet] for facet in by.split(",")] if by else []
    members: dict[str, list[Check]] = {}
    for check in checks:
        members.setdefault(", ".join(facet(check) for facet in facets) or "all", []).append(check)
    return [_group(by or "all", name, members[name]) for name in sorted(members)]


def _group(by: str, name: str, checks: Sequence[Check]) -> Group:
    answered = [check for check in checks if check.answered]
    errors = np.array([check.error for check in answered])
    return Group(
        by=by,
        name=name,
        n=len(checks),
        answered=len(answered),
        median_error=float(np.median(errors)) if answered else None,
        mean_error=float(np.mean(np.minimum(errors, MEAN_CAP))) if answered else None,
        bias=float(np.median([check.ratio for check in answered])) if answered else None,
        band_coverage=float(np.mean([check.inside for check in answered])) if answered else None,
        fitted_frac=float(np.mean([check.fact.fitted for check in checks])),
    )


def worst(checks: Iterable[Check], count: int) -> list[Check]:
    """The answered checks that are furthest off, by the factor between predicted and measured, furthest first."""
    answered = [check for check in checks if check.answered]
    return sorted(answered, key=lambda check: max(check.ratio, 1.0 / check.ratio), reverse=True)[:count]


def refusals(checks: Iterable[Check]) -> dict[str, list[Check]]:
    """Checks without a prediction by the reason, most frequent first."""
    found: dict[str, list[Check]] = {}
    for check in checks:
        if not check.answered:
            found.setdefault(check.problem, []).append(check)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))
