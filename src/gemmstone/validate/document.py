"""The document of `gemmstone validate`: errors by group, what is furthest off, what has no answer, which bounds are broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import unknown
from gemmstone.simulate.scenario import check_fidelity
from gemmstone.validate import bounds, facts
from gemmstone.validate.checks import Check, checks
from gemmstone.validate.groups import FACETS, USUAL, groups, refusals, worst
from gemmstone.validate.held_out import engines_held_out, held_out

MOST_WORST = 1000


def document(
    *,
    truth: str | None = None,
    by: Sequence[str] = (),
    worst_count: int = 10,
    fidelity: str = "calibrated",
) -> dict[str, Any]:
    """Errors on the packaged reference cases, or on the tables of the folder `truth`, by each grouping of `by`.

    `broken` holds the sentences about bounds that are exceeded; bounds are for the packaged cases at the usual fidelity.
    Raises BadRequest for an unknown grouping, a folder without cases and a count of worst rows that nobody reads.
    """
    check_fidelity(fidelity)
    for grouping in by:
        for facet in grouping.split(","):
            if facet not in FACETS:
                raise unknown("group", facet, FACETS)
    if not 0 <= worst_count <= MOST_WORST:
        raise BadRequest(f"--worst must lie between 0 and {MOST_WORST}, not {worst_count}")
    cases = facts.packaged() if truth is None else facts.folder(truth)
    found = checks(cases, fidelity)
    bounded = truth is None and fidelity == "calibrated"
    return {
        "cases": "the packaged reference cases" if truth is None else truth,
        "fidelity": fidelity,
        "rows": len(cases),
        "metrics": _metrics(found),
        "groups": [asdict(group) for grouping in by or USUAL for group in groups(found, grouping)],
        "worst": [_row(check) for check in worst(found, worst_count)],
        "unanswered": [
            {"n": len(members), "reason": reason, "id": members[0].fact.id}
            for reason, members in refusals(found).items()
        ],
        "held_out": [asdict(family) for family in held_out()],
        "engines_held_out": [asdict(engine) for engine in engines_held_out()],
        "bounds": len(bounds.recorded()) if bounded else 0,
        "broken": bounds.exceeded(found, bounds.recorded()) if bounded else [],
    }


def _metrics(found: Sequence[Check]) -> dict[str, Any]:
    """Errors of everything and medians by kind, as numbers by name: what `gemmstone compare` shows of two versions."""
    (whole,) = groups(found, "")
    kinds = {group.name: group.median_error for group in groups(found, "kind,metric")}
    return {
        "median_error_frac": whole.median_error,
        "mean_error_frac": whole.mean_error,
        "band_coverage_frac": whole.band_coverage,
        "median_error_frac_of": kinds,
    }


def _row(check: Check) -> dict[str, Any]:
    return {
        "id": check.fact.id,
        "kind": check.fact.kind,
        "metric": check.metric,
        "measured": check.measured,
        "predicted": check.value,
        "low": check.low,
        "high": check.high,
        "ratio": check.ratio,
        "device": check.device,
        "engine": check.engine,
        "model": check.model,
        "precision": check.precision,
        "fitted": check.fact.fitted,
        "source": check.fact.source,
    }
